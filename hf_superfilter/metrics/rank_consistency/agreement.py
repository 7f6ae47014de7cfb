"""Measure how far a weak model ranks rows as a strong one does.

The statistics, their chance levels and their intervals.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

from .intervals import correlation_interval, kendall, share_interval
from .notes import label, notes_on_resamples, notes_on_scores, notes_on_tops
from .weighted import RankAgreement, Side, weights_of_resamples

STRONG_TOP = 0.05  # `survival` asks for the strong model's top 5%
POOLS = (0.10, 0.20, 0.30)  # in the pool that a weak model would leave to it
CORRELATIONS = ("spearman", "kendall", "pearson_log")
LEAST_RESAMPLES = 10
PART_PAIRS = 50_000  # resampled in place of all; they stay in the cache of a processor
PART_TOP = 1_000  # rows of the smallest top in a part, at least


def rank_consistency(
    weak: Any,
    strong: Any,
    *,
    budgets: Sequence[float] = (0.05, 0.10, 0.15),
    largest: bool = True,
    below: float | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how far two models rank the same rows alike.

    Of the n rows given, the m pairs with a score on both sides are used. A top holds the best
    floor(share x n) of them, a tie at the cut going to the earlier row, or the best of those below
    `below`. A and B are the numbers of rows of the weak and of the strong top, X that of the rows
    in both.

    | key | formula | by chance |
    |---|---|---|
    | `spearman` | Pearson correlation of the midranks | 0 |
    | `kendall` | tau-b: concordant minus discordant pairs, over those that do not tie | 0 |
    | `pearson_log` | Pearson correlation of the logarithms | 0 |
    | `overlap@0.10` | X / B at the budget 0.10 | `overlap_chance@0.10` = A / m |
    | `jaccard@0.10` | X / (A + B - X) | `jaccard_chance@0.10`: mean for X hypergeometric |
    | `rbo` | rank-biased overlap, extrapolated, over all that may be selected | `rbo_chance` |
    | `survival@0.20` | share of the strong top 5% in the weak top 20% | `survival_chance@0.20` |
    | `pairs`, `dropped` | m, and n - m rows without a score (nan, None) on either side | |
    | `notes` | sentences: why a value is nan, or what to mind when reading one | |

    Where both tops are full, as they are without `below`, overlap is symmetric, X / floor(share x
    n). The persistence of `rbo` is p = 1 - 1/(rows of the largest budget): these rows have about
    86% of its weight.

    Beside each value except the chance levels are `<key>_low` and `<key>_high`:

    - `spearman`, `pearson_log`: the standard deviation over resamples of pairs, on Fisher's scale.
    - `kendall`: not resampled. Its standard error comes from each row's concordant pairs, counted
      once (infinitesimal jackknife), then Fisher's scale.
    - `overlap`, `survival`, `rbo`: Wilson's interval for the rows that would give the standard
      deviation over resamples; plain percentiles miss shares near 0 and 1. `jaccard`: its formula
      at the ends of overlap's.

    A resample is a weight for each row, and nothing is sorted again: the copies of a row tie as
    equal scores do and take their places in a top one after the other. Of 100,000 pairs and more,
    random parts of 50,000 (more where a top would hold fewer than 1,000 rows) share the resamples;
    the variance within a part, times its share of the pairs, is that of all, as every one of these
    statistics has an error that falls with the root of the pairs. In 2,000 simulations of 300
    and of 1,000 rows (`benchmarks/agreement.py`) the 95% intervals held the truth so often: the
    three correlations 94-96%; overlap and Jaccard 96-99% and survival 94-100%, a little wide; rbo
    92-95%, a little short, as resampling blurs its first ranks. A top of fewer than 10 rows is
    rough (88-100%), and a note says so.

    Args:
        weak, strong: (n,) scores of the same rows in the same order; nan or None where there is
            none.
        budgets: shares of ALL n rows, above 0 and at most 1.
        largest: whether the best are the largest scores.
        below: select only scores below this, on both sides, before the budget (1.0 for IFD). It
            does not touch the three correlations.
        confidence: of the intervals, between 0 and 1.
        resamples: at least 10; 0 leaves all intervals nan.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: scores of unequal number, not in one dimension, not numbers or infinite; or a
            setting out of range.

    Source: Li et al., Superfiltering, arXiv 2402.00530, table 1 (Spearman, overlap); Webber, Moffat
        and Zobel, ACM TOIS 28(4), 2010 (rank-biased overlap).

    Example:
        >>> weak = list(range(20))
        >>> strong = [*range(18), 19, 18]                 # the best two change places
        >>> result = rank_consistency(weak, strong, budgets=(0.05, 0.10))
        >>> round(result["spearman"], 4)                  # 1 - 6 * 2 / (20 * 399)
        0.9985
        >>> result["overlap@0.05"], result["overlap@0.10"], result["overlap_chance@0.10"]
        (0.0, 1.0, 0.1)
    """
    shares = _checked_shares(budgets)
    _check_settings(largest, below, confidence, resamples, seed)
    scores = {"weak": _scores("weak", weak), "strong": _scores("strong", strong)}
    rows = len(scores["weak"])
    if len(scores["strong"]) != rows:
        raise ValueError(
            f"{rows} weak and {len(scores['strong'])} strong scores: give one of each for every row"
        )
    defined = ~(np.isnan(scores["weak"]) | np.isnan(scores["strong"]))
    scores = {name: values[defined] for name, values in scores.items()}
    pairs = len(scores["weak"])
    tops = _tops(shares, rows)
    depth = _count(max(shares), rows)
    data = Pairs(scores, tops, depth, largest=largest, below=below)
    agreement, sides = data.agreement, data.sides
    notes = notes_on_scores(scores, rows) + notes_on_tops(agreement, sides, tops, rows)
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    if pairs:
        values, errors = _estimates(data, resamples, seed, notes)

    result: dict[str, Any] = {}
    for name in CORRELATIONS:
        value = values.get(name, math.nan)
        ends = correlation_interval(value, errors.get(name, math.nan), confidence)
        result |= _entry(name, value, ends)
    for name in (*tops, "rbo"):
        value = values.get(name, math.nan)
        weak_rows, strong_rows = agreement.sizes(name)
        sample = depth if name == "rbo" else strong_rows
        ends = share_interval(value, errors.get(name, math.nan), sample, confidence)
        result |= _entry(name, value, ends, chance=agreement.by_chance(name))
        if name.startswith("overlap"):
            result |= _jaccard_entry(name, value, ends, Top(weak_rows, strong_rows, pairs))
    return result | {"pairs": pairs, "dropped": rows - pairs, "notes": notes}


