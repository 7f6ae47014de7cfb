"""The settings that every scorer with a language model shares."""

import dataclasses
import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from .contracts import Settings, check_name, pair_of_columns
from .embedded import model_folder, portable_name
from .forks import after_fork
from .processes import device_number
from .revisions import resolve_revision
from .table import is_count
from .wording import did_you_mean

if TYPE_CHECKING:
    from .models import CausalLM

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, repr=False)
class ModelSettings(Settings):
    """A scorer's model and how it is run.

    Args:
        model: a Hub id, a local folder, or `embedded:weak` and `embedded:strong`.
        revision: branch, tag or commit on the Hub; None is `main`. A run records the commit.
        columns: the prompt and the response column. Chats hold lists of equal length in both.
        dtype: `auto` is bfloat16 where the hardware multiplies it natively, else float32.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers.
        max_length: tokens read of a row; None is 1,024, or the model's window where that is shorter.
        batch_tokens: tokens of a batch, for speed and memory; scores do not depend on it.
    """

    model: str
    _: KW_ONLY
    revision: str | None = None
    columns: tuple[str, str] = ("prompt", "response")
    dtype: str = "auto"
    device: str = "auto"
    attn_implementation: str | None = None
    max_length: int | None = None
    batch_tokens: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        if not isinstance(self.model, (str, os.PathLike)) or not str(self.model):
            raise ValueError(f"model={self.model!r}: give a Hub id, a local folder or 'embedded:strong'")
        object.__setattr__(self, "model", portable_name(str(self.model)))
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        check_name(self.name)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: {did_you_mean(str(self.dtype), DTYPES)}")
        for setting in ("revision", "device", "attn_implementation"):
            value = getattr(self, setting)
            if not isinstance(value, str) and (value is not None or setting == "device"):
                raise ValueError(f"{setting}={value!r}: give text")
        for setting in ("max_length", "batch_tokens"):
            value = getattr(self, setting)
            if value is not None and not is_count(value, 2):
                raise ValueError(f"{setting}={value!r}: give a number of tokens, at least 2, or leave it out")

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    def identity(self) -> dict[str, Any]:
        """The model's immutable revision, part of what a cached score depends on."""
        return revision_of(self.model, self.revision)

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """What a run records after scoring: the model, where it ran and in which arithmetic."""
        return self.made_with(self.language_model(rank))

    def made_with(self, loaded: Any) -> dict[str, Any]:
        """The facts about a loaded model, whichever of its kinds, that a run records."""
        import torch

        device = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else str(loaded.device)
        return {
            "model": self.model,
            "revision": loaded.revision,
            "device": device,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def language_model(self, rank: int | None = None) -> "CausalLM":
        """The loaded model, one per process and device whatever the number of scorers that use it."""
        from .models import load_causal_lm

        return load_causal_lm(*self.resolved(rank))

    def resolved(self, rank: int | None = None) -> tuple[str, str, str, str, str | None]:
        """What a loaded model is known by: folder, resolved revision, dtype, device, attention."""
        from .loading import pick_device

        after_fork()
        folder, device = model_folder(self.model), str(pick_device(self.device, device_number(rank)))
        # The resolved revision is part of what is looked up: a folder that changed is loaded again.
        revision = resolve_revision(folder, self.revision)
        return folder, revision, self.dtype, device, self.attn_implementation


def revision_of(model: str, revision: str | None) -> dict[str, str]:
    """The identity of a model, or `not resolved`: loading will say what is wrong, in one place."""
    try:
        return {"revision": resolve_revision(model_folder(model), revision)}
    except FileNotFoundError:
        return {"revision": "not resolved"}


def default_name(name: str) -> Any:
    """A dataclass field for a scorer's name, keyword-only."""
    return dataclasses.field(default=name, kw_only=True)
