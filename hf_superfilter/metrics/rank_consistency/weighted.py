"""Compute rank statistics of pairs that carry whole-number weights.

A resample is a vector of weights: a row drawn twice is a row of weight 2. So nothing is sorted
again
for a resample: two orders are computed once, and every statistic of every resample is then a few
sums along them, O(m) instead of O(m log m).

    row, best first   r4  r1  r9  r2
    weight             1   0   2   1      how often the row was drawn
    copies before      0   1   1   3      the running sum: r9 has the places 2 and 3 of this
    resample in its top 2       1   0   1   0      copies of r9 that are in, clip(2 - 1, 0, 2)
"""

import math
from collections.abc import Iterator

import numpy as np

# Weights held at a time, so that what is computed from them stays in the processor's cache.
CELLS = 1 << 16
# Below this variance of standardised logarithms all values are one value, up to rounding.
NO_VARIANCE = 1e-14


def weights_of_resamples(
    pairs: int, count: int, seed: int | np.random.Generator
) -> Iterator[np.ndarray]:
    """Draw resamples with replacement, as weights.

    Args:
        pairs: rows to draw from, and to draw each time.
        count: resamples.
        seed: of the draws, or a generator that goes on.

    Yields:
        (r, pairs) int32, how often each row was drawn in each of the next r resamples.
    """
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // pairs)
    for start in range(0, count, block):
        size = min(block, count - start)
        draws = rng.integers(0, pairs, (size, pairs)) + pairs * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * pairs).reshape(size, pairs)
        # Half the bytes: of a million pairs most time goes into reading them in another order.
        yield weights.astype(np.int32)