def _tops(shares: list[float], rows: int) -> dict[str, tuple[int, int]]:
    """Return the rows of the weak and the strong top for each overlap and survival."""
    tops = {}
    for share in shares:
        tops[f"overlap@{label(share)}"] = (_count(share, rows), _count(share, rows))
    for pool in POOLS:
        tops[f"survival@{label(pool)}"] = (_count(pool, rows), _count(STRONG_TOP, rows))
    return tops


class Pairs:
    """Hold the pairs of scores that an agreement is computed from.

    Args:
        scores: (m,) finite scores of the weak and of the strong model, by these names.
        tops: statistic -> (rows of the weak top, rows of the strong top).
        depth: the expected depth of rank-biased overlap, in rows.
        largest, below: see `Side`.

    Attributes:
        sides: the weak and the strong side, by these names.
        agreement: the statistics of the two.
    """

    def __init__(
        self,
        scores: dict[str, np.ndarray],
        tops: dict[str, tuple[int, int]],
        depth: int,
        *,
        largest: bool,
        below: float | None,
    ) -> None:
        self.scores, self.tops, self.depth = scores, tops, depth
        self.largest, self.below = largest, below
        self.sides = {
            name: Side(values, largest=largest, below=below) for name, values in scores.items()
        }
        weak, strong = self.sides["weak"], self.sides["strong"]
        self.agreement = RankAgreement(weak, strong, _logarithms(scores), tops, depth)

    def __len__(self) -> int:
        """Return m."""
        return len(self.scores["weak"])

    def part(self, numbers: np.ndarray) -> "Pairs":
        """Return some of the pairs, with tops of the same shares.

        Args:
            numbers: of the pairs, ascending.
        """

        def scaled(count: int) -> int:
            return max(1, round(count * len(numbers) / len(self))) if count else 0

        scores = {name: values[numbers] for name, values in self.scores.items()}
        tops = {name: (scaled(a), scaled(b)) for name, (a, b) in self.tops.items()}
        return Pairs(scores, tops, scaled(self.depth), largest=self.largest, below=self.below)

    def smallest_top(self) -> int:
        """Return how many rows the smallest top holds, tops without rows left out."""
        sizes = [rows for name in self.tops for rows in self.agreement.sizes(name) if rows]
        return min(sizes, default=len(self))


