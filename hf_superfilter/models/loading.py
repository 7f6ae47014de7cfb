"""Models and tokenizers from a folder or the Hub: which device, which dtype, and clear words where it cannot be."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import did_you_mean
from .cpu_linear import by_onednn, to_int8
from .fork_safety import after_fork

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
            raise ValueError(
                f"device={device!r} is unknown: give auto, cpu, cuda, cuda:1 or mps"
            ) from error
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device={device!r}, but this machine or this build of torch has no CUDA: give auto or cpu"
            )
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
    return torch.device("cpu")


def pick_dtype(dtype: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32.

    Natively: CUDA compute capability 8.0 and later; CPUs with avx512_bf16 or amx.

    Args:
        dtype: as in `ModelSettings`.
        device: where the model will run.
        int8: whether int8 may be asked for.

    Raises:
        ValueError: an unknown dtype, or int8 where it is not done.
    """
    if dtype == "int8":
        if not int8:
            raise ValueError(
                "dtype='int8' is for scores of language models only: give auto, float32 or bfloat16"
            )
        if device.type != "cpu":
            raise ValueError(
                f"dtype='int8' is for CPUs: on {device} give dtype='auto', or give device='cpu'"
            )
        return torch.int8
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ValueError(
                f"dtype={dtype!r}: {did_you_mean(dtype, ('auto', *DTYPES, *['int8'] * int8))}"
            )
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
    tokenizer = AutoTokenizer.from_pretrained(
        model, revision=None if Path(model).is_dir() else revision
    )
    if not tokenizer("a word")["input_ids"]:
        raise FileNotFoundError(
            f"the model {model!r} comes with no tokenizer: expected tokenizer.json beside its weights"
        )
    return tokenizer


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens and uncut."""
    after_fork()
    if not tokenizer.is_fast:
        return (
            tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
            if len(texts)
            else []
        )
    # Without what transformers makes of every text besides: 0.2 s for 1,000 Alpaca rows and IFD instead of 0.38 s.
    engine = tokenizer.backend_tokenizer
    if (
        engine.truncation is not None
    ):  # left over from whoever asked for it in a call of the tokenizer
        engine.no_truncation()
    if engine.padding is not None:
        engine.no_padding()
    return [
        encoding.ids for encoding in engine.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device; to CUDA by a copy for which neither the host nor earlier kernels are waited."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


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
        raise FileNotFoundError(
            f"the folder {model!r} holds no config.json: it is not a transformers model"
        )
    return AutoConfig.from_pretrained(model, revision=None if folder.is_dir() else revision)


def check_trainable(model: str, revision: str | None) -> None:
    """Refuse a model whose weights cannot be trained, by a look at its files and its config alone.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: a quantised or an encoder-decoder model.
    """
    config = _causal(model, load_config(model, revision))
    _check_weights(model)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = (
            quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        )
        raise ValueError(
            f"{model!r} is quantised ({getattr(method, 'value', method)}) and cannot be trained: "
            "name the model that it was made of"
        )


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
        ValueError: an encoder-decoder model where a causal one is wanted, no vocabulary head, or int8 where it
            is not done.
    """
    config = load_config(model, revision)
    if not encoder_decoder:
        _causal(model, config)
    kind: Any = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    if type(config) not in (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    ):
        raise ValueError(
            f"{model!r} ({config.model_type}) has no vocabulary head: it cannot say how likely a word is"
        )
    whole_numbers = dtype == torch.int8
    stored = torch.float32 if whole_numbers else dtype
    loaded, read = _read(kind, model, revision, stored, attn_implementation)
    if read["missing_keys"]:  # transformers would have filled them at random
        missing = sorted(read["missing_keys"])
        raise ValueError(
            f"the weights of {model!r} are not those of a language model with a vocabulary head: "
            f"{', '.join(missing[:3])}{' ...' * (len(missing) > 3)} missing; take a model that was saved with its head"
        )
    _fuse_gelu(loaded)
    if whole_numbers:
        to_int8(loaded, model)
    loaded = loaded.to(device).eval()
    by_onednn(loaded)
    return loaded


def load_body(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
) -> PreTrainedModel:
    """The part of any text model that makes hidden states: an encoder, or a decoder without its head.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: the weights are not all there.
    """
    config = load_config(model, revision)
    loaded, read = _read(AutoModel, model, revision, dtype, attn_implementation)
    unused = (
        ("decoder.", "pooler.") if config.is_encoder_decoder else ("pooler.",)
    )  # in no hidden state of ours
    missing = sorted(key for key in read["missing_keys"] if not key.startswith(unused))
    if missing:  # transformers would have filled them at random
        raise ValueError(
            f"the weights of {model!r} are not all there: {', '.join(missing[:3])} missing"
        )
    _fuse_gelu(loaded)
    loaded.config.use_cache = False
    body = (loaded.get_encoder() if config.is_encoder_decoder else loaded).to(device).eval()
    by_onednn(body)
    return body


def _causal(model: str, config: Any) -> Any:
    if config.is_encoder_decoder:
        raise ValueError(
            f"{model!r} is an encoder-decoder model: perplexity and IFD need a causal language model"
        )
    return config


def _check_weights(model: str) -> None:
    folder = Path(model)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(
            f"the model folder {model!r} holds no weights: expected model.safetensors"
        )


def _read(
    kind: Any, model: str, revision: str | None, dtype: torch.dtype, attn_implementation: str | None
) -> tuple[Any, dict[str, Any]]:
    """A model as a class of transformers reads it, and which weights were missing."""
    _check_weights(model)
    try:
        return kind.from_pretrained(
            model,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise OSError(
            f"the weights of {model!r} cannot be read ({error}): copy or download them again"
        ) from error
    except ImportError as error:  # flash_attention_2 without its package
        raise ValueError(
            f"attn_implementation={attn_implementation!r} does not work here: {error}"
        ) from error


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
