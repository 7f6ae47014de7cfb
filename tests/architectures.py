"""Every causal architecture of transformers, as a tiny random model, against plain computations.

`python tests/architectures.py` writes the table of docs/models.md, offline, in some minutes.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from datasets import Dataset
from reference import OneQuestionAtATime, OneRowAtATime
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
)

from hf_superfilter import IFD, AskLLM, CausalLM, LearningPercentage, Perplexity, embedded_model
from hf_superfilter.errors import SuperfilterError
from hf_superfilter.scoring.ask_llm import forms_of

WIDTH, HEADS, LAYERS, INNER, HEAD_WIDTH, WINDOW, EXPERTS = 32, 4, 2, 64, 8, 256, 4
MOST_PARAMETERS = 8_000_000
# The first step of Adam moves every weight by the learning rate, whichever sign rounding gives a
# gradient of nearly zero.
TOLERANCES = {"IFD": 1e-4, "Perplexity": 1e-4, "AskLLM": 1e-4, "LearningPercentage": 5e-3}

PATHS = ("split", "padding", "trees", "layers")

# What the fields of configs that say the same thing are set to.
SIZES: dict[str, int] = {}
for value, names in (
    (WIDTH, "hidden_size n_embd d_model dim emb_dim embedding_size word_embed_proj_dim lru_width "
            "attention_hidden_size embedding_dim hidden_dim"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
             "num_encoder_layers num_decoder_layers num_blocks"),
    (HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads index_n_heads "
            "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads"),
    (HEADS // 2, "num_key_value_heads n_head_kv num_kv_heads swa_num_key_value_heads"),
    (INNER, "intermediate_size ffn_dim ffn_hidden_size n_inner decoder_ffn_dim encoder_ffn_dim "
            "feed_forward_size dim_ff moe_intermediate_size expert_intermediate_size "
            "shared_expert_intermediate_size expert_ffn_hidden_size moe_ffn_hidden_size "
            "intermediate_size_mlp shared_intermediate_size mamba_d_ssm"),
    (HEAD_WIDTH, "head_dim dim_head attention_head_size d_kv qk_nope_head_dim v_head_dim "
                 "linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim "
                 "global_head_dim index_head_dim swa_head_dim swa_v_head_dim "
                 "hidden_size_per_layer_input mamba_n_heads mamba_num_heads state_size "
                 "ssm_state_size mamba_d_state"),
    (HEAD_WIDTH // 2, "qk_rope_head_dim rotary_dim time_step_rank mamba_dt_rank conv_kernel "
                      "laurel_rank"),
    (HEAD_WIDTH * 3 // 2, "qk_head_dim"),
    (WIDTH // 2, "q_lora_rank kv_lora_rank chunk_size mamba_chunk_size"),
    (WINDOW, "max_position_embeddings n_positions seq_length max_seq_len n_ctx "
             "max_sequence_length max_source_positions max_target_positions"),
    (EXPERTS, "n_routed_experts num_experts num_local_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts type_vocab_size "
        "n_mamba_heads linear_num_key_heads"),
    (HEADS, "linear_num_value_heads"),
    (1, "n_group topk_group n_shared_experts"),
    (64, "index_topk"),
    (0, "pad_token_id"), (1, "bos_token_id"), (2, "eos_token_id"),
):  # fmt: skip
    SIZES |= dict.fromkeys(names.split(), value)

# What single architectures want besides.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bert": {"is_decoder": True},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "zamba": {"layer_types": ["mamba", "hybrid", "mamba"], "num_hidden_layers": 3},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "attention_head_dim": 16},
    "cohere_compass_text": {"num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "dots3_note_text": {"num_key_value_heads": 4},
    "deepseek_v2": {"topk_method": "greedy"},
    "qwen4_exp_text": {},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
}


def tiny_config(kind: Any, vocabulary: int, **settings: Any) -> Any:
    """A config of a class with small sizes."""
    fields = kind().to_dict()
    parts = {
        name: tiny_config(part, vocabulary)
        for name, part in kind.sub_configs.items()
        if part is not AutoConfig and name in fields
    }
    if "text_config" in parts:
        return kind(**parts, **settings)
    sizes = {
        key: value
        for key, value in SIZES.items()
        if key in fields and not isinstance(fields[key], (bool, list, dict))
    }
    if "vocab_size" in fields:
        sizes["vocab_size"] = vocabulary
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        sizes["num_key_value_heads"] = HEADS  # latent attention has one of each for a head
        if "head_dim" in sizes:
            sizes["head_dim"] = sizes["qk_rope_head_dim"]
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and kinds:
        # One layer of each type, and two at least.
        types = list(dict.fromkeys(kinds))
        sizes["layer_types"] = (types * 2)[: max(2, len(types))]
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if key in sizes:
                sizes[key] = len(sizes["layer_types"])
    return kind(**(sizes | parts | settings | OVERRIDES.get(kind.model_type, {})))


# Encoders that also come as decoders, with `is_decoder` in their config.
DECODERS = (
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
)


def all_kinds() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every architecture, and those that come as encoder and as decoder twice."""
    for kind in dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING):
        yield kind, {}
        if kind.model_type in DECODERS:
            yield kind, {"is_decoder": True}


