"""The figures of pairs that carry whole-number weights: a resample is such a vector of weights.

A row drawn twice is a row of weight 2, so nothing is sorted again for a resample: two orders are
found once, and every figure of every resample is then a few sums along them, O(m) instead of O(m log m).

    row, best first   r4  r1  r9  r2
    weight             1   0   2   1      drawn so often
    copies before      0   1   1   3      the running sum: r9 holds the places 2 and 3 of this resample
    in its top 2       1   0   1   0      copies of r9 that are in, clip(2 - 1, 0, 2)
"""

import math
from collections.abc import Iterator

import numpy as np

CELLS = (
    1 << 16
)  # weights held at a time, so that what is made of them stays in the processor's cache


def weights_of_resamples(pairs: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """`count` resamples of `pairs` rows with replacement, some at a time: (r, pairs) how often each was drawn."""
    rng = np.random.default_rng(seed)
    at_a_time = max(1, CELLS // pairs)
    for start in range(0, count, at_a_time):
        here = min(at_a_time, count - start)
        drawn = rng.integers(0, pairs, (here, pairs)) + pairs * np.arange(here)[:, None]
        yield np.bincount(drawn.ravel(), minlength=here * pairs).reshape(here, pairs)


class Side:
    """One model's scores of the m pairs: its order, its ties, and the rows that it may select.

    Args:
        scores: (m,) finite numbers.
        largest: whether the best are the largest. Ties go to the earlier row.
        below: rows whose score is not below it are never selected; None selects among all.

    Attributes:
        order: (m,) row numbers, best first.
        group: (m,) along the order, the number of the tie that a row is part of; group_starts where each begins.
        allowed: (m,) along the order, whether the row may be selected.
    """

    def __init__(self, scores: np.ndarray, *, largest: bool, below: float | None) -> None:
        self.order = np.argsort(-scores if largest else scores, kind="stable")
        ordered = scores[self.order]
        new = np.ones(len(scores), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.group, self.group_starts = np.cumsum(new) - 1, np.flatnonzero(new)
        self.allowed = np.ones(len(scores), dtype=bool) if below is None else ordered < below

    def splits_a_tie(self, rows: int) -> bool:
        """Whether the last row of the top has the score of the first row that is left out."""
        group = self.group[self.allowed]
        return 0 < rows < len(group) and bool(group[rows - 1] == group[rows])

    def midranks(self, ordered: np.ndarray) -> np.ndarray:
        """(r, m) weights along the order -> the mean rank of a row's copies and their ties, less that of all."""
        group = np.add.reduceat(ordered, self.group_starts, axis=1)
        last = np.cumsum(group, axis=1)
        return np.take(last - (group - 1) / 2, self.group, axis=1) - (last[:, -1:] + 1) / 2

    def copies_before(self, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(r, m) weights along the order -> copies of better rows that may be selected, and (r,) of all rows."""
        allowed = ordered * self.allowed
        running = np.cumsum(allowed, axis=1)
        return running - allowed, running[:, -1]


class Comparison:
    """The figures of two sides of m pairs, for any weights.

    Args:
        weak, strong: the two sides.
        logs: (2, m) the logarithms of their scores; None leaves `pearson_log` out.
        tops: figure -> (rows of the weak top, rows of the strong top): the share of the strong top that is
            in the weak one. A figure whose strong top has no rows is left out.
        depth: the expected depth 1/(1 - p) of rank-biased overlap, in rows; 0 leaves `rbo` out.
    """

    def __init__(
        self,
        weak: Side,
        strong: Side,
        logs: np.ndarray | None,
        tops: dict[str, tuple[int, int]],
        depth: int,
    ) -> None:
        self.weak, self.strong = weak, strong
        place = np.empty_like(weak.order)
        place[weak.order] = np.arange(len(place))
        self.across = place[
            strong.order
        ]  # along the strong order, where each row stands in the weak one
        self.both = weak.allowed[self.across] & strong.allowed
        self.tops = {figure: rows for figure, rows in tops.items() if rows[1]}
        self.rank_biased = RankBiasedOverlap(depth, len(place)) if depth else None
        self.moments = None
        if (
            logs is not None
        ):  # of standardised logarithms, so that no digits are lost to a far-off mean
            logs = logs[:, strong.order]
            a, b = (logs - logs.mean(axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)
            self.moments = np.stack([a, b, a * a, b * b, a * b], axis=1)

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(r, m) weights -> each figure as (r,) numbers, nan where a resample leaves it undefined."""
        weak, strong = (
            np.take(weights, self.weak.order, axis=1),
            np.take(weights, self.strong.order, axis=1),
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._correlations(weak, strong) | self._shares(weak, strong)

    def _correlations(self, weak: np.ndarray, strong: np.ndarray) -> dict[str, np.ndarray]:
        """From the weights along the two orders; what is summed runs along the strong one."""
        ranks = np.take(self.weak.midranks(weak), self.across, axis=1), self.strong.midranks(strong)
        weighted = strong * ranks[0], strong * ranks[1]
        spreads = [
            np.sqrt(np.einsum("rm,rm->r", w, rank)) for w, rank in zip(weighted, ranks, strict=True)
        ]
        found = {"spearman": np.einsum("rm,rm->r", weighted[0], ranks[1]) / spreads[0] / spreads[1]}
        if self.moments is not None:
            a, b, aa, bb, ab = (strong @ self.moments / strong.sum(axis=1, keepdims=True)).T
            variances = [
                np.where(v > 1e-14, v, np.nan) for v in (aa - a * a, bb - b * b)
            ]  # of one value: 0, but for rounding
            found["pearson_log"] = (ab - a * b) / np.sqrt(variances[0] * variances[1])
        return {name: np.clip(values, -1.0, 1.0) for name, values in found.items()}

    def _shares(self, weak: np.ndarray, strong: np.ndarray) -> dict[str, np.ndarray]:
        copies, found = strong * self.both, {}
        weak_before, weak_total = self.weak.copies_before(weak)
        strong_before, strong_total = self.strong.copies_before(strong)
        weak_before = np.take(weak_before, self.across, axis=1)
        for figure, (weak_rows, strong_rows) in self.tops.items():
            end = np.count_nonzero(
                strong_before < strong_rows, axis=1
            ).max()  # no row beyond is in the strong top
            room = np.minimum(
                weak_rows - weak_before[:, :end], strong_rows - strong_before[:, :end]
            )
            found[figure] = np.clip(room, 0, copies[:, :end]).sum(axis=1) / np.minimum(
                strong_rows, strong_total
            )
        if self.rank_biased:
            before = np.maximum(weak_before, strong_before)
            found["rbo"] = self.rank_biased(before, before + copies, weak_total, strong_total)
        return found

    def sizes(self, figure: str) -> tuple[int, int]:
        """How many rows the weak and the strong top of a figure have; fewer than wanted where fewer may be selected."""
        weak, strong = self.tops.get(figure, (len(self.both), len(self.both)))
        return min(weak, int(self.weak.allowed.sum())), min(strong, int(self.strong.allowed.sum()))

    def by_chance(self, figure: str) -> float:
        """What a share is on average where the two rankings have nothing to do with each other."""
        weak, strong = self.sizes(figure)
        if figure == "rbo":
            return (
                self.rank_biased.by_chance(weak, strong, len(self.both))
                if self.rank_biased
                else math.nan
            )
        return weak / len(self.both) if strong and figure in self.tops else math.nan


class RankBiasedOverlap:
    """Rank-biased overlap, extrapolated, of two lists of rows.

    With X_d the rows that both lists have among their first d, for two lists of m rows

        RBO = X_m/m p^m + (1-p)/p sum_{d=1..m} X_d/d p^d

    and for lists of s < l rows, with X_s the rows common at depth s,

        RBO = (1-p)/p (sum_{d=1..l} X_d/d p^d + sum_{d=s+1..l} X_s (d-s)/(s d) p^d) + ((X_l-X_s)/l + X_s/s) p^l

    Both are linear in X, so a row that is common from depth r on adds a number of its own: with
    C(d) = (1-p)/p sum_{i<=d} p^i/i it is C(s) + p^s/s - C(r-1) for r <= s and C(l) + p^l/l - C(r-1) beyond.

    Args:
        depth: 1/(1 - p); the first `depth` ranks then have about 86% of the weight.
        rows: length of the longer list, at most.

    Source: Webber, Moffat and Zobel, A similarity measure for indefinite rankings, ACM TOIS 28(4), 2010,
        equation 32.
    """

    def __init__(self, depth: int, rows: int) -> None:
        ranks, p = np.arange(1, rows + 1), 1 - 1 / depth
        self.c = np.concatenate([[0.0], np.cumsum((1 - p) * p ** (ranks - 1) / ranks)])
        self.c_sum = np.concatenate([[0.0], np.cumsum(self.c[:-1])])
        self.rest = np.concatenate([[np.nan], self.c[1:] + p**ranks / ranks])

    def __call__(
        self, before: np.ndarray, last: np.ndarray, weak: np.ndarray, strong: np.ndarray
    ) -> np.ndarray:
        """(r, m) a row's copies are common from the depths before+1 ... last on; (r,) rows of both lists."""
        short, long = np.minimum(weak, strong), np.maximum(weak, strong)
        common = (last - before).sum(axis=1)
        in_short = (np.minimum(last, short[:, None]) - np.minimum(before, short[:, None])).sum(
            axis=1
        )
        passed = (np.take(self.c_sum, last) - np.take(self.c_sum, before)).sum(axis=1)
        return self.rest[short] * in_short + self.rest[long] * (common - in_short) - passed

    def by_chance(self, weak: int, strong: int, pairs: int) -> float:
        """The expected value where the two lists are independent draws from the same pairs: X_d is then
        min(d, s) d / pairs on average."""
        short, long = min(weak, strong), max(weak, strong)
        if not short:
            return math.nan
        depths = np.arange(long + 1)
        common = np.minimum(depths, short) * depths / pairs
        rest = np.where(depths[1:] <= short, self.rest[short], self.rest[long])
        return float(np.sum(np.diff(common) * (rest - self.c[:long])))
