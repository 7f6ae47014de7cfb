"""Share the settings of scorers that run a language model."""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Batch, Columns, Settings
from ..checks import check_name, check_switch, is_count, pair_of_columns, plain_numbers
from ..embedded import model_folder, portable_name
from ..errors import SuperfilterError, did_you_mean
from ..models.first_import import import_transformers
from ..models.fork_safety import after_fork
from ..revisions import resolve_revision
from ..runs.distributed import device_number
from ._rows import takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.causal_lm import CausalLM
    from ..models.served.prompt_logprobs import RemoteLM

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
SERVER_SETTINGS = ("dtype", "device", "attn_implementation", "batch_tokens")
CHECKED_ROWS = 200  # scored in int8 and in float32 before the first chunk of a run
logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ModelSettings(Settings):
    """Name a scorer's model and how it is run.

    Args:
        model: a Hub id, a local folder, or `embedded:weak` and `embedded:strong`.
        revision: branch, tag or commit on the Hub; None is `main`. A run records the commit.
        columns: the prompt and the response column. Chats hold lists of equal length in both.
        dtype: `auto` is bfloat16 where the hardware multiplies it natively, else float32. `int8` is
            for CPUs, and the fastest there: `score` first scores 200 of the rows in float32 too,
            and logs how far the ranks agree.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers.
        max_length: tokens read of a row; None is 1,024, or the model's window where that is
            shorter.
        batch_tokens: tokens of a batch, for speed and memory; scores do not depend on it but for
            rounding, which in bfloat16 is some tenths of a percent.
        name: prefix of the columns, and the scorer's folder in a run.
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
            raise SuperfilterError(
                f"model={self.model!r}: give a Hub id, a local folder or 'embedded:strong'"
            )
        object.__setattr__(self, "model", portable_name(str(self.model)))
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        check_name(self.name)
        if self.dtype not in self.dtypes:
            suggestion = did_you_mean(str(self.dtype), self.dtypes)
            raise SuperfilterError(f"dtype={self.dtype!r}: {suggestion}")
        self._check_texts()
        self._check_counts()

    def _check_texts(self) -> None:
        if not isinstance(self.device, str):
            raise SuperfilterError(f"device={self.device!r}: give text, such as 'cpu'")
        for setting in ("revision", "attn_implementation"):
            value = getattr(self, setting)
            if value is not None and not isinstance(value, str):
                raise SuperfilterError(f"{setting}={value!r}: give text")

    def _check_counts(self) -> None:
        plain_numbers(self, "max_length", "batch_tokens")
        for setting in ("max_length", "batch_tokens"):
            value = getattr(self, setting)
            if value is not None and not is_count(value, 2):
                raise SuperfilterError(
                    f"{setting}={value!r}: give a number of tokens, at least 2, or leave it out"
                )

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    def identity(self) -> dict[str, Any]:
        """Return the model's immutable revision."""
        return revision_of(self.model, self.revision)

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return what the manifest records: model, revision, device, dtype, threads."""
        return self.facts_of_model(self.language_model(rank))

    def facts_of_model(self, loaded: Any) -> dict[str, Any]:
        """Describe a loaded model of any kind for the manifest."""
        import torch

        device = str(loaded.device)
        if loaded.device.type == "cuda":
            device = torch.cuda.get_device_name(loaded.device)
        return {
            "model": self.model,
            "revision": loaded.revision,
            "device": device,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def self_check(self, rows: "Dataset", rank: int | None = None) -> dict[str, Any]:
        """Compare int8 with float32 on 200 of the rows.

        {} for any other dtype.

        Returns:
            `rows`, the pairs compared; `spearman`, the rank correlation of the int8 with the
            float32 scores; `top_10_percent`, the share of the top 10% in common (nan where there
            are too few).
        """
        if self.dtype != "int8":
            return {}
        from ..metrics.rank_consistency.agreement import rank_consistency
        from ..models.causal_lm import load_causal_lm
        from ..models.next_token import load_answers

        count = min(len(rows), CHECKED_ROWS)
        spread = [number * len(rows) // count for number in range(count)]
        batch = rows.with_format(None).select(spread)[:]
        exact: Any = dataclasses.replace(self, dtype="float32")
        scorer: Any = self
        # Float32 first: its weights are not needed again, those in int8 are.
        exact_scores = exact(batch, rank)[self.main]
        load_answers.cache_clear()
        load_causal_lm.cache_clear()
        scores = scorer(batch, rank)[self.main], exact_scores
        agreement = rank_consistency(*scores, budgets=(0.10,))
        facts = {
            "rows": agreement["pairs"],
            "spearman": agreement["spearman"],
            "top_10_percent": agreement["overlap@0.10"],
        }
        logger.warning(
            "%s in int8 against float32, on %d of the rows: "
            "Spearman %.4f, %.2f of the top 10%% in common",
            self.name,
            *facts.values(),
        )
        return facts

    def language_model(self, rank: int | None = None) -> "CausalLM":
        """Load the model, once per process for all its scorers."""
        import_transformers()
        from ..models.causal_lm import load_causal_lm

        return load_causal_lm(*self.resolved(rank))

    def resolved(
        self, rank: int | None = None, model: str | None = None
    ) -> tuple[str, str, str, str, str | None]:
        """Return the key by which a loaded model is looked up.

        Folder, resolved revision, dtype, device, attention. `model` is a local folder to take in
        its place.
        """
        from ..models.loading import pick_device

        after_fork()
        folder = model or model_folder(self.model)
        device = str(pick_device(self.device, device_number(rank)))
        # The resolved revision is part of the key: a folder that changed is loaded again.
        revision = resolve_revision(folder, None if model else self.revision)
        return folder, revision, self.dtype, device, self.attn_implementation


@dataclass(frozen=True, repr=False)
class ServedSettings(ModelSettings):
    """Let the model stand behind a server too.

    Args:
        endpoint: take the losses from a server that tells the log-probabilities of a prompt's
            tokens (vLLM, or completions with `echo` and `logprobs`), such as
            `http://localhost:8000/v1`; `model` is then the name that it knows. Nothing is loaded
            here but the tokenizer. Tested against vLLM's form of answers, not against vLLM itself.
        tokenizer: a Hub id or folder with the served model's tokenizer; None is `model`.
    """

    _: KW_ONLY
    endpoint: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Check the server too."""
        name = self.model
        super().__post_init__()
        if self.endpoint is not None:
            check_server(self, SERVER_SETTINGS)
            object.__setattr__(self, "model", str(name))  # as the server knows it, a path too
        if self.tokenizer is not None and self.endpoint is None:
            raise SuperfilterError(
                f"tokenizer={self.tokenizer!r} is for a model behind a server: give endpoint= too, "
                "or leave it out"
            )
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", portable_name(str(self.tokenizer)))

    @property
    def is_repeatable(self) -> bool:
        """Whether the model is here, so that no server is asked twice."""
        return self.endpoint is None

    def identity(self) -> dict[str, Any]:
        """Return the model's revision, or its server, its name there, and the tokenizer's."""
        if self.endpoint is None:
            return super().identity()
        served = {"endpoint": self.endpoint, "model": self.model}
        return served | revision_of(self.tokenizer or self.model, self.revision)

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return what the manifest records of the model, here or behind the server."""
        if self.endpoint is None:
            return super().provenance(rank)
        return self._remote_lm().provenance()

    def losses_by(self, rank: int | None = None) -> "CausalLM | RemoteLM":
        """Return what makes windows and computes their losses: the model, or its server."""
        if self.endpoint is None:
            return self.language_model(rank)
        return self._remote_lm()

    def _remote_lm(self) -> "RemoteLM":
        from ..models.served.prompt_logprobs import load_remote_lm

        tokenizer = self.tokenizer or self.model
        return load_remote_lm(str(self.endpoint), self.model, tokenizer, self.revision)


class SidedSettings(ServedSettings):
    """Score the response of a row, and the one that a preference turns down when asked.

    A scorer declares the field `rejected` in its own place and the formula of one side in `_score`.
    """

    rejected: bool

    def __post_init__(self) -> None:
        """Check the switch too."""
        super().__post_init__()
        check_switch("rejected", self.rejected)

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The rejected responses, when they are asked for."""
        return rejected_columns(self.columns)[1:] if self.rejected else ()

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        columns = self._score(batch, self.columns, rank)
        if self.rejected:
            rejected = self._score(batch, rejected_columns(self.columns), rank)
            columns |= compare_sides(self.name, columns, rejected)
        return columns

    def _score(self, batch: Batch, columns: tuple[str, str], rank: int | None) -> Columns:
        """Score the responses of one column given the prompts of the other."""
        raise NotImplementedError