def without_dropout(config: Any) -> None:
    """Switch dropout off, so that training is the same by any computation."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if ("drop" in key or key.endswith("_pdrop")) and isinstance(value, float):
                setattr(part, key, 0.0)


def tiny_model(
    kind: Any, vocabulary: int, mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING, **settings: Any
) -> Any:
    """A random model of the architecture that transformers maps a config class to."""
    model_class = mapping[kind]
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    config = tiny_config(kind, vocabulary, **settings)
    if not isinstance(config, model_class.config_class):
        config = config.get_text_config()  # as `from_pretrained` does
    without_dropout(config)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in model_class(config).parameters())
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3)  # so that losses differ from token to token
    return model


PROMPTS = ["Say hello to me.\n", "Say hello to me, please.\n", "What is the sea made of?\n"]
RESPONSES = [
    "Hello there, how are you?",
    "Water.",
    "Water and much salt, and it is never still. " * 3,
    "No, I would rather not, thank you.",
]
QUESTION = "Good? {text} Answer:"
TRAINED_ROWS = 8


class Comparison(NamedTuple):
    """How far the scores of an architecture are from the plain ones.

    Attributes:
        name: the model type.
        model_class: the class that transformers loads.
        result: `equal`, `refused: ...`, `cannot be built: ...`, `wrong` or `fails: ...`.
        differences: the largest relative difference of each scorer.
        paths: the fast paths that it runs on.
        seconds: what the self-check took.
    """

    name: str
    model_class: str
    result: str
    differences: Mapping[str, float] = MappingProxyType({})
    paths: tuple[str, ...] = ()
    seconds: float = 0.0


def rows() -> dict[str, list[str]]:
    """Prompts that begin alike, and responses of several lengths."""
    pairs = [(prompt, response) for prompt in PROMPTS for response in RESPONSES]
    return {"prompt": [p for p, _ in pairs], "response": [r for _, r in pairs]}


def save_tiny(kind: Any, folder: Path, **settings: Any) -> str:
    """Save the tiny model of an architecture with the embedded tokenizer; the name of its class."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    model = tiny_model(kind, len(tokenizer), **settings)
    with torch.inference_mode():
        model(input_ids=torch.arange(3, 15)[None])  # what fails by itself is not compared
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return type(model).__name__


