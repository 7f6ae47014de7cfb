"""What the benchmarks run on: real rows beside the project, and random models of known shapes."""

from itertools import islice
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"


def real_rows(name: str, count: int | None = None) -> list[dict]:
    """The first rows of a zstd-compressed JSON Lines file of `../shared/data`, in file order."""
    from scripts.embedded.corpus import read_rows

    return list(islice(read_rows(SHARED / name), count))


def as_pairs(rows: list[dict]) -> tuple[list[str], list[str]]:
    """Prompts and responses in the authors' form, without a template."""
    prompts = [r["instruction"] + "\n" + (r["input"] + "\n" if r["input"] else "") for r in rows]
    return prompts, [r["output"] for r in rows]


def gpt2_shaped(folder: Path) -> str:
    """A random model of GPT-2's 124M shape with GPT-2's real tokenizer, written into a folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    # Three times as large as initialised, so that losses differ from token to token.
    return written(GPT2LMHeadModel, GPT2Config(), folder, 3.0)


def llama_shaped(folder: Path) -> str:
    """A random model of SmolLM2-135M's shape, but with GPT-2's tokenizer and its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50_257,  # SmolLM2's own is 49,152
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8_192,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        bos_token_id=50_256,
        eos_token_id=50_256,
    )
    return written(LlamaForCausalLM, config, folder, 1.0)


def written(kind: type, config: object, folder: Path, factor: float) -> str:
    """Write a random model, its weights a factor larger than initialised, with a tokenizer."""
    import torch
    from transformers import GPT2TokenizerFast

    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(factor)
    model.save_pretrained(folder)
    GPT2TokenizerFast.from_pretrained(str(SHARED / "gpt2")).save_pretrained(folder)
    return str(folder)
