"""Pass a weak model's best rows to a strong one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_count, is_number, plain_number
from ..data.columns import numbers_of
from ..errors import SuperfilterError
from ..runs.manifest import read_manifest
from ..scoring.surrogate import Surrogate
from ..selection._budget import count_of
from ..selection.funnel import Selection, select
from ..selection.threshold import Threshold
from ..selection.top_k import TopK
from .chain import (
    ASKED,
    PLACE,
    Candidate,
    Chain,
    Goal,
    MarkedRows,
    read_behind_cheapest,
    scored,
    with_names,
)

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_POOL = 0.30


@dataclass(frozen=True)
class Cascade:
    """Hold what a cascade kept, may have lost, and saved.

    Attributes:
        selection: the rows kept, best first by the strong model, out of the weak one's pool; with
            `recall=` out of all rows that the strong model read.
        recall: share of the strong model's own best rows that the weak model lets through to it,
            measured on `audited` rows drawn at random; nan where the audit holds none of its best.
        recall_low, recall_high: its 95% Wilson interval; with `recall=` the share that is reached
            with the confidence asked for, and 1.
        audited: rows drawn at random.
        asked: share of all rows that the strong model read, audit included.
        seconds_weak, seconds_strong: what each model took.
        cost: time of the cascade as a share of what the strong model would take for all rows, taken
            from its time a token on the rows it read.
        pool: share of all rows that the weak model passed on; the random rows that the first fit
            took are among them with `recall=`.
        candidates: what each first stage would cost, the chosen first; () without `recall=`.
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
    pool: float = math.nan
    candidates: tuple[Candidate, ...] = ()

    def __str__(self) -> str:
        """Return the verdict in plain words."""
        if self.candidates:
            return self._verdict_for_recall()
        measured = (
            f"The weak model lets {self.recall:.0%} ({self.recall_low:.0%} to "
            f"{self.recall_high:.0%}) of the strong model's best rows through, measured on "
            f"{self.audited:,} rows drawn at random."
        )
        if math.isnan(self.recall):
            measured = (
                f"None of the {self.audited:,} rows drawn at random may be kept by the strong "
                "model: what the weak one loses is not known."
            )
        return (
            f"{self.selection}\n{measured}\n"
            f"The strong model read {self.asked:.0%} of the rows; both together took "
            f"{self.cost:.0%} of the time that it would take for all."
        )

    def _verdict_for_recall(self) -> str:
        lines = [f"{'first stage':<36} {'agreement':>9} {'pool':>6} {'seconds':>9}"]
        for candidate in self.candidates:
            is_known = not math.isnan(candidate.agreement)
            agreement = f"{candidate.agreement:.2f}" if is_known else "unknown"
            lines.append(
                f"{candidate.name:<36} {agreement:>9} {candidate.pool:>6.0%} "
                f"{candidate.seconds:>9.1f}"
            )
        promise = (
            f"At least {self.recall_low:.1%} of the strong model's best rows are among those that "
            f"it read (estimate {self.recall:.1%})"
        )
        if math.isnan(self.recall):
            promise = "No row that the strong model read may be kept"
        return (
            f"{self.selection}\n"
            + "\n".join(lines)
            + "\nThe first is the cheapest for this recall, by an audit alone, and was used.\n"
            f"{promise}: {self.pool:.0%} of all rows as predicted, and "
            f"{self.audited:,} drawn at random from the rest to make sure.\n"
            f"The strong model read {self.asked:.0%} of the rows; all together took "
            f"{self.cost:.0%} of the time that it would take for all."
        )