def _estimates(
    data: Pairs, resamples: int, seed: int, notes: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Compute each statistic and its standard error; append notes on weak errors."""
    observed = data.agreement.statistics(np.ones((1, len(data)), dtype=np.int64))
    values = {name: float(value[0]) for name, value in observed.items()}
    values["kendall"], kendall_error = kendall(data.scores["weak"], data.scores["strong"])
    if not resamples:
        notes.append("resamples=0: there are no intervals.")
        return values, {}
    draws, errors = _resampled(data, list(observed), resamples, seed)
    notes += notes_on_resamples(draws, values)
    return values, errors | {"kendall": kendall_error}


def _resampled(
    data: Pairs, names: list[str], resamples: int, seed: int, part_pairs: int = PART_PAIRS
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Compute statistics of resamples, and from their spread the standard errors.

    Many pairs are resampled part by part: the variance within a part of size b, times b / m, is the
    variance of all m pairs, and the mean over the parts is taken.

    Source: Kleiner, Talwalkar, Sarkar and Jordan, A scalable bootstrap for massive data, Journal of
        the Royal Statistical Society B 76, 2014 (parts in place of all; there a resample of a part
        has m pairs); Politis, Romano and Wolf, Subsampling, 1999 (the scale).
    """
    rng = np.random.default_rng(seed)
    parts = _parts(data, resamples, rng, part_pairs)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in names}
    squares, freedoms = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for number, part in enumerate(parts):
        count = resamples // len(parts) + (number < resamples % len(parts))
        blocks = [part.agreement.statistics(w) for w in weights_of_resamples(len(part), count, rng)]
        for name in names:
            # A part of one value only has no logarithms to correlate.
            drawn = [block.get(name, np.full(1, np.nan)) for block in blocks]
            draws[name] += drawn
            resampled = np.concatenate(drawn)
            defined = resampled[~np.isnan(resampled)]
            if len(defined) > 1:
                squares[name] += len(part) / len(data) * float(defined.var()) * len(defined)
                freedoms[name] += len(defined) - 1
    errors = {n: math.sqrt(squares[n] / freedoms[n]) for n in names if freedoms[n]}
    return {name: np.concatenate(drawn) for name, drawn in draws.items()}, errors


