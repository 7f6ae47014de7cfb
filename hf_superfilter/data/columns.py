"""Read columns of numbers and of vectors from a table."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SuperfilterError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 10_000  # rows at once, so that memory holds few Arrow cells beside the numbers


def numbers_of(table: "Dataset", column: str) -> np.ndarray:
    """Read a numeric column of n rows.

    Returns:
        (n,) float64; null is nan, True is 1.

    Raises:
        ValueError: there is no such column, or it does not hold numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column not in table.column_names:
        raise SuperfilterError(
            f"no column {column!r} in the table: {did_you_mean(column, table.column_names)}"
        )
    if not holds_numbers(table, column):
        kind = table.features.arrow_schema.field(column).type
        raise SuperfilterError(
            f"column {column!r} holds {kind}, not numbers: name a numeric column"
        )
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    numbers: np.ndarray = pc.fill_null(values.cast(pa.float64(), safe=False), math.nan).to_numpy()
    return numbers


def best_first(
    table: "Dataset", pool: np.ndarray, column: str, *, largest: bool = True
) -> np.ndarray:
    """Order the rows of a pool by a column, best first, ties to the earlier row.

    Returns:
        (m,) row numbers; a row whose value is nan is left out.
    """
    values = numbers_of(table, column)
    rows = np.sort(pool[~np.isnan(values[pool])])
    values = values[rows]
    if largest:  # in place: a copy less of what may be billions of rows
        np.negative(values, out=values)
    ordered: np.ndarray = rows[np.argsort(values, kind="stable")]
    return ordered


def shares_below(values: np.ndarray, ordered: np.ndarray | None = None) -> np.ndarray:
    """Rank values from 0 to 1: the share of other values below each, equal ones counted half.

    Args:
        values: (n,) numbers.
        ordered: sorted numbers without nan to rank them among; by default the values themselves.

    Returns:
        (n,) float64, nan where the value is.

    Example:
        >>> shares_below(np.array([3.0, 1.0, 3.0, math.nan])).round(3).tolist()
        [0.667, 0.167, 0.667, nan]
    """
    if ordered is None:
        ordered = np.sort(values[~np.isnan(values)])
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    shares = (below + not_above) / (2 * max(len(ordered), 1))
    return np.where(np.isnan(values), np.nan, shares)


def holds_numbers(table: "Dataset", column: str) -> bool:
    """Check that a column exists and `numbers_of` can read it."""
    from pyarrow import types

    numeric = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_decimal,
        types.is_null,
    )
    if column not in table.column_names:
        return False
    kind = table.features.arrow_schema.field(column).type
    return any(is_kind(kind) for is_kind in numeric)