def save_seq2seq(kind: Any, folder: Path) -> None:
    """Save a tiny encoder-decoder model with the embedded tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    size = {"src_vocab_size": len(tokenizer), "tgt_vocab_size": len(tokenizer)}
    settings = size if kind.model_type == "fsmt" else {}
    mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    model = tiny_model(kind, len(tokenizer), mapping, decoder_start_token_id=2, **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(kind: Any, folder: Path, *, train: bool = True, **settings: Any) -> Comparison:
    """Score rows with an architecture, and compare with plain computations in float32."""
    name = " ".join([kind.model_type, *settings])
    try:
        model_class = save_tiny(kind, folder, **settings)
    except Exception as error:
        return Comparison(name, "", f"cannot be built: {first_line(error)}")
    try:
        lm = CausalLM(str(folder), dtype="float32")
        differences = dict(score_differences(str(folder), folder if train else None))
    except SuperfilterError as error:
        return Comparison(name, model_class, f"refused: {first_line(error)}")
    except Exception as error:
        return Comparison(name, model_class, f"fails: {first_line(error)}")
    wrong = [key for key, value in differences.items() if not value <= TOLERANCES[key]]
    return Comparison(
        name,
        model_class,
        f"wrong: {', '.join(wrong)}" if wrong else "equal",
        differences,
        lm.fast_paths.paths,
        lm.fast_paths.seconds,
    )


def score_differences(model: str, training: Path | None) -> Iterator[tuple[str, float]]:
    """The largest relative difference of each scorer from plain computations."""
    batch = rows()
    pairs = list(zip(batch["prompt"], batch["response"], strict=True))
    reference = PlainLogits(model, max_length=WINDOW)
    plain = [reference.nats(*pair) for pair in pairs]
    ifd = IFD(model, dtype="float32")(batch)["ifd"]
    yield "IFD", largest_difference(ifd, [nats.ifd for nats in plain])
    ppl = Perplexity(model, dtype="float32")(batch)["ppl"]
    yield "Perplexity", largest_difference(ppl, [math.exp(nats.given) for nats in plain])
    ask = AskLLM(model, QUESTION, dtype="float32")
    questions = OneQuestionAtATime(model)
    tokens = [
        list(ask._local_reader().tokens_of(forms_of(words)).values()) for words in (ask.yes, ask.no)
    ]
    shares = [questions.softmax(QUESTION.format(text=p + r)) for p, r in pairs]
    yes = [float(share[tokens[0]].sum()) for share in shares]
    yield "AskLLM", largest_difference(ask(batch)["ask_llm"], yes)
    if training is not None:
        yield "LearningPercentage", training_difference(model, training / "training", batch)


class PlainLogits(OneRowAtATime):
    """The authors' procedure by a model's logits: some models do not shift labels in their loss."""

    @torch.inference_mode()
    def loss(self, ids: torch.Tensor, start: int) -> float:
        start = max(start, 1)
        if ids.shape[1] <= start:
            return math.nan
        return float(plain_loss(self.model, ids, start))


def training_difference(model: str, folder: Path, batch: dict[str, list[str]]) -> float:
    """The same of the perplexities after an epoch of one step, trained here by a plain loop."""
    some = {key: values[:TRAINED_ROWS] for key, values in batch.items()}
    scorer = LearningPercentage(
        model,
        epochs=1,
        approximate=True,
        batch_rows=TRAINED_ROWS,
        learning_rate=1e-3,
        dtype="float32",
    )
    ours = scorer.prepare(Dataset.from_dict(some), folder)(some)["lp_ppl_1"]
    reference = OneRowAtATime(model, max_length=WINDOW)
    end = torch.tensor([[reference.tokenizer.eos_token_id]])
    windows = []
    for prompt, response in zip(some["prompt"], some["response"], strict=True):
        ids = torch.cat([reference.ids(prompt + response, WINDOW), end], dim=1)
        windows.append((ids, reference.ids(prompt, WINDOW).shape[1]))
    total = sum(ids.shape[1] - start for ids, start in windows)
    trained = reference.model.train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, weight_decay=0.0)
    for ids, start in windows:
        (plain_loss(trained, ids, start) * (ids.shape[1] - start) / total).backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()
    trained.eval()
    with torch.inference_mode():
        plain = [math.exp(plain_loss(trained, ids, start)) for ids, start in windows]
    return largest_difference(ours, plain)


def plain_loss(model: Any, ids: torch.Tensor, start: int) -> torch.Tensor:
    """The mean loss of the tokens from a place on."""
    logits = model(input_ids=ids).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), ids[0, start:])


def largest_difference(values: Any, wanted: Sequence[float]) -> float:
    """The largest relative difference; infinite where one is undefined and the other is not."""
    ours, plain = np.asarray(values, dtype=float), np.asarray(wanted, dtype=float)
    if (np.isnan(ours) != np.isnan(plain)).any():
        return math.inf
    return float(np.nanmax(np.abs(ours / plain - 1)))


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


HEAD = """# Models that work