def _parts(data: Pairs, resamples: int, rng: np.random.Generator, part_pairs: int) -> list[Pairs]:
    """Split the pairs into random parts, of which each top still holds many rows."""
    m = len(data)
    size = max(part_pairs, math.ceil(PART_TOP * m / data.smallest_top()))
    count = min(m // size, resamples // LEAST_RESAMPLES)
    if count < 2:
        return [data]
    numbers = rng.permutation(m)[: count * size].reshape(count, size)
    return [data.part(np.sort(of_part)) for of_part in numbers]


def _entry(
    name: str, value: float, ends: tuple[float, float], chance: float | None = None
) -> dict[str, float]:
    """Build the keys of one statistic.

    For an overlap: overlap@0.10, overlap_chance@0.10, overlap@0.10_low, overlap@0.10_high.
    """
    entry = {name: value}
    if chance is not None:
        statistic, at, share = name.partition("@")
        entry[f"{statistic}_chance{at}{share}"] = chance
    return entry | {f"{name}_low": ends[0], f"{name}_high": ends[1]}


@dataclass(frozen=True)
class Top:
    """Hold the rows of both tops, and the pairs that they are chosen from."""

    weak: int
    strong: int
    pairs: int

    def jaccard(self, overlap: float) -> float:
        """Compute X / (A + B - X) from an overlap X / B."""
        if math.isnan(overlap):
            return math.nan
        common = min(overlap * self.strong, self.weak, self.strong)
        return common / (self.weak + self.strong - common)

    def mean_jaccard(self) -> float:
        """Compute the mean of X / (A + B - X) where the weak top is drawn at random.

        X is hypergeometric; each of its probabilities is the one before times
        (A-x)(B-x) / ((x+1)(m-A-B+x+1)).
        """
        if not self.strong:
            return math.nan
        a, b, m = self.weak, self.strong, self.pairs
        x = np.arange(max(0, a + b - m), min(a, b) + 1)
        ratios = (a - x) * (b - x) / ((x + 1.0) * (m - a - b + x + 1))
        logs = np.concatenate([[0.0], np.cumsum(np.log(ratios[:-1]))])
        probabilities = np.exp(logs - logs.max())
        return float(np.sum(probabilities * x / (a + b - x)) / probabilities.sum())


def _jaccard_entry(
    overlap: str, value: float, ends: tuple[float, float], top: Top
) -> dict[str, float]:
    """Build the keys of the Jaccard index that belongs to an overlap."""
    name = overlap.replace("overlap", "jaccard")
    interval = (top.jaccard(ends[0]), top.jaccard(ends[1]))
    return _entry(name, top.jaccard(value), interval, chance=top.mean_jaccard())


def _logarithms(scores: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return (2, m) logarithms, or None where a score has none or a side is constant."""
    both = np.stack([scores["weak"], scores["strong"]])
    if both.shape[1] < 2 or (both <= 0).any():
        return None
    logs: np.ndarray = np.log(both)
    constant = (logs == logs[:, :1]).all(axis=1)
    return None if constant.any() else logs


def _count(share: float, rows: int) -> int:
    """Compute floor(share x rows) of the decimal as it is written.

    0.29 of 100 rows is 29, though 0.29 * 100 is below 29 in floating point.
    """
    return int((Decimal(str(share)) * rows).to_integral_value(rounding=ROUND_FLOOR))


def _scores(name: str, values: Any) -> np.ndarray:
    """Return scores as (n,) float64 with None as nan.

    Raises:
        ValueError: not numbers, not in one dimension, or infinite.
    """
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"they are of type {given.dtype}")
        numbers: np.ndarray = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the {name} scores must be numbers, or nan or None for a row without one: {error}"
        ) from error
    if numbers.ndim != 1:
        raise ValueError(
            f"the {name} scores have the shape {numbers.shape}: give one number for each row, (n,)"
        )
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise ValueError(
            f"{len(infinite)} {name} scores are infinite, the first in row {infinite[0]}: "
            "make them nan to leave them out"
        )
    return numbers


def _checked_shares(budgets: Any) -> list[float]:
    """Return the budgets as plain numbers, each once.

    Raises:
        ValueError: none, or one that is no share.
    """
    shares = list(budgets) if isinstance(budgets, Iterable) else []
    if not shares or not all(_is_share(share) for share in shares):
        raise ValueError(
            f"budgets={budgets!r}: give shares of all rows, above 0.0 and at most 1.0, "
            "such as (0.05, 0.10)"
        )
    return list(dict.fromkeys(float(str(share)) for share in shares))


def _is_share(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and bool(0 < value <= 1)


def _check_settings(largest: Any, below: Any, confidence: Any, resamples: Any, seed: Any) -> None:
    """Refuse settings out of range."""
    if not isinstance(largest, (bool, np.bool_)):
        raise ValueError(
            f"largest={largest!r}: give True for the largest scores, False for the smallest"
        )
    if below is not None and not (_is_number(below) and math.isfinite(below)):
        raise ValueError(f"below={below!r}: give a number, such as 1.0 for IFD, or None")
    if not _is_number(confidence) or not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}: give a number between 0 and 1, such as 0.95")
    if not _is_whole(resamples) or not (resamples == 0 or resamples >= LEAST_RESAMPLES):
        raise ValueError(
            f"resamples={resamples!r}: give at least {LEAST_RESAMPLES}, or 0 for no intervals"
        )
    if not _is_whole(seed) or seed < 0:
        raise ValueError(f"seed={seed!r}: give a whole number, 0 or more")


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, (float, np.floating))


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
