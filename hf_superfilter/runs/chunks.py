"""Keep the scores of a run as one Parquet file per chunk of rows.

A chunk file that exists, and says that it is this chunk of this run, is done. Where chunks begin
depends on the rows and the chunk size, never on the number of processes.
"""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..tables.row_blocks import row_blocks
from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
LAYOUT = "chunks.npy"  # the file of a run that says where chunks begin
MAX_BYTES = 500_000  # bytes of text that end a chunk: long rows make short chunks
MIN_BYTES = 64_000  # bytes of text below which no chunk is cut
MAX_CHUNKS = 2_000  # beyond, chunks grow instead: the folder is listed again and again
TAPER = 16  # a chunk is at most this part of the text left, so that all processes end together


def layout_of(table: "Dataset", chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows into chunks of similar cost.

    A chunk ends at `chunk_size` rows or at `MAX_BYTES` bytes of text (of more than 1 GB of text, at
    a 2,000th of it), so that chunks cost about the same however rows are sorted. Toward the end of
    the rows, and of few rows, chunks get smaller, down to `MIN_BYTES`.

    Returns:
        starts: (chunks + 1,) row numbers where chunks begin, the number of rows last.
        sizes: (chunks,) bytes of text in each.
    """
    offsets = np.zeros(len(table) + 1, dtype=np.int64)  # bytes in front of each row
    np.cumsum(text_bytes(table), out=offsets[1:])
    total = int(offsets[-1])
    max_bytes, starts = max(MAX_BYTES, total // MAX_CHUNKS), [0]
    while starts[-1] < len(table):
        first = starts[-1]
        bytes_left = total - int(offsets[first])
        limit = min(max_bytes, max(MIN_BYTES, bytes_left // TAPER))
        stop = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
        starts.append(min(max(stop, first + 1), first + chunk_size, len(table)))
    return np.array(starts, dtype=np.int64), np.diff(offsets[starts])


def text_bytes(table: "Dataset") -> np.ndarray:
    """Estimate the cost of each row by its bytes of text.

    Returns:
        (n,) bytes of prompt and response, else of all text columns; 1 each where there is no text.
    """
    sizes = np.zeros(len(table), dtype=np.int64)
    fields = zip(table.column_names, table.features.arrow_schema, strict=True)
    texts = [name for name, field in fields if _is_text(field.type)]
    texts = [name for name in texts if name in ("prompt", "response")] or texts
    if not texts:
        return sizes + 1
    start = 0
    for block in row_blocks(table, texts, rows=10_000):
        for column in block.columns:
            sizes[start : start + len(block)] += _bytes(column.combine_chunks())
        start += len(block)
    return sizes


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _bytes(column: pa.Array) -> np.ndarray:
    """Count the bytes of text in each cell, (n,), those of a list together."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        lengths = pc.fill_null(pc.binary_length(column), 0)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
    item_bytes = _bytes(pc.list_flatten(column))
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    return np.bincount(parents, weights=item_bytes, minlength=len(column)).astype(np.int64)


class Chunks:
    """Read and write the chunk files of one scorer.

    Every file states in its metadata which run, scorer and settings it belongs to and which rows
    it holds. Whoever reads it compares: a damaged, copied, renamed or foreign file is named in the
    log, and its rows are scored again.

    Args:
        store: the run folder.
        name: the scorer's folder in it.
        starts: (chunks + 1,) row numbers where the chunks begin, the number of rows last.
        identity: what a file has to state: digests of the run, of the settings, of the rows.

    Attributes:
        verb, unit: what the progress bar says is done, and to what.
    """

    verb, unit = "Scoring", "rows"

    def __init__(
        self,
        store: Store,
        name: str,
        starts: np.ndarray,
        *,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.store, self.name, self.starts = store, name, starts
        self.identity = {"scorer": name, **(identity or {})}
        self.rows = int(starts[-1])
        self._facts: dict[int, dict[str, Any]] = {}  # of the chunks that were seen to be whole
        self._reported: set[int] = set()  # chunks whose damage was logged

    def __len__(self) -> int:
        return len(self.starts) - 1

    def span(self, number: int) -> range:
        """Return the row numbers of a chunk."""
        return range(int(self.starts[number]), int(self.starts[number + 1]))

    def stem(self, number: int) -> str:
        """Return the name of a chunk's file without its ending."""
        return f"{number:06d}"

    def object(self, number: int) -> str:
        """Return the name of a chunk's file in the store."""
        return f"{self.name}/{self.stem(number)}.parquet"

    def pending(self) -> list[int]:
        """List the chunks that are not done; a damaged file is logged and counts as not done.

        A file is read and checked once, when it is first seen, and again when its table is read.
        """
        files = set(self.store.names(self.name))
        unseen = [number for number in range(len(self)) if number not in self._facts]
        return [
            number
            for number in unseen
            if f"{self.stem(number)}.parquet" not in files or not self._is_whole(number)
        ]

    def is_done(self, number: int) -> bool:
        """Return whether one chunk is done, without a look at the others."""
        return number in self._facts or self._is_whole(number)

    def rows_done(self) -> int:
        """Count the rows that are done, as far as was seen; any thread may ask."""
        return sum(len(self.span(number)) for number in list(self._facts))

    def write(self, number: int, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write a chunk's columns, with facts about their making in the file's metadata.

        Args:
            number: the chunk.
            columns: new column to one value per row.
            facts: such as seconds and tokens; JSON values.

        Raises:
            OSError: the disk is full or the folder cannot be written; no partial file stays.
        """
        table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
        metadata = {"facts": json.dumps(dict(facts)), "label": json.dumps(self.label(number))}
        table = table.replace_schema_metadata(metadata)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, write_page_checksum=True)
        self.store.write(self.object(number), buffer.getvalue())
        self._facts[number] = dict(facts)

    def table(self, number: int) -> pa.Table:
        """Read the columns of a chunk that is done.

        Raises:
            OSError: it was damaged or replaced after it had been checked.
        """
        try:
            table, _ = self._load(number)
            return table.replace_schema_metadata(None)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._facts.pop(number, None)
            raise OSError(
                f"{self.store.folder}/{self.object(number)} cannot be read any more ({error}): "
                "run the same command again"
            ) from error

    def read(self) -> pa.Table:
        """Read all chunks, in the order of the rows."""
        return pa.concat_tables(map(self.table, range(len(self))), promote_options="permissive")

    def estimate_bytes(self) -> int:
        """Estimate what `read` would hold in memory, by the first chunk."""
        table = self.table(0)
        return int(table.nbytes / max(len(table), 1) * self.rows)

    def write_arrow(self, paths: Mapping[Path, int]) -> None:
        """Copy all chunks, in the order of the rows, to Arrow files that can be memory-mapped.

        Args:
            paths: the files to write, in order, each with its number of rows.
        """
        schemas = dict.fromkeys(self.table(number).schema for number in range(len(self)))
        schema = pa.unify_schemas(list(schemas), promote_options="permissive")
        tables = (self.table(number).cast(schema) for number in range(len(self)))
        pending = schema.empty_table()
        for path, missing in paths.items():
            with pa.ipc.new_stream(str(path), schema) as file:
                while missing:
                    pending = pending if pending.num_rows else next(tables)
                    piece = pending.slice(0, missing)  # a chunk may reach over the end of a file
                    file.write_table(piece)
                    pending, missing = pending.slice(piece.num_rows), missing - piece.num_rows

    def facts(self) -> dict[int, dict[str, Any]]:
        """Return the facts that were written with each done chunk, by its number, in order."""
        return dict(sorted(self._facts.copy().items()))

    def label(self, number: int) -> dict[str, Any]:
        """Return what a chunk's file states about where it belongs."""
        span = self.span(number)
        return {**self.identity, "rows_from": span.start, "rows_to": span.stop}

    def _is_whole(self, number: int) -> bool:
        try:
            _, facts = self._load(number)
        except FileNotFoundError:
            return False
        except (pa.ArrowException, OSError, ValueError) as error:
            if number not in self._reported:
                self._reported.add(number)
                logger.warning(
                    "%s is damaged or not of this run (%s): its rows are scored again",
                    f"{self.store.folder}/{self.object(number)}",
                    (str(error).splitlines() or ["unreadable"])[0],
                )
            if self.store.exclusive and self.store.writable():
                self.store.set_aside(self.object(number))
            return False
        self._facts[number] = facts
        return True

    def _load(self, number: int) -> tuple[pa.Table, dict[str, Any]]:
        """Read a chunk's file and its facts, and check that it is what its name says.

        Raises:
            ValueError: it says itself that it is something else.
        """
        table = read_parquet(self.store.read(self.object(number)))
        metadata = table.schema.metadata or {}
        label, facts = (json.loads(metadata.get(key, b"null")) for key in (b"label", b"facts"))
        if not isinstance(label, dict) or not isinstance(facts, dict):
            raise ValueError("not a file of score")
        for key, value in self.label(number).items():
            if label.get(key) != value:
                raise ValueError(f"{key} {label.get(key, 'not stated')}, not {value}")
        if table.num_rows != len(self.span(number)):
            raise ValueError(f"{table.num_rows} rows, not {len(self.span(number))}")
        return table, facts


def read_parquet(data: bytes) -> pa.Table:
    """Read a Parquet file held in memory, verifying its page checksums.

    `pq.read_table` goes through a dataset scanner, whose threads may hold the last reference to
    `data` while the interpreter ends, and then abort a process whose work is done.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
    return file.read(use_threads=False)


def _to_arrow(values: Any) -> pa.Array:
    """Convert a column to Arrow.

    numpy keeps its type and its nan; rows of vectors (n, d) become lists of one length.
    """
    if not hasattr(values, "dtype"):
        return pa.array(values)
    if values.ndim == 2:
        flat = pa.array(values.reshape(-1), from_pandas=False)
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values, from_pandas=False)
