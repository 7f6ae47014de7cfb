"""Read tables in blocks that are bounded in rows and in bytes, whatever the length of a row."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

ROWS = 1_000
BYTES = 1 << 24
FIRST_GATHERED = 16  # rows of a selected table are copied before they can be measured


def row_blocks(
    table: "Dataset",
    columns: Sequence[str] | None = None,
    *,
    rows: int = ROWS,
    start: int = 0,
    stop: int | None = None,
) -> "Iterator[pa.Table]":
    """Yield the rows of a table in their order, as Arrow tables.

    A block holds at most `rows` rows and, where it has several, about 16 MiB: long rows make small
    blocks. Of a table whose rows were selected (their order then differs from that in memory) a
    block is a copy, which is why the first one is small there.

    Args:
        columns: to be read; all without them.
        rows: of a block at most.
        start, stop: the rows to read.
    """
    cells = table if columns is None else table.select_columns(list(columns))
    cells = cells.with_format("arrow")
    stop = len(table) if stop is None else min(stop, len(table))
    size = rows if table._indices is None else min(rows, FIRST_GATHERED)
    while start < stop:
        block: pa.Table = cells[start : min(start + size, stop)]
        while block.nbytes > BYTES and len(block) > 1:
            block = block.slice(0, len(block) // 2)
            size = len(block)
        yield block
        start += len(block)
        if block.nbytes <= BYTES // 2:
            size = min(2 * size, rows)
