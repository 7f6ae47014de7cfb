"""Does a weak model rank rows as a strong one does? The figures, their chance levels and their intervals."""

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

from .intervals import correlation_interval, kendall, share_interval
from .notes import label, on_resamples, on_scores, on_tops
from .weighted import Comparison, Side, weights_of_resamples

STRONG_TOP = 0.05  # `survival` asks for the strong model's top 5%
POOLS = (0.10, 0.20, 0.30)  # in what a weak model would leave to it
CORRELATIONS = ("spearman", "kendall", "pearson_log")
LEAST_RESAMPLES = 10


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
    """How far two models agree on the same rows, with a chance level and an interval for each figure.

    Of the n rows given, the m pairs with a score on both sides are used. A top holds the best
    floor(share x n) of them, a tie at the cut going to the earlier row, or the best of those below `below`.
    A and B are the numbers of rows of the weak and of the strong top, X that of the rows in both.

    | key | figure | by chance |
    |---|---|---|
    | `spearman` | Pearson correlation of the midranks | 0 |
    | `kendall` | tau-b: concordant less discordant pairs, over those that do not tie | 0 |
    | `pearson_log` | Pearson correlation of the logarithms | 0 |
    | `overlap@0.10` | X / B at the budget 0.10 | `overlap_chance@0.10` = A / m |
    | `jaccard@0.10` | X / (A + B - X) | `jaccard_chance@0.10`: its mean for X hypergeometric (m, A, B) |
    | `rbo` | rank-biased overlap, extrapolated, over all that may be selected | `rbo_chance` |
    | `survival@0.20` | share of the strong top 0.05 in the weak top 0.20 | `survival_chance@0.20` = A / m |
    | `pairs`, `dropped` | m, and n - m rows without a score (nan, None) on either side | |
    | `notes` | sentences: why a figure is nan, or what to mind when reading one | |

    Where both tops are full, as they are without `below`, overlap is symmetric, X / floor(share x n). The
    persistence of `rbo` is p = 1 - 1/(rows of the largest budget): these rows have about 86% of its weight.

    Beside each figure but the chance levels stand `<figure>_low` and `<figure>_high`:

    - `spearman`, `pearson_log`: the standard deviation over resamples of pairs, on Fisher's scale.
    - `kendall`: not resampled. Its standard error comes from each row's concordant pairs, counted once
      (infinitesimal jackknife), then Fisher's scale.
    - `overlap`, `survival`, `rbo`: Wilson's interval for the rows that would give the standard deviation over
      resamples; plain percentiles miss shares near 0 and 1. `jaccard`: its formula at the ends of overlap's.

    A resample is a weight for each row, and nothing is sorted again: the copies of a row tie as equal scores
    do and take their places in a top one after the other. In 2,000 simulations of 300 and of 1,000 rows
    (`benchmarks/agreement.py`) the 95% intervals held the truth so often: the three correlations 94-96%;
    overlap and Jaccard 96-99% and survival 94-100%, a little wide; rbo 92-95%, a little short, as resampling
    blurs its first ranks. A top of fewer than 10 rows is rough (88-100%), and a note says so.

    Args:
        weak, strong: (n,) scores of the same rows in the same order; nan or None where there is none.
        budgets: shares of ALL n rows, above 0 and at most 1.
        largest: whether the best are the largest scores.
        below: select only scores below this, on both sides, before the budget (1.0 for IFD). It does not
            touch the three correlations.
        confidence: of the intervals, between 0 and 1.
        resamples: at least 10; 0 leaves all intervals nan.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: scores of unequal number, not in one dimension, not numbers or infinite; or a setting out
            of range.

    Source: Li et al., Superfiltering, arXiv 2402.00530, table 1 (Spearman, overlap); Webber, Moffat and Zobel,
        ACM TOIS 28(4), 2010 (rank-biased overlap).

    Example:
        >>> weak = list(range(20))
        >>> strong = [*range(18), 19, 18]                       # the best two change places
        >>> found = rank_consistency(weak, strong, budgets=(0.05, 0.10))
        >>> round(found["spearman"], 4)                         # 1 - 6 * 2 / (20 * 399)
        0.9985
        >>> found["overlap@0.05"], found["overlap@0.10"], found["overlap_chance@0.10"]
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
    sides = {name: Side(values, largest=largest, below=below) for name, values in scores.items()}
    wanted = {
        f"overlap@{label(share)}": (_count(share, rows), _count(share, rows)) for share in shares
    }
    wanted |= {
        f"survival@{label(pool)}": (_count(pool, rows), _count(STRONG_TOP, rows)) for pool in POOLS
    }
    depth = _count(max(shares), rows)
    comparison = Comparison(sides["weak"], sides["strong"], _logarithms(scores), wanted, depth)
    notes = on_scores(scores, rows) + on_tops(comparison, sides, wanted, rows)
    values, errors = _estimates(comparison, scores, resamples, seed, notes) if pairs else ({}, {})

    result: dict[str, Any] = {}
    for figure in CORRELATIONS:
        value = values.get(figure, math.nan)
        ends = correlation_interval(value, errors.get(figure, math.nan), confidence)
        result |= _entry(figure, value, ends)
    for figure in (*wanted, "rbo"):
        value, (a, b) = values.get(figure, math.nan), comparison.sizes(figure)
        ends = share_interval(
            value, errors.get(figure, math.nan), depth if figure == "rbo" else b, confidence
        )
        result |= _entry(figure, value, ends, chance=comparison.by_chance(figure))
        if figure.startswith("overlap"):
            jaccard = figure.replace("overlap", "jaccard")
            ends = _jaccard(ends[0], a, b), _jaccard(ends[1], a, b)
            result |= _entry(
                jaccard, _jaccard(value, a, b), ends, chance=_mean_jaccard(a, b, pairs)
            )
    return result | {"pairs": pairs, "dropped": rows - pairs, "notes": notes}


def _estimates(
    comparison: Comparison,
    scores: dict[str, np.ndarray],
    resamples: int,
    seed: int,
    notes: list[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """Each figure's value and standard error; says in the notes where an error means little."""
    pairs = len(comparison.both)
    observed = comparison.figures(np.ones((1, pairs), dtype=np.int64))
    values = {figure: float(found[0]) for figure, found in observed.items()}
    values["kendall"], error = kendall(scores["weak"], scores["strong"])
    if not resamples:
        notes.append("resamples=0: there are no intervals.")
        return values, {}
    drawn = [
        comparison.figures(weights) for weights in weights_of_resamples(pairs, resamples, seed)
    ]
    draws = {figure: np.concatenate([part[figure] for part in drawn]) for figure in observed}
    notes += on_resamples(draws, values)
    defined = {figure: found[~np.isnan(found)] for figure, found in draws.items()}
    errors = {
        figure: float(found.std(ddof=1)) for figure, found in defined.items() if len(found) > 1
    }
    return values, errors | {"kendall": error}


