"""Read what a selector computes of each row, or compute it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..base import RowScorer
from ..data.texts import check_texts
from ..tables.row_blocks import row_blocks

if TYPE_CHECKING:
    from datasets import Dataset


def row_values(table: "Dataset", rows: np.ndarray, scorer: RowScorer) -> Iterator[Any]:
    """Yield a row scorer's values for some rows, in blocks.

    They are read where the table has the column, as in a run that shared the work; else computed.

    Args:
        rows: (m,) row numbers, in any order.

    Raises:
        SuperfilterError: there is no such column of text.
    """
    is_there = scorer.name in table.column_names
    if not is_there:
        check_texts(table, scorer.columns)
    names = [scorer.name] if is_there else list(scorer.columns)
    for block in row_blocks(table.select_columns(names).select(rows)):
        yield _values(block.column(0)) if is_there else scorer.values(block.to_pydict())


def _values(column: pa.ChunkedArray) -> Any:
    """Return lists of numbers of one length as a matrix, other cells as they are."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        numbers = column.combine_chunks().flatten().to_numpy()
        return numbers.reshape(len(column), kind.list_size)
    return column.to_pylist()
