"""Read columns of a table: numbers, and vectors such as the `embedding` that Embed adds."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 10_000  # rows read at once


def numbers_of(table: "Dataset", column: str) -> np.ndarray:
    """(n,) float64 values of a column; null is nan.

    Raises:
        ValueError: there is no such column, or it does not hold numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column not in table.column_names:
        raise ValueError(
            f"no column {column!r} in the table: {did_you_mean(column, table.column_names)}"
        )
    if not holds_numbers(table, column):
        kind = table.features.arrow_schema.field(column).type
        raise ValueError(f"column {column!r} holds {kind}, not numbers: name a numeric column")
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    return pc.fill_null(values.cast(pa.float64(), safe=False), math.nan).to_numpy()


def holds_numbers(table: "Dataset", column: str) -> bool:
    """Whether the table has such a column and `numbers_of` can read it."""
    from pyarrow import types

    numeric = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_decimal,
        types.is_null,
    )
    return column in table.column_names and any(
        test(table.features.arrow_schema.field(column).type) for test in numeric
    )


def vectors_of(
    table: "Dataset", rows: np.ndarray | None = None, column: str = "embedding"
) -> np.ndarray:
    """(m, d) float32 vectors of some rows, in their order; of all n rows of the table without `rows`.

    Rows that are not asked for may hold anything: a selector asks for those of its pool.

    Raises:
        ValueError: there is no such column, it does not hold vectors of one length, or a row asked for
            has none (null, or a number in it is nan or infinite).

    Example:
        >>> from datasets import Dataset
        >>> table = Dataset.from_dict({"embedding": [[1.0, 0.0], [0.0, 1.0], None]})
        >>> vectors_of(table, np.array([1, 0])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    vectors = vectors_or_nan(table, rows, column)
    refuse_undefined(vectors, rows, column)
    return vectors


def vectors_or_nan(
    table: "Dataset", rows: np.ndarray | None = None, column: str = "embedding"
) -> np.ndarray:
    """As `vectors_of`, with nan in the place of vectors that are null; (m, 0) where no row has one.

    The table is read in blocks: memory holds the answer and one block.

    Raises:
        ValueError: there is no such column, or it does not hold vectors of one length.
    """
    width = _width(table, column)
    wanted = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    answer = np.full((len(wanted), width), np.nan, dtype=np.float32)
    cells = table.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), BLOCK):
        first, last = np.searchsorted(ascending, (start, start + BLOCK))
        if first == last:
            continue
        block = cells[start : min(start + BLOCK, len(table))].column(column)
        lengths, numbers = _flat(block, ascending[first:last] - start)
        there = np.flatnonzero(lengths)
        if len(there) and not width:  # lists of any length: the first vector says which
            width = int(lengths[there[0]])
            answer = np.full((len(wanted), width), np.nan, dtype=np.float32)
        odd = there[lengths[there] != width]
        if len(odd):
            raise ValueError(
                f"the vectors in {column!r} have uneven lengths: {width} numbers, and {lengths[odd[0]]} in row "
                f"{ascending[first + odd[0]]}; embed all rows with one model"
            )
        answer[order[first + there]] = numbers.reshape(len(there), width)
    return answer


def directions_of(table: "Dataset", rows: np.ndarray, column: str = "embedding") -> np.ndarray:
    """(m, d) float32 vectors of some rows as `vectors_of`, each divided by its length, so that products are cosines.

    Raises:
        ValueError: besides the reasons of `vectors_of`, a vector of zeros, or two or more that are all equal.
    """
    vectors = vectors_of(table, rows, column)
    refuse_equal(vectors, column)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise ValueError(
            f"row {int(rows[zero[0]])} has a vector of zeros in {column!r}, which has no direction: drop the row before"
        )
    return vectors / lengths


def refuse_equal(vectors: np.ndarray, column: str = "embedding") -> None:
    """Raise ValueError if there are two vectors or more and all are equal."""
    parts = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    if len(vectors) > 1 and all((part == vectors[0]).all() for part in parts):
        raise ValueError(
            f"all {len(vectors):,} vectors in {column!r} are equal, so that nothing tells one row from another: look "
            "at what was embedded, or draw with RandomSample"
        )


def refuse_undefined(
    vectors: np.ndarray, rows: np.ndarray | None = None, column: str = "embedding"
) -> None:
    """Raise ValueError if one of the (m, d) vectors of these rows holds nan or infinity."""
    parts = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    undefined = np.concatenate(
        [~np.isfinite(part).all(axis=1) for part in parts] or [np.zeros(0, dtype=bool)]
    )
    if len(vectors) and not vectors.shape[1]:
        undefined[:] = True
    if undefined.any():
        first = int(np.flatnonzero(undefined)[0])
        raise ValueError(
            f"{np.count_nonzero(undefined):,} of the {len(vectors):,} rows in play have no vector in {column!r} (null "
            f"or nan; row {first if rows is None else int(rows[first])} is the first): drop them before, as "
            f"Threshold('{column}_tokens', above=0) does where Embed made the column; why stands in '{column}_status'"
        )


def _width(table: "Dataset", column: str) -> int:
    """The length of the column's vectors where its type tells it, else 0."""
    from pyarrow import types

    if column not in table.column_names:
        raise ValueError(
            f"no column {column!r} in the table: the scorer Embed() adds it; {did_you_mean(column, table.column_names)}"
        )
    kind = table.features.arrow_schema.field(column).type
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    inner = kind.value_type if listed else None
    if inner is None or not (
        types.is_floating(inner) or types.is_integer(inner) or types.is_null(inner)
    ):
        raise ValueError(
            f"column {column!r} holds {kind}, not vectors: name one of lists of numbers, as Embed() adds"
        )
    return kind.list_size if types.is_fixed_size_list(kind) else 0


def _flat(block: Any, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) lengths of the chosen cells of a block, 0 for null, and the float32 numbers of all of them in a row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = block.combine_chunks()
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    if len(chosen) != len(cells) or (chosen != np.arange(len(cells))).any():
        cells = cells.take(pa.array(chosen))
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    numbers = pc.list_flatten(cells).cast(pa.float32(), safe=False)
    return lengths, numbers.to_numpy(zero_copy_only=False)