class Side:
    """Hold one model's order of the m pairs, its ties, and the rows it may select.

    Args:
        scores: (m,) finite numbers.
        largest: whether the best are the largest. Ties go to the earlier row.
        below: rows whose score is not below it are never selected; None selects among all.

    Attributes:
        order: (m,) row numbers, best first.
        group: (m,) along the order, the number of the tie that a row is part of.
        group_starts: where each tie begins in the order.
        allowed: (m,) along the order, whether the row may be selected.
    """

    def __init__(self, scores: np.ndarray, *, largest: bool, below: float | None) -> None:
        self.order = np.argsort(-scores if largest else scores, kind="stable")
        ordered = scores[self.order]
        new = np.ones(len(scores), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.group = np.cumsum(new) - 1
        self.group_starts = np.flatnonzero(new)
        self.allowed = np.ones(len(scores), dtype=bool)
        if below is not None:
            self.allowed = ordered < below

    def splits_a_tie(self, rows: int) -> bool:
        """Return whether the cut after this many rows separates equal scores."""
        group = self.group[self.allowed]
        return 0 < rows < len(group) and bool(group[rows - 1] == group[rows])

    def midranks(self, weights: np.ndarray) -> np.ndarray:
        """Compute the mean rank of each row's copies and their ties, centred.

        Args:
            weights: (r, m) along the order.

        Returns:
            (r, m) midranks along the order, minus the mean rank of all copies.
        """
        has_ties = len(self.group_starts) < len(self.group)
        sizes = np.add.reduceat(weights, self.group_starts, axis=1) if has_ties else weights
        last = np.cumsum(sizes, axis=1, dtype=sizes.dtype)
        ranks = last - (sizes - 1) / 2 - (last[:, -1:] + 1) / 2
        return np.take(ranks, self.group, axis=1) if has_ties else ranks

    def copies_before(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the copies of better rows that may be selected.

        Args:
            weights: (r, m) along the order.

        Returns:
            (r, m) copies before each row, and (r,) copies of all rows that may be selected.
        """
        allowed = weights * self.allowed
        running = np.cumsum(allowed, axis=1, dtype=allowed.dtype)
        return running - allowed, running[:, -1]


class RankAgreement:
    """Compute the statistics of two sides of m pairs, for any weights.

    Args:
        weak, strong: the two sides.
        logs: (2, m) the logarithms of their scores; None leaves `pearson_log` out.
        tops: statistic -> (rows of the weak top, rows of the strong top): the share of the strong
            top that is in the weak one. A statistic whose strong top has no rows is left out.
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
        # Along the strong order: where each row stands in the weak one.
        self.across = place[strong.order]
        self.both = weak.allowed[self.across] & strong.allowed
        self.tops = {name: rows for name, rows in tops.items() if rows[1]}
        self.rank_biased = RankBiasedOverlap(depth, len(place)) if depth else None
        self.moments = None
        if logs is not None:
            # Standardised, so that no digits are lost to a mean far from 0.
            logs = logs[:, strong.order]
            a, b = (logs - logs.mean(axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)
            self.moments = np.stack([a, b, a * a, b * b, a * b], axis=1)

    def statistics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute every statistic of every resample.

        Args:
            weights: (r, m) how often each row counts.

        Returns:
            Statistic -> (r,) values, nan where a resample leaves it undefined.
        """
        weak = np.take(weights, self.weak.order, axis=1)
        strong = np.take(weights, self.strong.order, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._correlations(weak, strong) | self._shares(weak, strong)

    def _correlations(self, weak: np.ndarray, strong: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the correlations from the weights along the two orders."""
        # Sums run along the strong order.
        weak_ranks = np.take(self.weak.midranks(weak), self.across, axis=1)
        strong_ranks = self.strong.midranks(strong)
        weak_spread = np.sqrt(np.einsum("rm,rm->r", strong * weak_ranks, weak_ranks))
        strong_spread = np.sqrt(np.einsum("rm,rm->r", strong * strong_ranks, strong_ranks))
        product = np.einsum("rm,rm->r", strong * weak_ranks, strong_ranks)
        correlations = {"spearman": product / weak_spread / strong_spread}
        if self.moments is not None:
            means = strong @ self.moments / strong.sum(axis=1, keepdims=True)
            a, b, aa, bb, ab = means.T
            variance = _positive(aa - a * a) * _positive(bb - b * b)
            correlations["pearson_log"] = (ab - a * b) / np.sqrt(variance)
        return {name: np.clip(values, -1.0, 1.0) for name, values in correlations.items()}

    def _shares(self, weak: np.ndarray, strong: np.ndarray) -> dict[str, np.ndarray]:
        """Compute overlaps, survivals and rank-biased overlap."""
        copies = strong * self.both
        weak_before, weak_total = self.weak.copies_before(weak)
        strong_before, strong_total = self.strong.copies_before(strong)
        weak_before = np.take(weak_before, self.across, axis=1)
        shares = {}
        for name, (weak_rows, strong_rows) in self.tops.items():
            # No row beyond `end` is in the strong top.
            end = np.count_nonzero(strong_before < strong_rows, axis=1).max()
            weak_room = weak_rows - weak_before[:, :end]
            strong_room = strong_rows - strong_before[:, :end]
            common = np.clip(np.minimum(weak_room, strong_room), 0, copies[:, :end])
            shares[name] = common.sum(axis=1) / np.minimum(strong_rows, strong_total)
        if self.rank_biased:
            before = np.maximum(weak_before, strong_before)
            shares["rbo"] = self.rank_biased(before, before + copies, weak_total, strong_total)
        return shares

    def sizes(self, name: str) -> tuple[int, int]:
        """Return how many rows the weak and the strong top of a statistic hold.

        They are fewer than the budget where fewer rows may be selected.
        """
        weak, strong = self.tops.get(name, (len(self.both), len(self.both)))
        return min(weak, int(self.weak.allowed.sum())), min(strong, int(self.strong.allowed.sum()))

    def by_chance(self, name: str) -> float:
        """Compute a share's mean over two rankings that have nothing in common."""
        weak, strong = self.sizes(name)
        if name == "rbo" and self.rank_biased:
            return self.rank_biased.by_chance(weak, strong, len(self.both))
        if name in self.tops and strong:
            return weak / len(self.both)
        return math.nan


def _positive(variance: np.ndarray) -> np.ndarray:
    """Replace variances that are 0 up to rounding by nan."""
    return np.where(variance > NO_VARIANCE, variance, np.nan)


class RankBiasedOverlap:
    """Compute rank-biased overlap, extrapolated, of two lists of rows.

    With X_d the rows that both lists have among their first d, for two lists of m rows

        RBO = X_m/m p^m + (1-p)/p sum_{d=1..m} X_d/d p^d

    and for lists of s < l rows, with X_s the rows common at depth s,

        RBO = (1-p)/p (sum_{d=1..l} X_d/d p^d + sum_{d=s+1..l} X_s (d-s)/(s d) p^d)
              + ((X_l-X_s)/l + X_s/s) p^l

    Both are linear in X, so a row that is common from depth r on adds a number of its own: with
    C(d) = (1-p)/p sum_{i<=d} p^i/i it is C(s) + p^s/s - C(r-1) for r <= s and C(l) + p^l/l - C(r-1)
    beyond.

    Args:
        depth: 1/(1 - p); the first `depth` ranks then have about 86% of the weight.
        rows: length of the longer list, at most.

    Source: Webber, Moffat and Zobel, A similarity measure for indefinite rankings, ACM TOIS 28(4),
        2010, equation 32.
    """

    def __init__(self, depth: int, rows: int) -> None:
        ranks = np.arange(1, rows + 1)
        p = 1 - 1 / depth
        self.c = np.concatenate([[0.0], np.cumsum((1 - p) * p ** (ranks - 1) / ranks)])
        self.c_sum = np.concatenate([[0.0], np.cumsum(self.c[:-1])])
        self.tail = np.concatenate([[np.nan], self.c[1:] + p**ranks / ranks])

    def __call__(
        self, before: np.ndarray, last: np.ndarray, weak: np.ndarray, strong: np.ndarray
    ) -> np.ndarray:
        """Compute the overlap of each resample.

        Args:
            before, last: (r, m); a row's copies are common from the depths before+1 ... last on.
            weak, strong: (r,) rows of both lists.

        Returns:
            (r,) overlaps from 0 to 1.
        """
        short, long = np.minimum(weak, strong), np.maximum(weak, strong)
        edge = short[:, None]
        common = (last - before).sum(axis=1)
        in_short = (np.minimum(last, edge) - np.minimum(before, edge)).sum(axis=1)
        passed = (np.take(self.c_sum, last) - np.take(self.c_sum, before)).sum(axis=1)
        overlap = self.tail[short] * in_short + self.tail[long] * (common - in_short)
        return np.asarray(overlap - passed)

    def by_chance(self, weak: int, strong: int, pairs: int) -> float:
        """Compute the expected value of two independent draws from the same pairs.

        X_d is then min(d, s) d / pairs on average.
        """
        short, long = min(weak, strong), max(weak, strong)
        if not short:
            return math.nan
        depths = np.arange(long + 1)
        common = np.minimum(depths, short) * depths / pairs
        tail = np.where(depths[1:] <= short, self.tail[short], self.tail[long])
        return float(np.sum(np.diff(common) * (tail - self.c[:long])))