def vectors_of(
    table: "Dataset", rows: np.ndarray | None = None, column: str = "embedding"
) -> np.ndarray:
    """Read the vectors of some rows, in the order of `rows`.

    Rows that are not named may hold anything: a selector names those of its pool.

    Args:
        rows: (m,) row numbers; all n rows of the table without them.

    Returns:
        (m, d) float32.

    Raises:
        ValueError: there is no such column, it does not hold vectors of one length, or one of the
            rows has none (null, or a number in it is nan or infinite).

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
    """Read vectors as `vectors_of` does, with nan in the place of those that are null.

    The table is read in blocks: memory holds the vectors and one block.

    Returns:
        (m, d) float32; (m, 0) where no row has a vector.

    Raises:
        ValueError: there is no such column, or it does not hold vectors of one length.
    """
    width = _width(table, column)
    wanted = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    vectors = np.full((len(wanted), width), np.nan, dtype=np.float32)
    cells = table.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), BLOCK):
        first, last = np.searchsorted(ascending, (start, start + BLOCK))
        if first == last:
            continue
        block = cells[start : min(start + BLOCK, len(table))].column(column)
        lengths, numbers = _flat(block, ascending[first:last] - start)
        present = np.flatnonzero(lengths)
        if len(present) and not width:  # a type of lists of any length: the first vector decides
            width = int(lengths[present[0]])
            vectors = np.full((len(wanted), width), np.nan, dtype=np.float32)
        odd = present[lengths[present] != width]
        if len(odd):
            raise SuperfilterError(
                f"the vectors in {column!r} have uneven lengths: {width} numbers, and "
                f"{lengths[odd[0]]} in row {ascending[first + odd[0]]}; embed all rows with one "
                "model"
            )
        vectors[order[first + present]] = numbers.reshape(len(present), width)
    return vectors


def directions_of(table: "Dataset", rows: np.ndarray, column: str = "embedding") -> np.ndarray:
    """Read vectors as `vectors_of` does, divided by their lengths: products are cosines.

    Returns:
        (m, d) float32 of length 1.

    Raises:
        ValueError: besides the reasons of `vectors_of`, a vector of zeros, or two or more that are
            all equal.
    """
    vectors = vectors_of(table, rows, column)
    refuse_equal(vectors, column)
    for start in range(0, len(vectors), BLOCK):  # in place: of a million vectors there is one copy
        block = vectors[start : start + BLOCK]
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        zero = np.flatnonzero(lengths == 0)
        if len(zero):
            raise SuperfilterError(
                f"row {int(rows[start + zero[0]])} has a vector of zeros in {column!r}, which has "
                "no direction: drop the row before"
            )
        block /= lengths
    return vectors


def refuse_equal(vectors: np.ndarray, column: str = "embedding") -> None:
    """Raise if there are several vectors and all are equal."""
    parts = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    if len(vectors) > 1 and all((part == vectors[0]).all() for part in parts):
        raise SuperfilterError(
            f"all {len(vectors):,} vectors in {column!r} are equal, so that nothing tells one row "
            "from another: look at what was embedded, or draw with RandomSample"
        )


def are_finite(vectors: np.ndarray) -> np.ndarray:
    """Mark (m,) bool the vectors whose numbers are all finite; none of width 0 is."""
    finite = np.zeros(len(vectors), dtype=bool)
    if vectors.shape[1]:
        for start in range(0, len(vectors), BLOCK):
            block = slice(start, start + BLOCK)
            finite[block] = np.isfinite(vectors[block]).all(axis=1)
    return finite


def refuse_undefined(
    vectors: np.ndarray, rows: np.ndarray | None = None, column: str = "embedding"
) -> None:
    """Raise if one of the (m, d) vectors is not finite."""
    undefined = ~are_finite(vectors)
    if undefined.any():
        first = int(np.flatnonzero(undefined)[0])
        row = first if rows is None else int(rows[first])
        raise SuperfilterError(
            f"{np.count_nonzero(undefined):,} of the {len(vectors):,} rows in play have no vector "
            f"in {column!r} (null or nan; row {row} is the first): drop them before, as "
            f"Threshold('{column}_tokens', above=0) does where Embed made the column; why stands "
            f"in '{column}_status'"
        )


def _width(table: "Dataset", column: str) -> int:
    """Return the length of vectors that a type names, else 0."""
    from pyarrow import types

    if column not in table.column_names:
        raise SuperfilterError(
            f"no column {column!r} in the table: the scorer Embed() adds it; "
            f"{did_you_mean(column, table.column_names)}"
        )
    kind = table.features.arrow_schema.field(column).type
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    inner = kind.value_type if listed else None
    if inner is None or not (
        types.is_floating(inner) or types.is_integer(inner) or types.is_null(inner)
    ):
        raise SuperfilterError(
            f"column {column!r} holds {kind}, not vectors: name one of lists of numbers, as "
            "Embed() adds"
        )
    return int(kind.list_size) if types.is_fixed_size_list(kind) else 0


def _flat(block: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flatten some cells of a block of lists.

    Returns:
        (k,) lengths, 0 for null, and the float32 numbers of all cells one after the other.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = block.combine_chunks()
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    if len(places) != len(cells) or (places != np.arange(len(cells))).any():
        cells = cells.take(pa.array(places))
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    numbers = pc.list_flatten(cells).cast(pa.float32(), safe=False)
    return lengths, numbers.to_numpy(zero_copy_only=False)
