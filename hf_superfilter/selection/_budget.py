"""Apply budgets of rows and of tokens."""

from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept
from ..checks import is_count
from ..data.columns import numbers_of
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset


def count_of(k: int | float, total: int) -> int:
    """Turn a budget into a number of rows.

    An int is a count, a float a share of ALL rows, rounded down. The share is taken as the decimal
    that it is written as: 0.29 of 100 rows is 29, not 28.

    Example:
        >>> count_of(0.29, 100), count_of(0.1, 52_002), count_of(7, 100)
        (29, 5200, 7)
    """
    if isinstance(k, int):
        return k
    return int((Decimal(str(k)) * total).to_integral_value(rounding=ROUND_FLOOR))


def check_budget(k: int | float | None, tokens: int | None) -> None:
    """Refuse a budget out of range, or none, or two."""
    if (k is None) == (tokens is None):
        raise SuperfilterError(
            f"k={k!r}, tokens={tokens!r}: give one of the two, k rows (or a share) or a number of "
            "tokens"
        )
    if tokens is not None and not is_count(tokens):
        raise SuperfilterError(
            f"tokens={tokens!r}: give a whole number of response tokens, at least 1"
        )
    is_share = isinstance(k, float) and 0 < k <= 1
    if k is not None and not is_count(k) and not is_share:
        raise SuperfilterError(
            f"k={k!r}: give a number of rows, 1 or more, or a share of all rows, above 0 and at "
            "most 1.0"
        )


def within_budget(order: np.ndarray, table: "Dataset", selector: Any) -> Kept:
    """Keep the leading rows that fit a selector's budget.

    A token budget takes rows in order until the next one would exceed it. Tokens are those of
    `<by>_tokens`, or of the table's first scorer that counted them; a row whose count is nan or
    null has no known price and is not taken.
    """
    if selector.k is None:
        return _within_tokens(order, table, selector)
    room = count_of(selector.k, len(table))
    rows = order[:room].copy()  # a slice would keep all of `order` in memory
    return Kept(rows, shortfall=shortfall_of(room, len(order)))


def shortfall_of(room: int, available: int) -> str:
    """Describe a shortfall of rows, "" for none."""
    if available >= room:
        return ""
    return f"has room for {room} rows, and only {available} rows can be chosen"


def _within_tokens(order: np.ndarray, table: "Dataset", selector: Any) -> Kept:
    """Keep the leading rows whose tokens fit `selector.tokens`."""
    room = selector.tokens
    counts = numbers_of(table, _token_column(table, getattr(selector, "by", "")))
    order = order[~np.isnan(counts[order])]
    used = np.cumsum(counts[order])  # (m,) tokens up to and including each row
    available = int(used[-1]) if len(order) else 0
    shortfall = ""
    if available < room:
        shortfall = f"has room for {room} tokens, and only {available} tokens can be chosen"
    elif used[0] > room:
        shortfall = (
            f"has room for {room} tokens, and the first row alone takes {int(used[0])}: "
            "nothing is kept"
        )
    fitting = np.searchsorted(used, room, side="right")
    return Kept(order[:fitting].copy(), shortfall=shortfall)


def _token_column(table: "Dataset", by: str) -> str:
    """Find the token counts that belong to a column.

    `ifd` and `ifd_ppl` both find `ifd_tokens`; else it is the first `<name>_tokens` beside a column
    `<name>`, else any.
    """
    parts = by.split("_")
    prefixes = ["_".join([*parts[:end], "tokens"]) for end in range(len(parts), 0, -1)]
    counts = [name for name in table.column_names if name.endswith("_tokens")]
    of_scorers = [name for name in counts if name.removesuffix("_tokens") in table.column_names]
    for name in [*prefixes, *of_scorers, *counts]:
        if name in counts:
            return str(name)
    raise SuperfilterError(
        "a budget in tokens needs a column of token counts whose name ends in '_tokens': "
        f"score with Perplexity or IFD first; the table has {', '.join(table.column_names)}"
    )
