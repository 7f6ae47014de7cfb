"""Does a weak model rank rows as a strong one does? `rank_consistency`, and how many rows an interval asks for.

The arithmetic stands in the folder of the `evaluate` metric, which must be whole by itself on the Hub; here it
gets its place in the package. Nothing is written twice.
"""

import math

from .metric.rank_consistency.agreement import rank_consistency

__all__ = ["rank_consistency", "rows_for_width"]


def rows_for_width(low: float, high: float, pairs: int, width: float) -> int:
    """How many rows would give an interval of a width, after one interval was measured.

        rows = pairs ((high - low) / width)^2

    The width of every interval of `rank_consistency` falls as 1 over the square root of the rows, also of a
    share of a top, which grows with them. Near 0 and 1, and for few rows, it is an estimate only.

    Args:
        low, high: the interval measured on `pairs` rows.
        width: the width wanted, from low to high: 0.10 is plus or minus 5 points.

    Raises:
        ValueError: the interval is nan or turned round, or a number that must be positive is not.

    Example:
        >>> rows_for_width(0.51, 0.71, pairs=500, width=0.10)    # half the width, four times the rows
        2000
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"low={low!r}, high={high!r}: give the two ends of an interval that was measured, low first")
    if pairs < 1:
        raise ValueError(f"pairs={pairs!r}: give the number of rows that the interval was measured on")
    if not width > 0:
        raise ValueError(f"width={width!r}: give a width above 0, such as 0.10")
    return max(1, math.ceil(round(pairs * ((high - low) / width) ** 2, 6)))
