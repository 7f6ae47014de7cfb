"""Write a small GPT-2 folder as GGUF in float32: `python write_gguf.py FOLDER FILE`.

It runs in the environment of the server under test, with `gguf` and numpy alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Read bfloat16 and float32 tensors of a safetensors file, which numpy alone can do."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            halves = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32)
            values = (halves << 16).view(np.float32)
        else:
            values = np.frombuffer(data[begin:end], np.float32)
        tensors[name.removeprefix("transformer.")] = values.reshape(entry["shape"])
    return tensors


def write_model(writer: Any, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(0)  # float32
    writer.add_tensor("token_embd.weight", tensors["wte.weight"])
    writer.add_tensor("output.weight", tensors["wte.weight"].copy())
    writer.add_tensor("position_embd.weight", tensors["wpe.weight"])
    for part in ("weight", "bias"):
        writer.add_tensor(f"output_norm.{part}", tensors[f"ln_f.{part}"])
        for layer in range(config["n_layer"]):
            for theirs, name in LAYER.items():
                values = tensors[f"h.{layer}.{theirs}.{part}"]
                # GPT-2 keeps the matrices of its layers transposed.
                writer.add_tensor(f"blk.{layer}.{name}.{part}", np.ascontiguousarray(values.T))


def write_tokenizer(writer: Any, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    from gguf import TokenType  # not on top: pytest imports this file without gguf

    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)


def main(folder: Path, file: Path) -> None:
    from gguf import GGUFWriter

    config, tokenizer = (
        json.loads((folder / name).read_text("utf-8")) for name in ("config.json", "tokenizer.json")
    )
    writer = GGUFWriter(file, "gpt2")
    write_model(writer, config, read_tensors(folder / "model.safetensors"))
    write_tokenizer(writer, config, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
