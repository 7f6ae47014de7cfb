"""Take whatever `Dataset.map` hands over: batches, single rows, and formatted tables."""

import sys
from collections.abc import Callable, Mapping, Sized
from functools import wraps
from typing import Any

import numpy as np

from ..base import UNREADABLE, Batch, Columns
from ..errors import WrongTypeError

Call = Callable[[Any, Batch, int | None], Columns]


def takes_rows(call: Call) -> Callable[..., Any]:
    """Let a scorer's `__call__` also take what `Dataset.map` hands over in other forms.

    A single row (`rows.map(scorer)` without `batched=True`) gets the values of that row; an Arrow
    table or a pandas DataFrame (`with_format("arrow")`, `"pandas"`) comes back with new columns.
    """

    @wraps(call)
    def score(self: Any, batch: Any, rank: int | None = None) -> Any:
        if _is_row(batch, self.columns):
            row = {name: [batch[name]] for name in batch}
            return {name: values[0] for name, values in call(self, row, rank).items()}
        if isinstance(batch, Mapping):
            return call(self, batch, rank)
        read = (*self.columns, *self.more_columns)
        return _with_columns(batch, call(self, _columns_of(batch, read), rank))

    return score


def as_counts(values: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
    """Return counts as int64; as float64 with nan in a batch where some are undefined.

    A run writes both as int64, null where undefined.

    Args:
        values: (n,) whole numbers of any type.
        defined: (n,) bool; all are without it.
    """
    if defined is None or defined.all():
        return np.asarray(values).astype(np.int64)
    return np.where(defined, values, np.nan)


def _is_row(batch: Any, columns: tuple[str, ...]) -> bool:
    """Check for a single row: as datasets hands it over, or by a cell of text."""
    if not isinstance(batch, Mapping):
        return False
    # Whoever hands a lazy row over has imported datasets, which takes a second.
    lazy = sys.modules.get("datasets.formatting.formatting")
    if lazy is not None and isinstance(batch, (lazy.LazyRow, lazy.LazyBatch)):
        return isinstance(batch, lazy.LazyRow)
    first = batch.get(columns[0])
    if isinstance(first, str) or not isinstance(first, Sized):
        return isinstance(first, str)
    # A chat's prompts are a list, as a batch's are: the other columns tell them apart.
    others = [batch[name] for name in batch if name not in columns]
    return any(isinstance(cell, str) or _length(cell) != len(first) for cell in others)


def _length(cell: Any) -> int | None:
    try:
        return len(cell)
    except TypeError:  # a number, or a tensor of one
        return None


def _columns_of(table: Any, columns: tuple[str, ...]) -> Batch:
    """Read the columns that a scorer needs from an Arrow table or a DataFrame."""
    import pandas as pd
    import pyarrow as pa

    if isinstance(table, pa.Table):
        names = [name for name in (*columns, UNREADABLE) if name in table.column_names]
        return {name: table.column(name).to_pylist() for name in names}
    if isinstance(table, pd.DataFrame):
        names = [name for name in (*columns, UNREADABLE) if name in table.columns]
        return {name: _without_nan(table[name].tolist()) for name in names}
    raise WrongTypeError(
        f"a scorer takes a batch, a dict of columns, and got {type(table).__name__}: "
        "take the format off first, rows.with_format(None).map(scorer, batched=True)"
    )


def _without_nan(cells: list[Any]) -> list[Any]:
    """Turn what pandas writes for a missing text back to None."""
    return [None if isinstance(cell, float) and np.isnan(cell) else cell for cell in cells]


def _with_columns(table: Any, columns: Columns) -> Any:
    """Add columns to an Arrow table or a DataFrame, as the whole of it is handed back."""
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        return table.assign(**{name: list(values) for name, values in columns.items()})
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            values = list(values)
        table = table.append_column(name, pa.array(values, from_pandas=False))
    return table
