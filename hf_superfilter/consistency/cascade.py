"""Pass a weak model's best rows to a strong one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns, ScorerAdapter, as_scorer
from ..checks import is_count, is_number
from ..data.columns import numbers_of
from ..errors import SuperfilterError
from ..runs.manifest import read_manifest
from ..runs.runner import score
from ..scoring._model import named_model
from ..scoring.ifd import IFD
from ..selection._budget import count_of
from ..selection.funnel import Selection, select
from ..selection.threshold import Threshold
from ..selection.top_k import TopK

if TYPE_CHECKING:
    from datasets import Dataset

ASKED = "strong_asked"
NOT_ASKED = "not_asked"


@dataclass(frozen=True)
class Cascade:
    """Hold what a cascade kept, may have lost, and saved.

    Attributes:
        selection: the rows kept, best first by the strong model, out of the weak one's pool.
        recall: share of the strong model's own best rows that the weak model lets through to it,
            measured on `audited` rows drawn at random; nan where the audit holds none of its best.
        recall_low, recall_high: its 95% Wilson interval.
        audited: rows of the audit.
        asked: share of all rows that the strong model read, audit included.
        seconds_weak, seconds_strong: what each model took.
        cost: time of the cascade as a share of what the strong model would take for all rows, taken
            from its time a token on the rows it read.
    """

    selection: Selection
    recall: float
    recall_low: float
    recall_high: float
    audited: int
    asked: float
    seconds_weak: float
    seconds_strong: float
    cost: float

    def __str__(self) -> str:
        """Return the verdict in plain words."""
        return (
            f"{self.selection}\n"
            f"The weak model lets {self.recall:.0%} ({self.recall_low:.0%} to "
            f"{self.recall_high:.0%}) of the strong model's best rows through, measured on "
            f"{self.audited:,} rows drawn at random.\n"
            f"The strong model read {self.asked:.0%} of the rows; both together took "
            f"{self.cost:.0%} of the time that it would take for all."
        )


def cascade(
    rows: "Dataset",
    weak: Any,
    strong: Any,
    keep: float = 0.10,
    pool: float = 0.30,
    *,
    folder: str | Path,
    below: float | None = None,
    largest: bool = True,
    audit: int = 500,
    seed: int = 0,
) -> Cascade:
    """Score all rows weakly, and the best of them strongly.

    Args:
        rows: n rows with the columns that the scorers read.
        weak, strong: scorers, or models' names for `IFD`. Two scorers of one name get `_weak` and
            `_strong`.
        keep: share of all rows to keep.
        pool: share of all rows that the strong model reads; not below `keep`.
        folder: the run folder; a second call goes on from it.
        below: first drop rows whose score is not below this, in both stages (1.0 for IFD).
        largest: keep large scores; False for perplexity.
        audit: rows drawn at random which the strong model reads too, to measure what the pool
            loses.
        seed: of the draw.

    Returns:
        A `Cascade`; `str()` of it is the verdict.

    Raises:
        SuperfilterError: shares that do not fit, or whatever the scorers and `score` refuse.

    Source:
        The two stages are Superfiltering's weak-to-strong step (arXiv 2402.00530) taken as a
        cascade.
    """
    _check_shares(keep, pool, audit, len(rows))
    first, second = _scorers(weak, strong)
    table = _scored(rows, [first], folder)
    to_pool = _steps(first.main, pool, below, largest)
    in_pool = np.zeros(len(rows), dtype=bool)
    in_pool[select(table, to_pool).rows] = True
    audited = np.sort(np.random.default_rng(seed).permutation(len(rows))[:audit])
    asked = in_pool.copy()
    asked[audited] = True
    marked = rows.add_column(ASKED, asked.tolist())
    table = _scored(marked, [first, _MarkedRows(second)], folder)
    selection = select(table, [*to_pool, *_steps(second.main, keep, below, largest)], run=folder)
    scores = numbers_of(table, second.main)
    hits, best = _audited(scores[audited], in_pool[audited], keep, below, largest)
    recall_low, recall_high = wilson(hits, best)
    manifest = read_manifest(folder)["scorers"]
    seconds_weak = manifest[first.name]["seconds"]
    seconds_strong = manifest[second.name]["seconds"]
    seconds_for_all = seconds_strong / _share_of_tokens(table, first, asked)
    return Cascade(
        selection,
        recall=hits / best if best else float("nan"),
        recall_low=recall_low,
        recall_high=recall_high,
        audited=len(audited),
        asked=float(asked.mean()),
        seconds_weak=seconds_weak,
        seconds_strong=seconds_strong,
        cost=(seconds_weak + seconds_strong) / seconds_for_all if seconds_for_all else float("nan"),
    )


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Compute a share's 95% Wilson interval; nan of no trials.

    Example:
        >>> [round(end, 3) for end in wilson(9, 10)]
        [0.596, 0.982]
    """
    from scipy.stats import binomtest

    if not trials:
        return float("nan"), float("nan")
    interval = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


