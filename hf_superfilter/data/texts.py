"""Read columns of text in blocks of rows, so that memory does not grow with their size."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

BLOCK = 1_000  # rows in memory at once


def is_text(feature: Any) -> bool:
    """Return whether a feature of a table is one text in each row."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def is_texts(feature: Any) -> bool:
    """Return whether a feature is a list of texts in each row, as the turns of a chat are."""
    return is_text(getattr(feature, "feature", None))


def column_blocks(table: "Dataset", column: str) -> "Iterator[pa.ChunkedArray]":
    """Yield the cells of a column in their order, `BLOCK` rows at a time."""
    cells = table.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), BLOCK):
        yield cells[start : min(start + BLOCK, len(table))].column(column)


def text_lengths(table: "Dataset", column: str) -> np.ndarray | None:
    """Count the characters in each row of a column, of all turns of a chat.

    Returns:
        (n,) int64, 0 for null; None where no such column holds texts.

    Example:
        >>> from datasets import Dataset
        >>> table = Dataset.from_dict({"response": ["four", None], "turns": [["a", "bc"], []]})
        >>> text_lengths(table, "response").tolist(), text_lengths(table, "turns").tolist()
        ([4, 0], [3, 0])
    """
    import pyarrow.compute as pc

    feature = table.features.get(column)
    if not is_text(feature) and not is_texts(feature):
        return None
    parts = [np.zeros(0, dtype=np.int64)]
    for cells in column_blocks(table, column):
        if is_text(feature):
            parts.append(pc.fill_null(pc.utf8_length(cells), 0).to_numpy())
        else:
            turns = pc.fill_null(pc.utf8_length(pc.list_flatten(cells)), 0).to_numpy()
            rows = pc.list_parent_indices(cells).to_numpy()
            parts.append(np.bincount(rows, weights=turns, minlength=len(cells)))
    return np.concatenate(parts).astype(np.int64)


def text_heads(table: "Dataset", column: str, characters: int) -> Iterator[str]:
    """Yield the first characters of each row's text, the turns of a chat joined by a space."""
    import pyarrow.compute as pc

    feature = table.features[column]
    for cells in column_blocks(table, column):
        if is_text(feature):
            heads = pc.utf8_slice_codeunits(cells, 0, characters).to_pylist()
        else:
            heads = cells.to_pylist()
        for cell in heads:
            yield _joined(cell)[:characters]


def _joined(cell: Any) -> str:
    if isinstance(cell, list):
        return " ".join(str(turn) for turn in cell if turn)
    return "" if cell is None else str(cell)
