"""Compute confidence intervals from a statistic and its standard error."""

import math
from statistics import NormalDist

import numpy as np


def correlation_interval(value: float, error: float, confidence: float) -> tuple[float, float]:
    """Compute the interval of a correlation on Fisher's scale.

        tanh(atanh(r) +- z error / (1 - r^2))

    It stays inside [-1, 1] and leans away from the nearer end. Without an error, as where every
    resample agrees perfectly, it has no width; nan where the correlation or the error is nan.

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
    """Compute Wilson's interval of a share at its effective sample size.

    The effective sample size is the number of independent rows that would have this standard error,
    `value (1 - value) / error^2`, and need not be whole (scipy's intervals take whole counts only).
    It is `rows`, those that the share is of, where the share is 0 or 1 and resamples cannot tell: a
    share of 0 of 15 rows reaches up to 20%, not to 0%.

    Source: Wilson, 1927; the effective sample size as in Korn and Graubard, Survey Methodology 24,
        1998.

    Example:
        >>> [round(end, 3) for end in share_interval(0.61, 0.025, 300, 0.95)]
        [0.56, 0.658]
        >>> [round(end, 3) for end in share_interval(0.0, 0.0, 15, 0.95)]
        [0.0, 0.204]
    """
    if math.isnan(value) or math.isnan(error):
        return math.nan, math.nan
    p = min(max(value, 0.0), 1.0)
    n = float(rows)
    if 0 < p < 1 and error > 0:
        n = p * (1 - p) / error**2
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not put the share itself outside its interval.
    return min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p)


def kendall(weak: np.ndarray, strong: np.ndarray) -> tuple[float, float]:
    """Compute Kendall's tau-b and its standard error.

    With c_i the rows concordant with row i minus the discordant ones, and u_i, v_i the rows that do
    not tie with it on either side, tau-b = sum c / sqrt(sum u sum v). Its standard error is that of
    the mean of the rows' influences (the infinitesimal jackknife of a ratio of U-statistics), so
    one count of pairs in O(m log^2 m) replaces all resamples.

    Args:
        weak, strong: (m,) finite scores.

    Returns:
        tau-b, nan where one side is all ties, and its error, nan for fewer than 3 pairs.

    Source: Kendall, Rank Correlation Methods, 1948; the error: Hoeffding, A class of statistics
        with asymptotically normal distribution, Annals of Mathematical Statistics 19, 1948, section
        9.

    Example:
        >>> swapped = np.array([1.0, 2, 3, 5, 4])  # 1 of 10 pairs in the other order
        >>> tau, error = kendall(np.array([1.0, 2, 3, 4, 5]), swapped)
        >>> round(tau, 6)
        0.8
    """
    m = len(weak)
    x, y = (np.unique(side, return_inverse=True)[1].astype(np.int64) for side in (weak, strong))
    c = _concordance(x, y)
    u, v = (m - np.bincount(side)[side] for side in (x, y))
    if not (u.any() and v.any()):
        return math.nan, math.nan
    tau = float(c.sum() / math.sqrt(u.sum()) / math.sqrt(v.sum()))
    if m < 3:
        return tau, math.nan
    scale = math.sqrt(u.mean()) * math.sqrt(v.mean())
    influence = 2 * (c - c.mean()) / scale - tau * (u / u.mean() + v / v.mean() - 2)
    return tau, math.sqrt(float(np.sum(influence**2)) / (m * (m - 2)))


def _concordance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Count for each row the concordant rows minus the discordant ones.

    One count of pairs is enough: with s the rows that are smaller on both sides, all others follow
    from how many are smaller, or equal, on one side.

             y <      y =     y >
        x <  s        tie_y   rest       rest: smaller(x) - s - tie_y
        x =  tie_x    equal
        x >  rest                        rest: smaller(y) - s - tie_x

    Args:
        x, y: (m,) whole numbers from 0.
    """
    m = len(x)
    # Among equal x the largest y comes first: none of them is then before and smaller.
    order = np.lexsort((-y, x))
    s = np.empty_like(x)
    s[order] = _smaller_before(y[order])
    smaller_x, equal_x = _smaller_and_equal(x)
    smaller_y, equal_y = _smaller_and_equal(y)
    smaller_pairs, equal = _smaller_and_equal(x * m + y)
    tie_x = smaller_pairs - smaller_x
    tie_y = _smaller_and_equal(y * m + x)[0] - smaller_y
    not_larger = s + tie_x + tie_y + equal
    concordant = s + m - (smaller_x + equal_x) - (smaller_y + equal_y) + not_larger
    discordant = smaller_x + smaller_y - 2 * s - tie_x - tie_y
    balance: np.ndarray = concordant - discordant
    return balance


def _smaller_and_equal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count for each value how many are smaller, and how many equal, itself among them."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    smaller = np.cumsum(counts) - counts
    return smaller[group], counts[group]


def _smaller_before(values: np.ndarray) -> np.ndarray:
    """Count for each integer how many before it are smaller.

    This is the counting of a merge sort, one level at a time:

    width 2:   3 1 | 2 0      a value of a right half counts the smaller ones of the left half of
        its
    width 1:   3 | 1   2 | 0  block; its places in the sorted left halves of all blocks tell them at
        once
    """
    values = values - values.min()
    counts = np.zeros_like(values)
    index = np.arange(len(values))
    span = int(values.max()) + 1
    width = 1
    while width < len(values):
        block = index // (2 * width)
        right = (index // width) % 2 == 1
        keys = block * span + values
        left = np.sort(keys[~right])
        counts[right] += np.searchsorted(left, keys[right]) - block[right] * width
        width *= 2
    return counts