def _entry(
    figure: str, value: float, ends: tuple[float, float], chance: float | None = None
) -> dict[str, float]:
    """The keys of one figure: overlap@0.10, overlap_chance@0.10, overlap@0.10_low, overlap@0.10_high."""
    name, at, share = figure.partition("@")
    beside = {} if chance is None else {f"{name}_chance{at}{share}": chance}
    return {figure: value} | beside | {f"{figure}_low": ends[0], f"{figure}_high": ends[1]}


def _jaccard(overlap: float, weak: int, strong: int) -> float:
    """X / (A + B - X) for an overlap X / B."""
    if math.isnan(overlap):
        return math.nan
    common = min(overlap * strong, weak, strong)
    return common / (weak + strong - common)


def _mean_jaccard(weak: int, strong: int, pairs: int) -> float:
    """The mean of X / (A + B - X) where A of m rows are drawn at random, and X of them are among B others.

    X is hypergeometric; each of its probabilities is the one before times (A-x)(B-x) / ((x+1)(m-A-B+x+1)).
    """
    if not strong:
        return math.nan
    x = np.arange(max(0, weak + strong - pairs), min(weak, strong) + 1)
    steps = (weak - x) * (strong - x) / ((x + 1.0) * (pairs - weak - strong + x + 1))
    logs = np.concatenate([[0.0], np.cumsum(np.log(steps[:-1]))])
    chances = np.exp(logs - logs.max())
    return float(np.sum(chances * x / (weak + strong - x)) / chances.sum())


def _logarithms(scores: dict[str, np.ndarray]) -> np.ndarray | None:
    """(2, m) logarithms; None where a score has none, or all of one side are equal."""
    both = np.stack([scores["weak"], scores["strong"]])
    if both.shape[1] < 2 or (both <= 0).any():
        return None
    logs = np.log(both)
    return None if (logs == logs[:, :1]).all(axis=1).any() else logs


def _count(share: float, rows: int) -> int:
    """floor(share x rows) of the share as it is written: 0.29 of 100 is 29, though 0.29 * 100 is below."""
    return int((Decimal(str(share)) * rows).to_integral_value(rounding=ROUND_FLOOR))


def _scores(name: str, values: Any) -> np.ndarray:
    """(n,) float64 with None as nan.

    Raises:
        ValueError: not numbers, not in one dimension, or infinite.
    """
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"they are of type {given.dtype}")
        numbers = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the {name} scores must be numbers, or nan or None for a row without one: {error}"
        ) from error
    if numbers.ndim != 1:
        raise ValueError(
            f"the {name} scores have the shape {numbers.shape}: give one number for each row, (n,)"
        )
    if np.isinf(numbers).any():
        row, many = int(np.flatnonzero(np.isinf(numbers))[0]), int(np.isinf(numbers).sum())
        raise ValueError(
            f"{many} {name} scores are infinite, the first in row {row}: make them nan to leave them out"
        )
    return numbers


def _checked_shares(budgets: Any) -> list[float]:
    """The budgets as plain numbers, each once.

    Raises:
        ValueError: none, or one that is no share.
    """
    shares = list(budgets) if isinstance(budgets, Iterable) else []
    if not shares or not all(
        isinstance(share, (float, np.floating)) and 0 < share <= 1 for share in shares
    ):
        raise ValueError(
            f"budgets={budgets!r}: give shares of all rows, above 0.0 and at most 1.0, such as (0.05, 0.10)"
        )
    return list(dict.fromkeys(float(str(share)) for share in shares))


def _check_settings(largest: Any, below: Any, confidence: Any, resamples: Any, seed: Any) -> None:
    """Refuse what cannot be meant."""
    if not isinstance(largest, (bool, np.bool_)):
        raise ValueError(
            f"largest={largest!r}: give True for the largest scores, False for the smallest"
        )
    if below is not None and not (_is_number(below) and math.isfinite(below)):
        raise ValueError(f"below={below!r}: give a number, such as 1.0 for IFD, or None")
    if not _is_number(confidence) or not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}: give a number between 0 and 1, such as 0.95")
    whole = isinstance(resamples, (int, np.integer)) and not isinstance(resamples, bool)
    if not whole or not (resamples == 0 or resamples >= LEAST_RESAMPLES):
        raise ValueError(
            f"resamples={resamples!r}: give at least {LEAST_RESAMPLES}, or 0 for no intervals"
        )
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed={seed!r}: give a whole number, 0 or more")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