def named_model(name: str) -> dict[str, Any]:
    """Return the arguments of a scorer for a model's name, or for a server's address.

    Args:
        name: a model; `http://host:8000/v1`, for the only model served there; or `MODEL@http://...`.

    Example:
        >>> named_model("gpt2"), named_model("org/big@http://localhost:8000/v1")
        ({'model': 'gpt2'}, {'model': 'org/big', 'endpoint': 'http://localhost:8000/v1'})
    """
    served = re.fullmatch(r"(?:(.+)@)?(https?://.*)", name)
    if served is None:
        return {"model": name}
    from ..models.served.openai_client import check_endpoint, served_model

    endpoint = check_endpoint(served[2])
    return {"model": served[1] or served_model(endpoint), "endpoint": endpoint}


def check_server(scorer: Any, chosen_there: Sequence[str]) -> None:
    """Check a scorer's `endpoint`, and that it sets nothing which its server chooses."""
    from ..models.served.openai_client import check_endpoint

    object.__setattr__(scorer, "endpoint", check_endpoint(scorer.endpoint))
    settings = scorer.settings()
    for setting in chosen_there:
        if setting in settings:
            raise SuperfilterError(
                f"{setting}={settings[setting]!r} is the server's to choose: leave it out"
            )


def revision_of(model: str, revision: str | None) -> dict[str, str]:
    """Return a model's revision, or `not resolved`: loading will say why."""
    try:
        return {"revision": resolve_revision(model_folder(model), revision)}
    except FileNotFoundError:
        return {"revision": "not resolved"}


def default_name(name: str) -> Any:
    """Make the dataclass field of a scorer's name, keyword-only."""
    return dataclasses.field(default=name, kw_only=True)


def rejected_columns(columns: tuple[str, str]) -> tuple[str, str]:
    """Return the prompt column and that of the response that a preference turns down."""
    return columns[0], f"{columns[1]}_rejected"


def compare_sides(name: str, chosen: Columns, rejected: Columns) -> Columns:
    """Build the columns of the rejected response's score, its status, and the difference.

    The difference is chosen - rejected, nan where one of both is undefined.
    """
    return {
        f"{name}_rejected": rejected[name],
        f"{name}_difference": np.subtract(chosen[name], rejected[name]),
        f"{name}_rejected_status": rejected[f"{name}_status"],
    }
