"""Compare arms: differences, intervals and verdicts, with the variance of rows, orders and draws.

    Var(a - r) = Var_a + s²_draw / R + max(0, Var_rows - N)

s²_draw is the variance between runs of the random arms, which differ in draw and order; s²_order
that between runs of arms whose rows are fixed, pooled over arms. A selection is one set of rows:
what would tell it from random rows by chance is the luck of one draw, so its own part is

    Var_a = max(s²_draw - s²_order (1 - 1/S), s²_order / S)

with S orders, s²_order taken as s²_draw at most, which holds it.

Var_rows is the variance over paired rows of the difference. All runs are measured on the same rows,
so what single rows add to one run and not to another by chance is in s²_draw and s²_order already:
N is that part of Var_rows. With n²_draw and n²_order, the variances over rows of runs around the
mean of their arm's, it is Var_a + s²_draw / R with n² in the place of s². What remains is how the
difference itself differs from row to row: nothing between two random draws, much where a selection
is better on long responses and worse on short ones.

The critical value is the mean of Student's t of the parts' degrees of freedom, weighted by the
parts (Cochran and Cox, Experimental Designs, 1957, section 4.14): Satterthwaite's single number of
degrees of freedom calls two random draws different in up to 15 of 100 cases where there are two of
them, and this in 6. p-values are corrected over the comparisons that were stated before (Holm,
Scandinavian Journal of Statistics 6, 1979).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .arms import RANDOM_ARMS, UNTRAINED
from .figures import PRIMARY, Measured, Ratio, ratio_of

LEVEL = 0.05
SMALLEST_P = 1e-12  # smaller ones are called this
POWER = 0.80  # of the smallest difference that could have been seen
BETTER, WORSE, SAME, DEPENDS = "better", "worse", "no difference seen", "depends"


@dataclass(frozen=True)
class Spread:
    """Hold the variance between runs of one figure, pooled over arms.

    Attributes:
        order, order_freedom: of arms whose rows are fixed; 0 freedom where none ran twice.
        draw, draw_freedom: of random arms.
        order_rows, draw_rows: how much of these single rows make by chance.
    """

    order: float
    order_freedom: int
    draw: float
    draw_freedom: int
    order_rows: float = 0.0
    draw_rows: float = 0.0


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
        shares: of the variance: rows; orders; draw, that the arm is one set of rows; draws, of the
            random arm.
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
    shares: Mapping[str, float] = field(default_factory=dict)

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
    sums, rows, freedom = np.zeros(2), np.zeros(2), np.zeros(2, dtype=np.int64)
    for arm, runs in measured.items():
        count = len(runs.nats)
        if arm != UNTRAINED and count > 1:
            ratio, kind = ratio_of(figure, runs), int(arm in RANDOM_ARMS)
            sums[kind] += ratio.values().var() * count
            rows[kind] += ratio.run_variance()
            freedom[kind] += count - 1
    order, draw = (sums / np.maximum(freedom, 1)).tolist()
    order_rows, draw_rows = (rows / np.maximum(freedom, 1)).tolist()
    return Spread(order, int(freedom[0]), draw, int(freedom[1]), order_rows, draw_rows)


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
    own, reference = ratio_of(figure, measured[arm]), ratio_of(figure, measured[against])
    values, drawn = own.values(), reference.values()
    value = float(values.mean() - drawn.mean())
    parts = _parts((arm, against), own, reference, spread_of(figure, measured))
    error = math.sqrt(sum(part.variance for part in parts))
    half = critical_value(1 - LEVEL / 2, parts) * error
    smallest = _smallest_visible(LEVEL / family, error, parts)
    p = _p_value(value, error, parts)
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
        shares=_shares(parts),
    )


class Part(NamedTuple):
    """Hold a part of the variance of a difference.

    Attributes:
        source: rows, orders, draw or draws, as in `Difference`.
        variance: in squared nats.
        freedom: its degrees of freedom.
        by_rows: how much of it single rows make by chance.
    """

    source: str
    variance: float
    freedom: float
    by_rows: float = 0.0


def _parts(names: tuple[str, str], own: Ratio, reference: Ratio, spread: Spread) -> list[Part]:
    """Split the variance of a difference of two arms; parts that are 0 are left out."""
    runs = [
        _variance_of_runs(name, len(ratio.sums), spread)
        for name, ratio in zip(names, (own, reference), strict=True)
    ]
    variance, freedom = own.row_variance(reference)
    by_rows = sum(part.by_rows for part in runs)
    parts = [Part("rows", max(0.0, variance - by_rows), freedom), *runs]
    return [part for part in parts if part.variance > 0]


def _variance_of_runs(arm: str, runs: int, spread: Spread) -> Part:
    """Return what draws and orders add to the variance of an arm's mean."""
    if arm == UNTRAINED:
        return Part("orders", 0.0, 0.0)
    if arm in RANDOM_ARMS:
        return Part("draws", spread.draw / runs, spread.draw_freedom, spread.draw_rows / runs)
    # A draw's run has another order too: its variance cannot really be the smaller one.
    order, order_rows = min(spread.order, spread.draw), min(spread.order_rows, spread.draw_rows)
    as_drawn, as_ordered = spread.draw - order * (1 - 1 / runs), order / runs
    if as_drawn >= as_ordered:
        by_rows = spread.draw_rows - order_rows * (1 - 1 / runs)
        return Part("draw", as_drawn, spread.draw_freedom, by_rows)
    return Part("orders", as_ordered, spread.order_freedom, order_rows / runs)


