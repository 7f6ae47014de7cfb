"""Compare arms: differences, intervals and verdicts, with the variance of rows, orders and draws.

    Var(a - r) = Var_rows + Var_a + s²_draw / R

Var_rows comes from paired rows. s²_draw is the variance between runs of the random arms, which
differ in draw and order; s²_order that between runs of arms whose rows are fixed, pooled over arms.
A selection is one set of rows: what would tell it from random rows by chance is the luck of one
draw, so its own part is

    Var_a = max(s²_draw - s²_order (1 - 1/S), s²_order / S)

with S orders, s²_order taken as s²_draw at most, which holds it. Degrees of freedom are Welch's and
Satterthwaite's, and p-values are corrected over the comparisons that were stated before (Holm,
Scandinavian Journal of Statistics 6, 1979).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arms import RANDOM_ARMS, UNTRAINED
from .figures import PRIMARY, Measured, Ratio, ratio_of

LEVEL = 0.05
POWER = 0.80  # of the smallest difference that could have been seen
BETTER, WORSE, SAME, DEPENDS = "better", "worse", "no difference seen", "depends"


@dataclass(frozen=True)
class Spread:
    """Hold the variance between runs of one figure, pooled over arms.

    Attributes:
        order, order_freedom: of arms whose rows are fixed; 0 freedom where none ran twice.
        draw, draw_freedom: of random arms.
    """

    order: float
    order_freedom: int
    draw: float
    draw_freedom: int


@dataclass(frozen=True)
class Difference:
    """Hold the difference of an arm to a random arm, in nats; negative is better.

    Attributes:
        arm, against: their names.
        rows_of: the set that was measured.
        figure: what was measured.
        value: the difference of the means over runs.
        low, high: its 95% interval, of this comparison by itself.
        error: the standard error.
        p: two-sided, of this comparison by itself.
        p_corrected: corrected over its family; p where it is alone.
        smallest: the smallest difference that would have been seen in 80 of 100 cases, at the
            level that the family leaves to one comparison.
        beaten, draws: the runs of the random arm whose loss is higher than the arm's mean, of all.
    """

    arm: str
    against: str
    rows_of: str
    figure: str
    value: float
    low: float
    high: float
    error: float
    p: float
    p_corrected: float
    smallest: float
    beaten: int
    draws: int

    @property
    def word(self) -> str:
        """Return `better`, `worse` or `no difference seen`."""
        if self.p_corrected >= LEVEL:
            return SAME
        return BETTER if self.value < 0 else WORSE

    @property
    def verdict(self) -> str:
        """Return the word, with the smallest visible difference where none was seen."""
        if self.word == SAME:
            return f"{SAME} (below {self.smallest:.3f})"
        return self.word


def spread_of(figure: str, measured: Measured) -> Spread:
    """Pool the variance between runs of one figure over arms."""
    sums, freedom = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for arm, runs in measured.items():
        values = ratio_of(figure, runs).values()
        if arm != UNTRAINED and len(values) > 1:
            is_random = arm in RANDOM_ARMS
            sums[is_random] += float(((values - values.mean()) ** 2).sum())
            freedom[is_random] += len(values) - 1
    order = sums[False] / freedom[False] if freedom[False] else 0.0
    draw = sums[True] / freedom[True] if freedom[True] else 0.0
    return Spread(order, freedom[False], draw, freedom[True])


def difference(
    arm: str, against: str, rows_of: str, figure: str, measured: Measured, family: int = 1
) -> Difference:
    """Compare an arm with another, mostly a random one, on one figure of one set.

    Args:
        arm, against: names in `measured`.
        rows_of: the name of the set.
        figure: as `FIGURES` names it.
        measured: arm -> its runs on the set.
        family: comparisons over which it will be corrected.
    """
    from scipy import stats

    own, reference = ratio_of(figure, measured[arm]), ratio_of(figure, measured[against])
    values, drawn = own.values(), reference.values()
    value = float(values.mean() - drawn.mean())
    variance, freedom = _variance((arm, against), own, reference, spread_of(figure, measured))
    error = math.sqrt(variance)
    if error > 0:
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
    else:
        p = 1.0 if value == 0 else 0.0
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    strict = float(stats.t.ppf(1 - LEVEL / family / 2, freedom))
    smallest = (strict + float(stats.t.ppf(POWER, freedom))) * error
    return Difference(
        arm=arm,
        against=against,
        rows_of=rows_of,
        figure=figure,
        value=value,
        low=value - half,
        high=value + half,
        error=error,
        p=p,
        p_corrected=p,
        smallest=smallest,
        beaten=int(np.count_nonzero(drawn > values.mean())),
        draws=len(drawn),
    )


def _variance(
    names: tuple[str, str], own: Ratio, reference: Ratio, spread: Spread
) -> tuple[float, float]:
    """Return the variance of a difference of two arms and its degrees of freedom."""
    parts = [own.row_variance(reference)]
    for name, ratio in zip(names, (own, reference), strict=True):
        parts.append(_variance_of_runs(name, len(ratio.sums), spread))
    total = sum(part for part, _ in parts)
    squares = sum(part**2 / freedom for part, freedom in parts if freedom > 0)
    if squares == 0:
        return total, 1.0
    return total, max(1.0, total**2 / squares)


def _variance_of_runs(arm: str, runs: int, spread: Spread) -> tuple[float, float]:
    """Return what draws and orders add to the variance of an arm's mean, and its freedom."""
    if arm == UNTRAINED:
        return 0.0, 0.0
    if arm in RANDOM_ARMS:
        return spread.draw / runs, spread.draw_freedom
    # A draw's run has another order too: its variance cannot really be the smaller one.
    order = min(spread.order, spread.draw)
    as_drawn, as_ordered = spread.draw - order * (1 - 1 / runs), order / runs
    if as_drawn >= as_ordered:
        return as_drawn, spread.draw_freedom
    return as_ordered, spread.order_freedom


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Correct the p-values of one family of comparisons.

    Example:
        >>> import numpy as np
        >>> from hf_superfilter.validation.differences import corrected_p
        >>> corrected_p([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    corrected = corrected_p([one.p for one in differences]).tolist()
    return [replace(one, p_corrected=p) for one, p in zip(differences, corrected, strict=True)]


def corrected_p(values: Sequence[float]) -> np.ndarray:
    """Correct p-values for their number after Holm.

    Args:
        values: m p-values.

    Returns:
        (m,) corrected ones, at most 1.
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def compare_arms(
    arms: Sequence[str], against: Sequence[str], sets: Mapping[str, Measured], figure: str = PRIMARY
) -> list[Difference]:
    """Compare arms with random arms on every set, corrected as one family.

    Two random arms are compared once.
    """
    pairs = []
    for arm in arms:
        earlier = against[: against.index(arm)] if arm in against else against
        pairs += [(arm, random) for random in earlier]
    family = len(pairs) * len(sets)
    return holm(
        [
            difference(arm, random, name, figure, measured, family)
            for name, measured in sets.items()
            for arm, random in pairs
        ]
    )


def as_facts(one: Difference) -> dict[str, Any]:
    """Return a difference as plain values, with its verdict."""
    facts = dict(vars(one))
    return facts | {"word": one.word, "verdict": one.verdict}