Any causal language model of transformers that `AutoModelForCausalLM` loads, in a folder or on the
Hub; for `AskLLM` also encoder-decoder models that `AutoModelForSeq2SeqLM` loads.

When a model is loaded, a few short windows of random tokens go through its plain forward pass and
through each fast path:

| path | what it does |
|---|---|
| split | only the scored positions are projected onto the vocabulary |
| padding | windows of several lengths share a batch, without a mask |
| trees | windows share the tokens they begin with |
| layers | GELU in one kernel, linear layers by oneDNN on a CPU |
| packed | weights laid out once for oneDNN; GELU as a part of the product, on a CPU |
| int8 | linear layers in 8-bit integers, with a tolerance of its own, if `dtype="int8"` |

A path that raises or differs is not used for that model, and the log says so; the plain forward
pass, one window at a time, always works. The result is remembered in huggingface_hub's asset cache,
for the model's revision, its config, dtype and device and the versions of torch and transformers.

A model whose earlier tokens see later ones is refused: every token would see the answer. `Embed`
takes such models. A model that was trained as a decoder needs `is_decoder: true` in its
`config.json`.

## The architectures of transformers

Each as a tiny random model, scored by `IFD`, `Perplexity`, `AskLLM` and `LearningPercentage` (one
epoch), against a plain computation in float32, one row at a time. The numbers are the largest
relative differences: equal is at most 1e-4, and 5e-3 for learning percentage, because the first
step of Adam moves every weight by the learning rate, whichever sign rounding gives a gradient near
zero. `without` lists the paths that are not used. Encoders that also come as decoders are listed
twice (`bert` only as one). `python tests/architectures.py` writes this page. Reformer is refused by
`LearningPercentage` alone: its own code trains on windows of one length only.

"""


def table(compared: Sequence[Comparison]) -> str:
    """The table and the counts above it, in Markdown."""
    built = [c for c in compared if not c.result.startswith("cannot be built")]
    equal = [c for c in built if c.result == "equal"]
    refused = [c for c in built if c.result.startswith("refused")]
    checks = [c.seconds for c in equal]
    kinds = len({c.name.split()[0] for c in compared})  # a decoder's name ends in is_decoder
    lines = [
        f"{len(built)} of {len(compared)} configurations, of {kinds} architectures of transformers "
        f"{transformers.__version__}, could be made tiny: "
        f"{len(equal)} equal, {len(refused)} refused in words, "
        f"{len(built) - len(equal) - len(refused)} wrong or failing. The self-check of such a "
        f"model takes {statistics.median(checks):.2f} s (median).",
        "",
        "| architecture | class | result | IFD | Perplexity | AskLLM | LP | without |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for c in sorted(built, key=lambda c: (c.result != "equal", c.name)):
        differences = [
            f"{c.differences[key]:.0e}" if key in c.differences else "" for key in TOLERANCES
        ]
        unused = [path for path in PATHS if c.paths and path not in c.paths]
        result = c.result.replace("|", " ").partition(":")[0]
        cells = [f"`{c.name}`", f"`{c.model_class}`", result, *differences, ", ".join(unused)]
        lines.append(f"| {' | '.join(cells)} |")
    missing = [f"`{c.name}`" for c in compared if c not in built]
    lines += ["", f"Not made tiny here: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Compare all architectures and write docs/models.md."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    compared = []
    for kind, settings in all_kinds():
        with TemporaryDirectory() as folder:
            compared.append(compare(kind, Path(folder) / "model", **settings))
        print(compared[-1].name, compared[-1].result, flush=True)
    page = Path(__file__).parents[1] / "docs" / "models.md"
    page.write_text(HEAD + table(compared), encoding="utf-8")


if __name__ == "__main__":
    main()
