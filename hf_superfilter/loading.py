"""Models and tokenizers from a folder or the Hub: which device, which dtype, and clear words where it cannot be."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

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


def load_config(model: str, revision: str | None) -> Any:
    """The config of a model, which tells its kind and its window without any weights.

    Args:
        model: a local folder or a Hub id.
        revision: a resolved one; the digest of a folder is none that the Hub knows.

    Raises:
        FileNotFoundError: a folder without config.
    """
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the folder {model!r} holds no config.json: it is not a transformers model")
    return AutoConfig.from_pretrained(model, revision=None if folder.is_dir() else revision)


def load_weights(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
    *,
    encoder_decoder: bool = False,
) -> PreTrainedModel:
    """A language model with its vocabulary head, ready to run: a causal one, or an encoder-decoder.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: an encoder-decoder model where a causal one is wanted, or no vocabulary head.
    """
    config, folder = load_config(model, revision), Path(model)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"the model folder {model!r} holds no weights: expected model.safetensors")
    if config.is_encoder_decoder and not encoder_decoder:
        raise ValueError(f"{model!r} is an encoder-decoder model: perplexity and IFD need a causal language model")
    kind: Any = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    if type(config) not in (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING):
        raise ValueError(f"{model!r} ({config.model_type}) has no vocabulary head: it cannot say how likely a word is")
    try:
        loaded, read = kind.from_pretrained(
            model, revision=revision, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
        )
    except SafetensorError as error:
        raise OSError(f"the weights of {model!r} cannot be read ({error}): copy or download them again") from error
    except ImportError as error:  # flash_attention_2 without its package
        raise ValueError(f"attn_implementation={attn_implementation!r} does not work here: {error}") from error
    if read["missing_keys"]:  # transformers would have filled them at random
        missing = sorted(read["missing_keys"])
        raise ValueError(
            f"the weights of {model!r} are not those of a language model with a vocabulary head: "
            f"{', '.join(missing[:3])}{' ...' * (len(missing) > 3)} missing; take a model that was saved with its head"
        )
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