class _MarkedRows(ScorerAdapter):
    """Score only the rows that a column marks.

    The others are nan, or `not_asked`.
    """

    def __init__(self, scorer: Any) -> None:
        super().__init__(as_scorer(scorer))
        if self.columns is not None:
            self.columns = (*self.columns, ASKED)

    def identity(self) -> dict[str, Any]:
        """Return that of the scorer."""
        return dict(self.scorer.identity())

    def entry(self) -> Any:
        """Return that of the scorer."""
        return self.scorer.entry()

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score the marked rows and fill the others in."""
        asked = np.flatnonzero(np.asarray(batch[ASKED], dtype=bool)).tolist()
        part = {name: [values[i] for i in asked] for name, values in batch.items()}
        columns: Columns = {}
        for name, values in super().__call__(part, rank).items():
            # Of no rows, text and numbers are both float.
            numeric = np.asarray(values).dtype.kind in "fi" and not name.endswith("_status")
            if numeric:
                column = np.full(len(batch[ASKED]), np.nan)
            else:
                column = np.full(len(batch[ASKED]), NOT_ASKED, dtype=object)
            column[asked] = values
            columns[name] = column if numeric else column.tolist()
        return columns


def _scorers(weak: Any, strong: Any) -> tuple[Any, Any]:
    """Return two scorers with different names."""
    first = IFD(**named_model(weak)) if isinstance(weak, str) else weak
    second = IFD(**named_model(strong)) if isinstance(strong, str) else strong
    if first.name == second.name:
        first = replace(first, name=f"{first.name}_weak")
        second = replace(second, name=f"{second.name}_strong")
    return first, second


def _scored(rows: "Dataset", scorers: list[Any], folder: str | Path) -> "Dataset":
    table = score(rows, scorers, folder)
    if table is None:
        raise SuperfilterError(
            "several processes were launched: each model of a cascade waits for the other, so use "
            "one"
        )
    return table


def _steps(by: str, share: float, below: float | None, largest: bool) -> list[Any]:
    """Return the selectors of one stage."""
    threshold = [Threshold(by, below=below)] if below is not None else []
    return [*threshold, TopK(by, share, largest=largest)]


def _check_shares(keep: float, pool: float, audit: int, rows: int) -> None:
    if not (is_number(keep) and is_number(pool) and 0 < keep <= pool <= 1):
        raise SuperfilterError(
            f"keep={keep!r}, pool={pool!r}: give shares of all rows, 0 < keep <= pool <= 1"
        )
    if not is_count(audit):
        raise SuperfilterError(
            f"audit={audit!r}: give a number of rows, at least 1; the recall is measured on them"
        )
    if count_of(float(keep), rows) < 1:
        raise SuperfilterError(f"keep={keep!r} of {rows:,} rows is less than one row: keep more")


def _audited(
    strong: np.ndarray, in_pool: np.ndarray, keep: float, below: float | None, largest: bool
) -> tuple[int, int]:
    """Count the audit's best rows: in the pool, and all."""
    allowed = ~np.isnan(strong)
    if below is not None:
        allowed &= strong < below
    order = np.argsort(-strong if largest else strong, kind="stable")
    best = order[allowed[order]][: max(1, count_of(float(keep), len(strong)))]
    return int(in_pool[best].sum()), len(best)


def _share_of_tokens(table: "Dataset", weak: Any, asked: np.ndarray) -> float:
    """Estimate the share of tokens that the strong model read.

    By the weak model's count; by rows where it counts none.
    """
    column = f"{weak.name}_tokens"
    if column not in table.column_names:
        return float(asked.mean())
    tokens = np.nan_to_num(numbers_of(table, column))
    if not tokens.sum():
        return float(asked.mean())
    return float(tokens[asked].sum() / tokens.sum())
