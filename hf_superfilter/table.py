"""Reading a scored table: a column as numbers, a budget as the rows that fit it; and checks of settings."""

import math
import warnings
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

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
    if not holds_numbers(table, column):
        kind = table.features.arrow_schema.field(column).type
        raise ValueError(f"column {column!r} holds {kind}, not numbers: name a numeric column")
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    return pc.fill_null(values.cast(pa.float64(), safe=False), math.nan).to_numpy()


def holds_numbers(table: "Dataset", column: str) -> bool:
    """Whether the table has such a column and `numbers_of` can read it."""
    from pyarrow import types

    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return column in table.column_names and any(
        test(table.features.arrow_schema.field(column).type) for test in numeric
    )


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


def plain_numbers(settings: object, *names: str) -> None:
    """Turn numpy scalars among the settings of a frozen dataclass into Python numbers, as repr and YAML need them."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, np.generic):  # by its text, so that float32 0.29 is 0.29 and not 0.28999999166
            plain = float(str(value)) if isinstance(value, np.floating) else value.item()
            object.__setattr__(settings, name, plain)


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a setting is a whole number, and large enough."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_column(by: Any) -> None:
    """Refuse what cannot be the name of a column."""
    if not isinstance(by, str) or not by:
        raise ValueError(f"by={by!r}: name the column to select by, such as 'ifd'")


def check_seed(seed: Any) -> None:
    """Refuse a seed that is no whole number."""
    if not is_count(seed, least=0):
        raise ValueError(f"seed={seed!r}: give a whole number, 0 or more")


def check_switch(name: str, value: Any) -> None:
    """Refuse a switch that is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: give True or False")


def check_budget(k: int | float | None, tokens: int | None) -> None:
    """Refuse a budget that is not exactly one of `k` (count or share) and `tokens`, or is out of range."""
    if (k is None) == (tokens is None):
        raise ValueError(f"k={k!r}, tokens={tokens!r}: give one of the two, k rows (or a share) or a number of tokens")
    if tokens is not None and not is_count(tokens):
        raise ValueError(f"tokens={tokens!r}: give a whole number of response tokens, at least 1")
    if k is not None and not (is_count(k) or (isinstance(k, float) and 0 < k <= 1)):
        raise ValueError(f"k={k!r}: give a number of rows, 1 or more, or a share of all rows, above 0 and at most 1.0")


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
    fit = min(room, len(order)) if selector.k is not None else np.searchsorted(used, room, side="right")
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
