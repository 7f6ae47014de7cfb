"""cascade(): a weak model on all rows, a strong one on the best of them, and how much of its choice that keeps."""

from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns, ScorerAdapter, as_scorer
from ..checks import is_number
from ..data.columns import numbers_of
from ..runs.manifest import read_manifest
from ..runs.runner import score
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
    """What a cascade kept, what it may have lost, and what it saved.

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
        """The figures in plain words."""
        return (
            f"{self.selection}\n"
            f"The weak model lets {self.recall:.0%} ({self.recall_low:.0%} to {self.recall_high:.0%}) of the strong "
            f"model's best rows through, measured on {self.audited:,} rows drawn at random.\n"
            f"The strong model read {self.asked:.0%} of the rows; both together took {self.cost:.0%} of the time that "
            f"it would take for all."
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
    """Score all rows with a weak model, and only its best `pool` with a strong one, which makes the choice.

    Args:
        rows: n rows with the columns that the scorers read.
        weak, strong: scorers, or models' names for `IFD`. Two scorers of one name get `_weak` and `_strong`.
        keep: share of all rows to keep.
        pool: share of all rows that the strong model reads; not below `keep`.
        folder: the run folder; a second call goes on from it.
        below: first drop rows whose score is not below this, in both stages (1.0 for IFD).
        largest: keep large scores; False for perplexity.
        audit: rows drawn at random which the strong model reads too, to measure what the pool loses.
        seed: of the draw.

    Returns:
        A `Cascade`; `str()` of it is the verdict.

    Raises:
        ValueError: shares that do not fit, or whatever the scorers and `score` refuse.

    Source:
        The two stages are Superfiltering's weak-to-strong step (arXiv 2402.00530) taken as a cascade.
    """
    _check_shares(keep, pool, audit, len(rows))
    first, second = _scorers(weak, strong)
    table = _scored(rows, [first], folder)
    to_pool = _steps(first.main, pool, below, largest)
    in_pool = np.zeros(len(rows), dtype=bool)
    in_pool[select(table, to_pool).rows] = True
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[: min(audit, len(rows))])
    asked = in_pool.copy()
    asked[drawn] = True
    marked = rows.add_column(ASKED, asked.tolist())
    table = _scored(marked, [first, _MarkedRows(second)], folder)
    selection = select(table, [*to_pool, *_steps(second.main, keep, below, largest)], run=folder)
    hits, best = _audited(
        numbers_of(table, second.main)[drawn], in_pool[drawn], keep, below, largest
    )
    low, high = wilson(hits, best)
    seconds = [
        read_manifest(folder)["scorers"][scorer.name]["seconds"] for scorer in (first, second)
    ]
    whole = seconds[1] / _share_of_tokens(table, first, asked)
    return Cascade(
        selection,
        recall=hits / best if best else float("nan"),
        recall_low=low,
        recall_high=high,
        audited=len(drawn),
        asked=float(asked.mean()),
        seconds_weak=seconds[0],
        seconds_strong=seconds[1],
        cost=sum(seconds) / whole if whole else float("nan"),
    )


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, nan of nothing.

    Example:
        >>> [round(x, 3) for x in wilson(9, 10)]
        [0.596, 0.982]
    """
    if not of:
        return float("nan"), float("nan")
    share, spread = hits / of, z * z / of
    half = z * sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, (share + spread / 2 - half) / (1 + spread)), min(
        1.0, (share + spread / 2 + half) / (1 + spread)
    )


class _MarkedRows(ScorerAdapter):
    """Score only the rows marked in a column; the others are nan, or `not_asked`."""

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
            numeric = np.asarray(values).dtype.kind == "f" and not name.endswith("_status")
            if numeric:
                column = np.full(len(batch[ASKED]), np.nan)
            else:
                column = np.full(len(batch[ASKED]), NOT_ASKED, dtype=object)
            column[asked] = values
            columns[name] = column if numeric else column.tolist()
        return columns


def _scorers(weak: Any, strong: Any) -> tuple[Any, Any]:
    """Two scorers with different names."""
    first = IFD(weak) if isinstance(weak, str) else weak
    second = IFD(strong) if isinstance(strong, str) else strong
    if first.name == second.name:
        first = replace(first, name=f"{first.name}_weak")
        second = replace(second, name=f"{second.name}_strong")
    return first, second


def _scored(rows: "Dataset", scorers: list[Any], folder: str | Path) -> "Dataset":
    table = score(rows, scorers, folder)
    if table is None:
        raise ValueError(
            "several processes were launched: each model of a cascade waits for the other, so use one"
        )
    return table


def _steps(by: str, share: float, below: float | None, largest: bool) -> list[Any]:
    """The selectors of one stage."""
    threshold = [Threshold(by, below=below)] if below is not None else []
    return [*threshold, TopK(by, share, largest=largest)]


def _check_shares(keep: float, pool: float, audit: int, rows: int) -> None:
    if not (is_number(keep) and is_number(pool) and 0 < keep <= pool <= 1):
        raise ValueError(
            f"keep={keep!r}, pool={pool!r}: give shares of all rows, 0 < keep <= pool <= 1"
        )
    if isinstance(audit, bool) or not isinstance(audit, int) or audit < 1:
        raise ValueError(
            f"audit={audit!r}: give a number of rows, at least 1; the recall is measured on them"
        )
    if count_of(float(keep), rows) < 1:
        raise ValueError(f"keep={keep!r} of {rows:,} rows is less than one row: keep more")


def _audited(
    strong: np.ndarray, in_pool: np.ndarray, keep: float, below: float | None, largest: bool
) -> tuple[int, int]:
    """Of the strong model's best rows of the audit: how many are in the pool, and how many there are."""
    allowed = ~np.isnan(strong) & ((strong < below) if below is not None else True)
    order = np.argsort(-strong if largest else strong, kind="stable")
    best = order[allowed[order]][: max(1, count_of(float(keep), len(strong)))]
    return int(in_pool[best].sum()), len(best)


def _share_of_tokens(table: "Dataset", weak: Any, asked: np.ndarray) -> float:
    """The share of all tokens that the strong model read, by the weak model's count; by rows where it has none."""
    column = f"{weak.name}_tokens"
    if column not in table.column_names:
        return float(asked.mean())
    tokens = np.nan_to_num(numbers_of(table, column))
    return float(tokens[asked].sum() / tokens.sum()) if tokens.sum() else float(asked.mean())
