"""Load models, tokenizers and configs from a folder or the Hub, and save them; pick devices."""

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import NotFoundError, SuperfilterError, UnreadableFileError, did_you_mean
from .cpu_linear import Undo, use_int8, use_onednn, use_packed
from .unmapped import read_unmapped, weights_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_LIMIT = 1 << 30  # the window of a model that names none
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")


def pick_device(device: str, rank: int | None = None) -> torch.device:
    """Pick a device; `auto` is a GPU where there is one, else the CPU.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        rank: with `auto`, the number of the GPU, modulo their count.

    Raises:
        ValueError: an unknown device, one that is not there, or CUDA in a forked worker.
    """
    selected = _named_device(device, rank)
    if selected.type == "cuda":
        _check_cuda()
    return selected


def _named_device(device: str, rank: int | None) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
        return torch.device("cpu")
    try:
        selected = torch.device(device)
    except RuntimeError as error:
        raise SuperfilterError(
            f"device={device!r} is unknown: give auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if selected.type == "cuda" and not torch.cuda.is_available():
        raise SuperfilterError(
            f"device={device!r}, but this machine or this build of torch has no CUDA: "
            "give auto or cpu"
        )
    if selected.type == "mps" and not torch.backends.mps.is_available():
        raise SuperfilterError(
            f"device={device!r}, but this machine or this build of torch has no GPU of Apple's: "
            "give auto or cpu"
        )
    return selected


def _check_cuda() -> None:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "fork" not in str(error):
            raise
        raise SuperfilterError(
            "this worker was forked from a process that uses CUDA, where CUDA does not work: start "
            "workers afresh, with multiprocess.set_start_method('spawn') before "
            "map(num_proc=...), or score under torchrun"
        ) from error


def pick_dtype(dtype: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """Pick a dtype; `auto` is bfloat16 where the hardware multiplies it natively.

    Natively: CUDA compute capability 8.0 and later; CPUs with avx512_bf16 or amx. Elsewhere `auto`
    is float32.

    Args:
        dtype: as in `ModelSettings`.
        device: where the model will run.
        int8: whether int8 may be asked for.

    Raises:
        ValueError: an unknown dtype, or int8 where it is not done.
    """
    if dtype == "int8":
        _check_int8(device, int8)
        return torch.int8
    if dtype == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        names = ["auto", *DTYPES]
        if int8:
            names.append("int8")
        raise SuperfilterError(f"dtype={dtype!r}: {did_you_mean(dtype, names)}")
    return DTYPES[dtype]


def _check_int8(device: torch.device, int8: bool) -> None:
    if not int8:
        raise SuperfilterError(
            "dtype='int8' is for scores of language models only: give auto, float32 or bfloat16"
        )
    if device.type != "cpu":
        raise SuperfilterError(
            f"dtype='int8' is for CPUs: on {device} give dtype='auto', or give device='cpu'"
        )


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return device.type == "cpu" and bool(native)


@lru_cache(maxsize=8)
def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, once per process; it needs no weights.

    Args:
        model: a local folder or a Hub id.
        revision: a resolved one.

    Raises:
        FileNotFoundError: no tokenizer files; transformers would make an empty tokenizer.
    """
    if Path(model).is_dir():
        revision = None
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    if not tokenizer("a word")["input_ids"]:
        raise NotFoundError(
            f"the model {model!r} comes with no tokenizer: expected tokenizer.json beside its "
            "weights"
        )
    return tokenizer


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device; to CUDA without waiting for host or kernels."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def load_config(model: str, revision: str | None) -> Any:
    """Load the config of a model, which names its kind and window without any weights.

    Args:
        model: a local folder or a Hub id.
        revision: a resolved one; not read for a folder.

    Raises:
        FileNotFoundError: a folder without config.
    """
    folder = Path(model)
    if folder.is_dir():
        revision = None
        if not (folder / "config.json").is_file():
            raise NotFoundError(
                f"the folder {model!r} holds no config.json: it is not a transformers model"
            )
    return AutoConfig.from_pretrained(model, revision=revision)


def hub_revision(revision: str) -> str | None:
    """Return what the Hub knows of a resolved revision: nothing, if it is a folder's digest."""
    return None if revision.startswith("sha256:") else revision


def window_of(config: Any) -> int:
    """Return the longest sequence a model reads; one without learned positions may name none."""
    text = config.get_text_config()
    for key in WINDOW_KEYS:
        window = getattr(text, key, None)
        if window and window > 0:  # XLNet says -1
            return int(window)
    return NO_LIMIT


def length_border(config: Any) -> int | None:
    """Return the length above which a model computes short rows' positions differently, if any.

    `longrope` (Phi-3) chooses its factors by the longest row of a batch: rows of this length and
    shorter must not share a batch with longer ones.
    """
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    by_layer = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in [parameters, *by_layer]:
        if rope.get("rope_type") == "longrope":
            return int(rope["original_max_position_embeddings"])
    return None


def check_trainable(model: str, revision: str | None) -> None:
    """Refuse a model whose weights cannot be trained, by its files and its config alone.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: a quantised or an encoder-decoder model.
    """
    config = load_config(model, revision)
    _check_decoder_only(model, config)
    _check_weight_files(model)
    quantized = getattr(config, "quantization_config", None)
    if quantized is None:
        return
    method = quantized["quant_method"] if isinstance(quantized, dict) else quantized.quant_method
    raise SuperfilterError(
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
    unmapped: bool = False,
) -> Any:
    """Load a language model with its output layer, as transformers runs it.

    Args:
        model: a local folder or a Hub id.
        revision: as the Hub knows it.
        dtype: of the weights; for int8 they are loaded in float32 (see `use_fast_layers`).
        device: where it will run.
        attn_implementation: as in transformers.
        encoder_decoder: load an encoder-decoder model; else a causal one.
        unmapped: keep nothing of the file of weights in memory, see `unmapped`.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: an encoder-decoder model where a causal one is wanted, or no output layer.
    """
    config = load_config(model, revision)
    kind: Any = AutoModelForSeq2SeqLM
    mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if not encoder_decoder:
        _check_decoder_only(model, config)
        kind, mapping = AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        raise SuperfilterError(
            f"{model!r} ({config.model_type}) has no vocabulary head: "
            "it cannot say how likely a word is"
        )
    if dtype == torch.int8:
        dtype = torch.float32
    file = None
    if unmapped:
        file = weights_file(model, revision, config, mapping[type(config)])
        kind = mapping[type(config)] if file else kind
    loaded, missing = _read(kind, model, revision, dtype, attn_implementation, file)
    if missing:
        names = ", ".join(missing[:3]) + " ..." * (len(missing) > 3)
        raise SuperfilterError(
            f"the weights of {model!r} are not those of a language model with a vocabulary head: "
            f"{names} missing; take a model that was saved with its head"
        )
    return loaded.to(device).eval()


def load_body(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
) -> PreTrainedModel:
    """Load the part of any text model that makes hidden states.

    Raises:
        FileNotFoundError: a folder without config or weights.
        ValueError: the weights are not all there.
    """
    config = load_config(model, revision)
    loaded, missing = _read(AutoModel, model, revision, dtype, attn_implementation)
    # Weights that no hidden state of ours goes through.
    unused: tuple[str, ...] = ("pooler.",)
    if config.is_encoder_decoder:
        unused = ("decoder.", "pooler.")
    missing = [key for key in missing if not key.startswith(unused)]
    if missing:
        raise SuperfilterError(
            f"the weights of {model!r} are not all there: {', '.join(missing[:3])} missing"
        )
    loaded.config.use_cache = False
    if config.is_encoder_decoder:
        loaded = loaded.get_encoder()
    body: PreTrainedModel = loaded.to(device).eval()
    return body


def load_classifier_weights(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
) -> Any:
    """Load a sequence-classification model with its head.

    Raises:
        FileNotFoundError: a folder without config or weights.
        SuperfilterError: transformers has no classifier of this kind, or the weights lack its head.
    """
    config = load_config(model, revision)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise SuperfilterError(
            f"{model!r} ({config.model_type}) is of no kind that transformers classifies texts "
            "with; models whose code lies beside their weights are not run"
        )
    loaded, missing = _read(
        AutoModelForSequenceClassification, model, revision, dtype, attn_implementation
    )
    if missing:
        raise SuperfilterError(
            f"the weights of {model!r} lack {', '.join(missing[:3])}: it is no classifier or "
            "reward model; take one that was saved with its head"
        )
    return loaded.to(device).eval()


def _check_decoder_only(model: str, config: Any) -> None:
    if config.is_encoder_decoder:
        raise SuperfilterError(
            f"{model!r} is an encoder-decoder model: perplexity and IFD need a causal language "
            "model; AskLLM takes encoder-decoder models"
        )


def _check_weight_files(model: str) -> None:
    folder = Path(model)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise NotFoundError(
            f"the model folder {model!r} holds no weights: expected model.safetensors"
        )


def _read(
    kind: Any,
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    attn_implementation: str | None,
    file: Path | None = None,
) -> tuple[Any, list[str]]:
    """Read a model by a class of transformers; list the weights it would fill at random."""
    _check_weight_files(model)
    options = {"dtype": dtype, "attn_implementation": attn_implementation}
    try:
        if file:
            loaded, report = read_unmapped(file, kind, load_config(model, revision), **options)
        else:
            loaded, report = kind.from_pretrained(
                model, revision=revision, output_loading_info=True, **options
            )
    except SafetensorError as error:
        raise UnreadableFileError(
            f"the weights of {model!r} cannot be read ({error}): copy or download them again"
        ) from error
    except ImportError as error:  # flash_attention_2 without its package
        raise SuperfilterError(
            f"attn_implementation={attn_implementation!r} does not work here: {error}"
        ) from error
    return loaded, sorted(report["missing_keys"])


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write weights and tokenizer to a folder.

    Raises:
        OSError: they cannot be written, mostly because the disk is full; no folder stays.
    """
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:  # the latter is no OSError, whatever its reason
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(
            f"the weights could not be written to {folder} ({error}): what is finished is safe; "
            "make room and run the same command again"
        ) from error


def use_fast_layers(
    model: torch.nn.Module, dtype: torch.dtype, name: str, *, pack: bool = False
) -> Undo:
    """Exchange layers for faster ones that compute the same: GELU in one kernel, oneDNN, int8.

    Args:
        model: in float32 for int8.
        dtype: the dtype that was picked.
        name: the model's, for messages.
        pack: lay the weights out for products; the model cannot be trained then.

    Returns:
        A function that changes the model back.

    Raises:
        ValueError: int8 where it is not done.
    """
    undo = [_fuse_gelu(model)]
    if dtype == torch.int8:
        undo.append(use_int8(model, name))
    elif pack:
        undo.append(use_packed(model))
    undo.append(use_onednn(model))

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return undo_all


def _fuse_gelu(model: torch.nn.Module) -> Undo:
    """Exchange `gelu_new`, a chain of element-wise operations, for the same in one kernel."""
    chains = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if type(child).__name__ == "NewGELUActivation"
    ]
    for parent, key, _ in chains:
        setattr(parent, key, torch.nn.GELU(approximate="tanh"))

    def undo() -> None:
        for parent, key, child in chains:
            setattr(parent, key, child)

    return undo
