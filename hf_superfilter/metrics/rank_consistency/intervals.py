"""From a figure and its standard error to an interval that holds the truth as often as it says."""

import math
from statistics import NormalDist

import numpy as np


def correlation_interval(value: float, error: float, confidence: float) -> tuple[float, float]:
    """The interval of a correlation, symmetric on Fisher's scale: tanh(atanh(r) +- z error / (1 - r^2)).

    It stays inside [-1, 1] and leans away from the nearer end. Without an error, as where every resample
    agrees perfectly, it has no width; nan where the correlation or the error is.

    Source: Fisher, 1921; the error comes from the data instead of from a normal distribution.

    Example:
        >>> [round(end, 3) for end in correlation_interval(0.8, 0.02, 0.95)]
        [0.757, 0.836]
    """
    if math.isnan(value) or math.isnan(error):
        return math.nan, math.nan
    if error == 0 or abs(value) >= 1:
        return value, value
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error / (1 - value**2)
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)


def share_interval(value: float, error: float, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share, for as many independent rows as would have its standard error.

    Their number is value (1 - value) / error^2; `rows`, those that the share is of, where the share is 0 or
    1 and no resample can tell. So a share of 0 of 15 rows reaches up to 20%, not to 0%.

    Source: Wilson, 1927; the effective number of rows as in Korn and Graubard, Survey Methodology 24, 1998.

    Example:
        >>> [round(end, 3) for end in share_interval(0.61, 0.025, 300, 0.95)]
        [0.56, 0.658]
        >>> [round(end, 3) for end in share_interval(0.0, 0.0, 15, 0.95)]
        [0.0, 0.204]
    """
    if math.isnan(value) or math.isnan(error):
        return math.nan, math.nan
    value = min(max(value, 0.0), 1.0)
    unsure = 0 < value < 1 and error > 0
    many = value * (1 - value) / error**2 if unsure else float(rows)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (value + z * z / (2 * many)) / (1 + z * z / many)
    half = (
        z / (1 + z * z / many) * math.sqrt(value * (1 - value) / many + z * z / (4 * many * many))
    )
    return min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value)


def kendall(weak: np.ndarray, strong: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b of (m,) finite scores, and its standard error; nan where one side is all ties.

    With c_i the rows concordant with row i less the discordant ones, and u_i, v_i the rows that do not tie
    with it on either side, tau-b = sum c / sqrt(sum u sum v). Its standard error is that of the mean of the
    rows' influences (the infinitesimal jackknife of a ratio of U-statistics), so one count of pairs in
    O(m log^2 m) stands for all resamples; nan for fewer than 3 pairs.

    Source: Kendall, Rank Correlation Methods, 1948; the error: Hoeffding, A class of statistics with
        asymptotically normal distribution, Annals of Mathematical Statistics 19, 1948, section 9.

    Example:
        >>> tau, error = kendall(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 3, 5, 4]))  # 1 of 10 pairs turned
        >>> round(tau, 6)
        0.8
    """
    m = len(weak)
    x, y = (np.unique(side, return_inverse=True)[1].astype(np.int64) for side in (weak, strong))
    c = _both_smaller(x, y) + _both_smaller(-x, -y) - _both_smaller(-x, y) - _both_smaller(x, -y)
    u, v = (m - np.bincount(side)[side] for side in (x, y))
    if not (u.any() and v.any()):
        return math.nan, math.nan
    tau = float(c.sum() / math.sqrt(u.sum()) / math.sqrt(v.sum()))
    if m < 3:
        return tau, math.nan
    scale = math.sqrt(u.mean()) * math.sqrt(v.mean())
    influence = 2 * (c - c.mean()) / scale - tau * (u / u.mean() + v / v.mean() - 2)
    return tau, math.sqrt(float(np.sum(influence**2)) / (m * (m - 2)))


def _both_smaller(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m,) integers on two sides -> for each row, how many rows are smaller on both."""
    order = np.lexsort(
        (-y, x)
    )  # among equal x the largest y first: none of them is then before and smaller
    counts = np.empty_like(x)
    counts[order] = _smaller_before(y[order])
    return counts


def _smaller_before(values: np.ndarray) -> np.ndarray:
    """(m,) integers -> for each, how many before it are smaller: the counts of a merge sort, a level at a time.

    width 2:   3 1 | 2 0      a value of a right half counts the smaller ones of the left half of its block;
    width 1:   3 | 1   2 | 0  its places inside the sorted left halves of all blocks tell them at once
    """
    values = values - values.min()
    counts, index, span, width = (
        np.zeros_like(values),
        np.arange(len(values)),
        int(values.max()) + 1,
        1,
    )
    while width < len(values):
        block, right = index // (2 * width), (index // width) % 2 == 1
        keys = block * span + values
        left = np.sort(keys[~right])
        counts[right] += np.searchsorted(left, keys[right]) - block[right] * width
        width *= 2
    return counts
