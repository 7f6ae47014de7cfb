"""Reading a scored table: a column as numbers, a budget as a count of rows."""

from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

import numpy as np

from .wording import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset


def numbers_of(table: "Dataset", column: str) -> np.ndarray:
    """(n,) float64 values of a column; null is nan.

    Raises:
        ValueError: there is no such column, or it does not hold numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column not in table.column_names:
        raise ValueError(f"no column {column!r} in the table: {did_you_mean(column, table.column_names)}")
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"column {column!r} holds {kind}, not numbers: rank by a numeric column")
    as_floats = values.cast(pa.float64(), safe=False)
    return pc.fill_null(as_floats, float("nan")).to_numpy()


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
        raise ValueError(f"k={k!r}, tokens={tokens!r}: give one of the two, k rows (or a share) or a number of tokens")
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise ValueError(f"tokens={tokens!r}: give a whole number of response tokens, at least 1")
    if k is not None and (
        isinstance(k, bool)
        or not isinstance(k, (int, float))
        or (isinstance(k, int) and k < 1)
        or (isinstance(k, float) and not 0 < k <= 1)
    ):
        raise ValueError(f"k={k!r}: give a number of rows, 1 or more, or a share of all rows, above 0 and at most 1.0")


def within_budget(
    order: np.ndarray, table: "Dataset", k: int | float | None, tokens: int | None, by: str | None
) -> tuple[np.ndarray, int]:
    """The leading rows of `order` that fit a budget, and how many rows the budget had room for.

    A token budget takes rows in order until the next one would exceed it. Tokens are those of
    `<by>_tokens`, or of the table's first column whose name ends in `_tokens`.
    """
    if k is not None:
        room = count_of(k, len(table))
        return order[:room], room
    counts = numbers_of(table, _token_column(table, by))[order]
    used = np.cumsum(np.nan_to_num(counts))
    room = int(np.searchsorted(used, tokens, side="right"))
    return order[:room], room


def _token_column(table: "Dataset", by: str | None) -> str:
    """`ifd` and `ifd_ppl` both find `ifd_tokens`."""
    parts = (by or "").split("_")
    for end in range(len(parts), 0, -1):
        name = "_".join([*parts[:end], "tokens"])
        if name in table.column_names:
            return name
    for name in table.column_names:
        if name.endswith("_tokens"):
            return name
    raise ValueError(
        "a budget in tokens needs a column of token counts whose name ends in '_tokens': "
        f"score with Perplexity or IFD first; the table has {table.column_names}"
    )