def cascade(
    rows: "Dataset",
    weak: Any,
    strong: Any,
    keep: float = 0.10,
    pool: float | None = None,
    *,
    folder: str | Path,
    below: float | None = None,
    largest: bool = True,
    audit: int = 500,
    seed: int = 0,
    recall: float | None = None,
    confidence: float = 0.95,
) -> Cascade:
    """Score all rows weakly, and the best of them strongly.

    Args:
        rows: n rows with the columns that the scorers read.
        weak, strong: scorers, or models' names for `IFD`. Two scorers of one name get `_weak` and
            `_strong`. With `recall=`, `weak` may be a list of candidates, of which the cheapest is
            used; `Surrogate()` is one, and learns from what the strong model says.
        keep: share of all rows to keep.
        pool: share of all rows that the strong model reads, 0.30 unless given; not below `keep`.
        folder: the run folder; a second call goes on from it.
        below: first drop rows whose score is not below this, in both stages (1.0 for IFD).
        largest: keep large scores; False for perplexity.
        audit: rows drawn at random which the strong model reads too, to measure what the pool
            loses.
        seed: of the draw.
        recall: choose the pool so that this share of the strong model's best rows is read, such as
            0.95: see `read_for_recall` for how. `audit` is then the number of rows that the first
            fit takes and all candidates are compared on.
        confidence: how sure that recall has to be.

    Returns:
        A `Cascade`; `str()` of it is the verdict.

    Raises:
        SuperfilterError: shares that do not fit, or whatever the scorers and `score` refuse.

    Source:
        The two stages are Superfiltering's weak-to-strong step (arXiv 2402.00530) taken as a
        cascade.
    """
    keep, pool, below, audit, seed, recall, confidence = (
        plain_number(value) for value in (keep, pool, below, audit, seed, recall, confidence)
    )
    _check_shares(keep, pool, audit, len(rows), recall, confidence)
    for column in (ASKED, PLACE):
        if column in rows.column_names:
            raise SuperfilterError(
                f"the rows have a column {column!r}, as the table of another cascade has, which "
                "this one would write: remove or rename it first"
            )
    if isinstance(weak, list | tuple) and not weak:
        raise SuperfilterError("weak=[]: give a first stage at least, such as Surrogate()")
    candidates, second = with_names(weak if isinstance(weak, list | tuple) else [weak], strong)
    if recall is not None:
        goal = Goal(count_of(float(keep), len(rows)), recall, confidence, below, largest)
        chain = read_behind_cheapest(
            rows, candidates, second, goal, folder=folder, audit=audit, seed=seed
        )
        return _cascade_of(chain, second, keep, goal, folder)
    pool = DEFAULT_POOL if pool is None else pool
    first = _only(candidates)
    table = scored(rows, [first], folder)
    to_pool = _steps(first.main, pool, below, largest)
    in_pool = np.zeros(len(rows), dtype=bool)
    in_pool[select(table, to_pool).rows] = True
    audited = np.sort(np.random.default_rng(seed).permutation(len(rows))[:audit])
    asked = in_pool.copy()
    asked[audited] = True
    marked = rows.add_column(ASKED, asked.tolist())
    table = scored(marked, [first, MarkedRows(second)], folder)
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
        pool=float(in_pool.mean()),
    )


def _cascade_of(chain: Chain, second: Any, keep: float, goal: Goal, folder: str | Path) -> Cascade:
    """Select from what a chain read."""
    steps = _steps(second.main, keep, goal.below, goal.largest)
    seconds = chain.seconds_first + chain.seconds_strong
    return Cascade(
        select(chain.table, steps, run=folder),
        recall=chain.reading.recall,
        recall_low=chain.reading.recall_low,
        recall_high=1.0,
        audited=chain.reading.drawn,
        asked=float(np.mean(~np.isnan(chain.reading.goodness))),
        seconds_weak=chain.seconds_first,
        seconds_strong=chain.seconds_strong,
        cost=seconds / chain.seconds_for_all if chain.seconds_for_all else math.nan,
        pool=float(chain.reading.pool.mean()),
        candidates=chain.candidates,
    )


def _only(candidates: Sequence[Any]) -> Any:
    """Return the one first stage of a fixed pool."""
    if len(candidates) != 1:
        raise SuperfilterError(
            f"{len(candidates)} first stages: give one, or recall=0.95, which chooses the cheapest"
        )
    if isinstance(candidates[0], Surrogate) and candidates[0].model is None:
        raise SuperfilterError(
            "a Surrogate without a model learns from the strong scores as a cascade with "
            "recall=0.95 reads them: give recall=, or Surrogate(of, model)"
        )
    return candidates[0]


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


def _steps(by: str, share: float, below: float | None, largest: bool) -> list[Any]:
    """Return the selectors of one stage."""
    threshold = [Threshold(by, below=below)] if below is not None else []
    return [*threshold, TopK(by, share, largest=largest)]


def _check_shares(
    keep: float,
    pool: float | None,
    audit: int,
    rows: int,
    recall: float | None,
    confidence: float,
) -> None:
    if recall is not None and pool is not None:
        raise SuperfilterError(
            f"pool={pool!r}, recall={recall!r}: give one of the two; recall chooses the pool"
        )
    for name, value in (("recall", recall), ("confidence", confidence)):
        if value is not None and not (is_number(value) and 0 < value < 1):
            raise SuperfilterError(f"{name}={value!r}: give a share above 0 and below 1")
    largest_pool = DEFAULT_POOL if pool is None and recall is None else pool
    shares = (keep, 1 if largest_pool is None else largest_pool)
    if not all(map(is_number, shares)) or not 0 < shares[0] <= shares[1] <= 1:
        raise SuperfilterError(
            f"keep={keep!r}, pool={largest_pool!r}: give shares of all rows, 0 < keep <= pool <= 1"
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
