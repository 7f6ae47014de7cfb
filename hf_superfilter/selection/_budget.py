"""Budgets: how many rows or tokens a selector may keep."""

import warnings
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_count
from ..data.columns import numbers_of

if TYPE_CHECKING:
    from datasets import Dataset


def count_of(k: int | float, total: int) -> int:
    """A budget as a number of rows: an int is a count, a float a share of ALL rows, rounded down.

    The share is taken as the decimal it is written as: 0.29 of 100 rows is 29, not 28.

    Example:
        >>> count_of(0.29, 100), count_of(0.1, 52_002), count_of(7, 100)
        (29, 5200, 7)
    """
    if isinstance(k, int):
        return k
    return int((Decimal(str(k)) * total).to_integral_value(rounding=ROUND_FLOOR))


def check_budget(k: int | float | None, tokens: int | None) -> None:
    """Refuse a budget that is not exactly one of `k` (count or share) and `tokens`, or is out of range."""
    if (k is None) == (tokens is None):
        raise ValueError(
            f"k={k!r}, tokens={tokens!r}: give one of the two, k rows (or a share) or a number of tokens"
        )
    if tokens is not None and not is_count(tokens):
        raise ValueError(f"tokens={tokens!r}: give a whole number of response tokens, at least 1")
    if k is not None and not (is_count(k) or (isinstance(k, float) and 0 < k <= 1)):
        raise ValueError(
            f"k={k!r}: give a number of rows, 1 or more, or a share of all rows, above 0 and at most 1.0"
        )


def within_budget(order: np.ndarray, table: "Dataset", selector: Any) -> np.ndarray:
    """The leading rows of `order` that fit a selector's budget.

    A token budget takes rows in order until the next one would exceed it. Tokens are those of
    `<by>_tokens`, or of the table's first scorer that counted them; a row whose count is nan or null has
    no known price and is not taken. A budget that the rows do not fill, or one of tokens into which not
    even the first of them fits, is a warning that gives both numbers.
    """
    if selector.k is not None:
        room, unit = count_of(selector.k, len(table)), "rows"
        used: Any = range(1, len(order) + 1)
    else:
        room, unit = selector.tokens, "tokens"
        counts = numbers_of(table, _token_column(table, getattr(selector, "by", "")))
        order = order[~np.isnan(counts[order])]
        used = np.cumsum(counts[order])
    there = int(used[-1]) if len(order) else 0
    complaint = ""
    if there < room:
        complaint = f"only {there} {unit} can be chosen"
    elif selector.k is None and used[0] > room:
        complaint = f"the first row alone takes {int(used[0])}: nothing is kept"
    if complaint:  # the fourth frame up is the caller of select()
        warnings.warn(f"{selector!r} has room for {room} {unit}, and {complaint}", stacklevel=4)
    fit = (
        min(room, len(order))
        if selector.k is not None
        else np.searchsorted(used, room, side="right")
    )
    return order[:fit].copy()  # a slice would keep all of them in memory


def _token_column(table: "Dataset", by: str) -> str:
    """`ifd` and `ifd_ppl` both find `ifd_tokens`; else the first `<name>_tokens` beside a column `<name>`."""
    parts = by.split("_")
    mine = ["_".join([*parts[:end], "tokens"]) for end in range(len(parts), 0, -1)]
    counted = [name for name in table.column_names if name.endswith("_tokens")]
    scorers = [name for name in counted if name.removesuffix("_tokens") in table.column_names]
    for name in [*mine, *scorers, *counted]:
        if name in counted:
            return name
    raise ValueError(
        "a budget in tokens needs a column of token counts whose name ends in '_tokens': "
        f"score with Perplexity or IFD first; the table has {', '.join(table.column_names)}"
    )