def _shares(parts: Sequence[Part]) -> dict[str, float]:
    """Return the shares of a variance by what would make them smaller.

    What single rows make of the other parts by chance counts with the rows: more rows held out
    make it smaller too.
    """
    total = sum(part.variance for part in parts)
    shares: dict[str, float] = {}
    for part in parts:
        by_rows = part.variance if part.source == "rows" else min(part.by_rows, part.variance)
        for source, variance in (("rows", by_rows), (part.source, part.variance - by_rows)):
            if variance > 0:
                shares[source] = shares.get(source, 0.0) + variance / total
    return shares


def critical_value(probability: float, parts: Sequence[Part]) -> float:
    """Weight Student's t of the degrees of freedom of every part of a variance by the part.

    Args:
        probability: at which t is taken, above 0.5.
        parts: of a variance; without any, the value is 0.

    Example:
        >>> critical_value(0.975, [Part("rows", 1.0, 1e9), Part("draws", 3.0, 1)])
        10.01964...
    """
    from scipy import special

    total = sum(part.variance for part in parts)
    weighted = sum(
        part.variance * float(special.stdtrit(part.freedom, probability)) for part in parts
    )
    return weighted / total if total else 0.0


def _smallest_visible(level: float, error: float, parts: Sequence[Part]) -> float:
    """Return the difference that is seen in 80 of 100 cases.

    It has to exceed the half-width c σ of an interval, which varies itself with the variances v_k
    that it is made of, w_k = v_k / σ²: to first order

        c σ + z σ √(1 + Σ_k (w_k (t_k - c / 2))² 2 / ν_k)

    Args:
        level: of one comparison.
        error: σ, the standard error.
        parts: v_k with their degrees of freedom ν_k.
    """
    from scipy import special

    critical, spread = critical_value(1 - level / 2, parts), 1.0
    for part in parts:
        own = float(special.stdtrit(part.freedom, 1 - level / 2))
        slope = part.variance / error**2 * (own - critical / 2)
        spread += slope**2 * 2 / part.freedom
    return (critical + float(special.ndtri(POWER)) * math.sqrt(spread)) * error


def _p_value(value: float, error: float, parts: Sequence[Part]) -> float:
    """Return the two-sided level at which the critical value is the one seen."""
    from scipy import optimize

    if error == 0:
        return 1.0 if value == 0 else 0.0
    seen = abs(value) / error
    if critical_value(1 - SMALLEST_P / 2, parts) <= seen:
        return SMALLEST_P
    level = optimize.brentq(
        lambda p: critical_value(1 - p / 2, parts) - seen, SMALLEST_P, 1.0, xtol=SMALLEST_P
    )
    return float(level)


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
