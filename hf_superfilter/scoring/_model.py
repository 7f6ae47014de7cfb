"""The settings that every scorer with a language model shares."""

import dataclasses
import logging
import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..base import Settings
from ..checks import check_name, is_count, pair_of_columns
from ..embedded import model_folder, portable_name
from ..errors import did_you_mean
from ..models.fork_safety import after_fork
from ..revisions import resolve_revision
from ..runs.distributed import device_number

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.causal_lm import CausalLM

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
TRIAL_ROWS = 200  # scored in int8 and in float32 before the first chunk of a run
logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ModelSettings(Settings):
    """A scorer's model and how it is run.

    Args:
        model: a Hub id, a local folder, or `embedded:weak` and `embedded:strong`.
        revision: branch, tag or commit on the Hub; None is `main`. A run records the commit.
        columns: the prompt and the response column. Chats hold lists of equal length in both.
        dtype: `auto` is bfloat16 where the hardware multiplies it natively, else float32. `int8` is for CPUs, and the
            fastest there: `score` first scores 200 of the rows in float32 too, and says how far the ranks agree.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers.
        max_length: tokens read of a row; None is 1,024, or the model's window where that is shorter.
        batch_tokens: tokens of a batch, for speed and memory; scores do not depend on it.
    """

    dtypes: ClassVar[tuple[str, ...]] = DTYPES

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
            raise ValueError(
                f"model={self.model!r}: give a Hub id, a local folder or 'embedded:strong'"
            )
        object.__setattr__(self, "model", portable_name(str(self.model)))
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        check_name(self.name)
        if self.dtype not in self.dtypes:
            raise ValueError(f"dtype={self.dtype!r}: {did_you_mean(str(self.dtype), self.dtypes)}")
        for setting in ("revision", "device", "attn_implementation"):
            value = getattr(self, setting)
            if not isinstance(value, str) and (value is not None or setting == "device"):
                raise ValueError(f"{setting}={value!r}: give text")
        for setting in ("max_length", "batch_tokens"):
            value = getattr(self, setting)
            if value is not None and not is_count(value, 2):
                raise ValueError(
                    f"{setting}={value!r}: give a number of tokens, at least 2, or leave it out"
                )

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

        device = (
            torch.cuda.get_device_name(loaded.device)
            if loaded.device.type == "cuda"
            else str(loaded.device)
        )
        return {
            "model": self.model,
            "revision": loaded.revision,
            "device": device,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def self_check(self, rows: "Dataset", rank: int | None = None) -> dict[str, Any]:
        """What int8 does to the ranks of these rows, on 200 of them; of another dtype there is nothing to say.

        Returns:
            `rows` with a score in both, the Spearman correlation of the int8 with the float32 scores, and the share
            of the top 10% in common (nan where there are too few rows).
        """
        if self.dtype != "int8":
            return {}
        from ..metrics.rank_consistency.agreement import rank_consistency
        from ..models.causal_lm import load_causal_lm
        from ..models.next_token import load_answers

        count = min(len(rows), TRIAL_ROWS)
        places = [place * len(rows) // count for place in range(count)]
        batch = rows.with_format(None).select(places)[:]
        scorers: list[Any] = [self, dataclasses.replace(self, dtype="float32")]
        scores = [scorer(batch, rank)[self.main] for scorer in scorers]
        load_answers.cache_clear()  # the float32 weights are not needed again
        load_causal_lm.cache_clear()
        found = rank_consistency(*scores, budgets=(0.10,))
        said = {
            "rows": found["pairs"],
            "spearman": found["spearman"],
            "top_10_percent": found["overlap@0.10"],
        }
        logger.warning(
            "%s in int8 against float32, on %d of the rows: Spearman %.4f, %.2f of the top 10%% in common",
            self.name, *said.values(),
        )  # fmt: skip
        return said

    def language_model(self, rank: int | None = None, model: str | None = None) -> "CausalLM":
        """The loaded model, one per process and device whatever the number of scorers that use it.

        `model` is a local folder to load in its place, run the same way.
        """
        from ..models.causal_lm import load_causal_lm

        return load_causal_lm(*self.resolved(rank, model))

    def resolved(
        self, rank: int | None = None, model: str | None = None
    ) -> tuple[str, str, str, str, str | None]:
        """What a loaded model is known by: folder, resolved revision, dtype, device, attention."""
        from ..models.loading import pick_device

        after_fork()
        folder, device = (
            model or model_folder(self.model),
            str(pick_device(self.device, device_number(rank))),
        )
        # The resolved revision is part of what is looked up: a folder that changed is loaded again.
        revision = resolve_revision(folder, None if model else self.revision)
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
