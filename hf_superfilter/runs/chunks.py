"""The ledger of a run: one Parquet file per chunk of rows. A chunk file that exists is done.

A chunk is put whole, so that a reader never sees half of one, whenever the writer dies. Where chunks
begin depends on the rows and the chunk size, never on how many processes work.
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

from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
MOST, LEAST = 500_000, 64_000  # bytes of text that end a chunk: long rows make short chunks
PARTS = 2_000  # of very many rows chunks grow instead of becoming more: a folder is listed again and again
TAPER = 16  # a chunk is at most this part of the text behind its beginning, so that all processes end together


def layout_of(table: "Dataset", chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the chunks begin and what each costs: (chunks + 1,) row numbers, the number of rows last; (chunks,) bytes.

    A chunk ends at `chunk_size` rows or at `MOST` bytes of text (of more than 1 GB of text, at one 2,000th),
    so that chunks cost about the same however rows are sorted; toward the end of the rows, and of few rows,
    chunks get smaller, down to `LEAST`.
    """
    before = np.zeros(len(table) + 1, dtype=np.int64)  # bytes in front of each row
    np.cumsum(text_bytes(table), out=before[1:])
    most, starts = max(MOST, int(before[-1]) // PARTS), [0]
    while (first := starts[-1]) < len(table):
        limit = min(most, max(LEAST, int(before[-1] - before[first]) // TAPER))
        by_text = int(np.searchsorted(before, before[first] + limit, side="right")) - 1
        starts.append(min(max(by_text, first + 1), first + chunk_size, len(table)))
    return np.array(starts, dtype=np.int64), np.diff(before[starts])


def text_bytes(table: "Dataset") -> np.ndarray:
    """(n,) bytes of text in each row, the estimate of what it costs: of prompt and response, else of all columns.

    1 each where no column holds text.
    """
    sizes = np.zeros(len(table), dtype=np.int64)
    fields = zip(table.column_names, table.features.arrow_schema, strict=True)
    texts = [name for name, field in fields if _is_text(field.type)]
    texts = [name for name in texts if name in ("prompt", "response")] or texts
    if not texts:
        return sizes + 1
    done = 0
    for batch in table.select_columns(texts).with_format("arrow").iter(batch_size=10_000):
        for column in batch.columns:
            sizes[done : done + len(batch)] += _bytes(column.combine_chunks())
        done += len(batch)
    return sizes


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _bytes(column: pa.Array) -> np.ndarray:
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return (
            pc.fill_null(pc.binary_length(column), 0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
    parts, parents = (
        _bytes(pc.list_flatten(column)),
        pc.list_parent_indices(column).to_numpy(zero_copy_only=False),
    )
    return np.bincount(parents, weights=parts, minlength=len(column)).astype(np.int64)


class Chunks:
    """The chunk files of one scorer.

    Args:
        store: the run folder.
        name: the scorer's folder in it.
        starts: (chunks + 1,) where the chunks begin.
        claim: a digest of what decides the contents; a file that carries another is not done.
    """

    def __init__(self, store: Store, name: str, starts: np.ndarray, *, claim: str = "") -> None:
        self.store, self.name, self.starts, self.claim = store, name, starts, claim
        self.rows = int(starts[-1])
        self._facts: dict[int, dict[str, Any]] = {}  # of the chunks that were seen to be whole
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def span(self, number: int) -> range:
        """The row numbers of a chunk."""
        return range(int(self.starts[number]), int(self.starts[number + 1]))

    def object(self, number: int) -> str:
        """The name of a chunk's file in the store."""
        return f"{self.name}/{number:06d}.parquet"

    def pending(self) -> list[int]:
        """The numbers of the chunks that are not done; a damaged file is named and counts as not done.

        A file is read and checked once, when it is first seen.
        """
        there = set(self.store.names(self.name))
        unknown = (number for number in range(len(self)) if number not in self._facts)
        return [
            number
            for number in unknown
            if f"{number:06d}.parquet" not in there or not self._is_whole(number)
        ]

    def is_done(self, number: int) -> bool:
        """Whether one chunk is done, without a look at the others."""
        return number in self._facts or self._is_whole(number)

    def done(self) -> int:
        """How many rows are done, as far as was seen."""
        return sum(len(self.span(number)) for number in self._facts)

    def _is_whole(self, number: int) -> bool:
        try:
            table = self._load(number)
            facts = json.loads((table.schema.metadata or {}).get(b"facts", b"{}"))
        except FileNotFoundError:
            return False
        except (pa.ArrowException, OSError, ValueError) as error:
            wrong = (str(error).splitlines() or ["unreadable"])[0]
        else:
            if table.num_rows == len(self.span(number)) and facts.get("claim") == self.claim:
                self._facts[number] = facts
                return True
            wrong = f"{table.num_rows} rows, made for {facts.get('claim') or 'nothing known'}"
        if number not in self._damaged:
            self._damaged.add(number)
            where = f"{self.store.folder}/{self.object(number)}"
            logger.warning(
                "%s is damaged or not of this run (%s): its rows are scored again", where, wrong
            )
        return False

    def write(self, number: int, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Store a chunk's columns, with facts about their making (seconds, tokens) in the file's metadata.

        Raises:
            OSError: the disk is full or the folder cannot be written; nothing half-written stays.
        """
        facts = {**facts, "claim": self.claim}
        table = pa.table({name: _array(values) for name, values in columns.items()})
        buffer = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata({"facts": json.dumps(facts)}),
            buffer,
            write_page_checksum=True,
        )
        self.store.write(self.object(number), buffer.getvalue())
        self._facts[number] = facts

    def table(self, number: int) -> pa.Table:
        """The columns of a chunk that is done.

        Raises:
            OSError: it was damaged after it had been checked.
        """
        try:
            return self._load(number).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            where = f"{self.store.folder}/{self.object(number)}"
            raise OSError(
                f"{where} cannot be read any more ({error}): run the same command again"
            ) from error

    def read(self) -> pa.Table:
        """All chunks in the order of the rows."""
        return pa.concat_tables(map(self.table, range(len(self))), promote_options="permissive")

    def write_arrow(self, path: Path) -> None:
        """All chunks in the order of the rows as one Arrow file, which can be mapped into memory."""
        schemas = dict.fromkeys(self.table(number).schema for number in range(len(self)))
        schema = pa.unify_schemas(list(schemas), promote_options="permissive")
        with pa.ipc.new_stream(str(path), schema) as file:
            for number in range(len(self)):
                file.write_table(self.table(number).cast(schema))

    def facts(self) -> dict[int, dict[str, Any]]:
        """What was written with each chunk that is done, by its number, in order."""
        return dict(sorted(self._facts.items()))

    def _load(self, number: int) -> pa.Table:
        data = pa.BufferReader(self.store.read(self.object(number)))
        return pq.read_table(data, page_checksum_verification=True)


def _array(values: Any) -> pa.Array:
    """Arrow values of a column; numpy keeps its type and its nan, and rows of vectors become lists of one length."""
    if not hasattr(values, "dtype"):
        return pa.array(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1), from_pandas=False), values.shape[1]
        )
    return pa.array(values, from_pandas=False)
