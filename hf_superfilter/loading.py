"""Models and tokenizers from a folder or the Hub: which device, which dtype, and clear words where it cannot be."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .forks import after_fork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str, rank: int | None = None) -> torch.device:
    """`auto` is CUDA device number `rank` (modulo their count) where there is one, else the CPU.

    Raises:
        ValueError: an unknown device, CUDA where there is none, or in a forked worker.
    """
    chosen = _named_device(device, rank)
    if chosen.type == "cuda":
        try:
            torch.cuda.init()  # at once, in all cases but one
        except RuntimeError as error:
            if "fork" not in str(error):
                raise
            raise ValueError(
                "this worker was forked from a process that uses CUDA, where CUDA does not work: start workers afresh, "
                "with multiprocess.set_start_method('spawn') before map(num_proc=...), or score under torchrun"
            ) from error
    return chosen


def _named_device(device: str, rank: int | None) -> torch.device:
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is unknown: give auto, cpu, cuda, cuda:1 or mps") from error
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device={device!r}, but this machine or this build of torch has no CUDA: give auto or cpu"
            )
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
    return torch.device("cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32.

    Natively: CUDA compute capability 8.0 and later; CPUs with avx512_bf16 or amx.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    native = False
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        native = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


@lru_cache(maxsize=8)
def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model at a resolved revision, loaded once per process; it needs no weights.

    Raises:
        FileNotFoundError: there are no tokenizer files; transformers would make an empty tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, revision=None if Path(model).is_dir() else revision)
    if not tokenizer("a word")["input_ids"]:
        raise FileNotFoundError(
            f"the model {model!r} comes with no tokenizer: expected tokenizer.json beside its weights"
        )
    return tokenizer


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens and uncut; tokenizers refuse an empty list."""
    after_fork()
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []


def check_trainable(model: str, revision: str | None) -> None:
    """Refuse a model whose weights cannot be trained, by a look at its config alone.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: a quantised or an encoder-decoder model.
    """
    quantised = getattr(_config_of(model, revision), "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise ValueError(
            f"{model!r} is quantised ({getattr(method, 'value', method)}) and cannot be trained: "
            "name the model that it was made of"
        )


def _config_of(model: str, revision: str | None) -> Any:
    """A model's config, after a look at whether the folder can be a causal language model's."""
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the folder {model!r} holds no config.json: it is not a transformers model")
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"the model folder {model!r} holds no weights: expected model.safetensors")
    config = AutoConfig.from_pretrained(model, revision=revision)
    if config.is_encoder_decoder:
        raise ValueError(f"{model!r} is an encoder-decoder model: perplexity and IFD need a causal language model")
    return config


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory is full; a CPU says so in a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def load_weights(
    model: str, revision: str | None, dtype: torch.dtype, device: torch.device, attn_implementation: str | None
) -> PreTrainedModel:
    """A causal language model, ready to run.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: an encoder-decoder model.
    """
    _config_of(model, revision)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, revision=revision, dtype=dtype, attn_implementation=attn_implementation
        )
    except SafetensorError as error:
        raise OSError(f"the weights of {model!r} cannot be read ({error}): copy or download them again") from error
    except ImportError as error:  # flash_attention_2 without its package
        raise ValueError(f"attn_implementation={attn_implementation!r} does not work here: {error}") from error
    _fuse_gelu(loaded)
    return loaded.to(device).eval()


def window_of(config: Any) -> int:
    """The longest sequence a model reads; one without learned positions may name no limit."""
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        if getattr(text, key, None):
            return int(getattr(text, key))
    return 1 << 30


def _fuse_gelu(model: torch.nn.Module) -> None:
    """Exchange `gelu_new`, a chain of element-wise operations, for the same function in one kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
