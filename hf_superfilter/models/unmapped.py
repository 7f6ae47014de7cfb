"""Read weights that will be packed, so that nothing of their file stays in memory.

transformers maps the file: its pages count as the process's memory beside what is made of them, 0.5
GB for GPT-2, for as long as one weight is left as it was read. Here each weight is read alone,
converted, and its bytes are forgotten.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_peft_available
from transformers.utils.peft_utils import find_adapter_config_file

# Of a file: the processes of a machine share the pages of a larger one, and may drop them.
LARGEST_BYTES = 2 << 30
# Of glibc's mallopt(3): its options, and the sizes of blocks.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SMALLEST_APART, LARGEST_IN_HEAP = 1 << 17, 32 << 20


def weights_file(model: str, revision: str | None, config: Any, kind: Any) -> Path | None:
    """Find the file that holds all of a model's weights.

    Args:
        model: a local folder or a Hub id.
        revision: as the Hub knows it.
        config: the model's.
        kind: its class, or several.

    Returns:
        None where transformers has more to do than to read one small file.
    """
    is_adapted = is_peft_available() and find_adapter_config_file(model, revision=revision)
    is_quantized = getattr(config, "quantization_config", None) is not None
    # Both are None or missing in transformers 5.0.
    settings = ("transformers_weights", "extra_files")
    elsewhere = any(getattr(config, name, None) for name in settings)
    is_part = getattr(kind, "config_class", None) is not type(config)
    if is_adapted or is_quantized or elsewhere or is_part:
        return None
    try:
        path = cached_file(model, "model.safetensors", revision=revision)
    except OSError:  # sharded, of another format, or not available: transformers says which
        return None
    if path is None or Path(path).stat().st_size > LARGEST_BYTES:
        return None
    return Path(path)


def read_unmapped(file: Path, kind: Any, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Make a model of the weights in a file.

    Args:
        file: see `weights_file`.
        kind: the model's class.
        config: the model's.
        options: as `from_pretrained` takes them.

    Returns:
        The model, and what transformers tells of loading it.
    """
    with safe_open(file, framework="pt", backend="pread") as weights:
        stored = {name: _StoredWeight(weights, name) for name in weights.keys()}  # noqa: SIM118
        loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(
            None, config=config, state_dict=stored, output_loading_info=True, **options
        )
    return loaded


class _StoredWeight:
    """Read a weight where it is asked for, as transformers asks safetensors' slices."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name

    def __getitem__(self, _: Any) -> torch.Tensor:
        weight: torch.Tensor = self._file.get_tensor(self._name)
        return weight


@contextmanager
def blocks_apart() -> Iterator[None]:
    """Take large blocks of memory from the system one by one, in this block only.

    Weights are read, converted and packed: what is freed then leaves no holes among what stays, and
    is the system's again. Blocks up to 32 MB come from one heap before and after, since to map and
    zero the states of each layer anew takes longer than to compute some of them. That is where
    glibc's thresholds end up by themselves; other C libraries have none.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    set_option = ctypes.CDLL(None).mallopt
    set_option(M_MMAP_THRESHOLD, SMALLEST_APART)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        set_option(M_TRIM_THRESHOLD, 2 * LARGEST_IN_HEAP)
