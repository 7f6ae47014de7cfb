"""The ledger of a run: one Parquet file per chunk of rows. A chunk file that exists is done.

A chunk is written whole beside its final name and then renamed, so that a reader never sees half of
one, whenever the writer dies. Chunks depend on the rows and the chunk size, never on how many
processes work.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .whole_files import whole_file

logger = logging.getLogger(__name__)


class Chunks:
    """The chunk files of one scorer.

    Args:
        folder: the scorer's folder; made when the first chunk is written.
        rows: number of rows of the whole table.
        chunk_size: rows of a chunk; the last one may be shorter.
        claim: a digest of what decides the contents; a file that carries another is not done.
    """

    def __init__(self, folder: Path, rows: int, chunk_size: int, *, claim: str = "") -> None:
        self.folder, self.rows, self.chunk_size, self.claim = folder, rows, chunk_size, claim

    def __len__(self) -> int:
        return -(-self.rows // self.chunk_size)

    def span(self, number: int) -> range:
        """The row numbers of a chunk."""
        start = number * self.chunk_size
        return range(start, min(start + self.chunk_size, self.rows))

    def path(self, number: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{number:06d}.parquet"

    def pending(self) -> list[int]:
        """The numbers of the chunks that are not done; a damaged file is named and counts as not done."""
        return [number for number in range(len(self)) if not self._is_whole(number)]

    def _is_whole(self, number: int) -> bool:
        path = self.path(number)
        if not path.exists():
            return False
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            facts = _facts(table)
        except (pa.ArrowException, OSError, ValueError) as error:
            wrong = (str(error).splitlines() or ["unreadable"])[0]
        else:
            if table.num_rows == len(self.span(number)) and facts.get("claim") == self.claim:
                return True
            wrong = f"{table.num_rows} rows, made for {facts.get('claim') or 'nothing known'}"
        logger.warning("%s is damaged or not of this run (%s): its rows are scored again", path, wrong)
        return False

    def write(self, number: int, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Store a chunk's columns, with facts about their making (seconds, tokens) in the file's metadata.

        Raises:
            OSError: the disk is full or the folder cannot be written; nothing half-written stays.
        """
        table = pa.table({name: _array(values) for name, values in columns.items()})
        table = table.replace_schema_metadata({"facts": json.dumps({**facts, "claim": self.claim})})
        try:
            with whole_file(self.path(number)) as unfinished:
                pq.write_table(table, unfinished, write_page_checksum=True)
        except OSError as error:
            raise OSError(
                f"chunk {number} could not be written to {self.folder} ({error.strerror or error}): "
                "the chunks before it are safe; make room and run the same command again"
            ) from error

    def read(self) -> pa.Table:
        """All chunks in the order of the rows."""
        tables = [pq.read_table(self.path(number)).replace_schema_metadata(None) for number in range(len(self))]
        return pa.concat_tables(tables, promote_options="permissive")

    def facts(self) -> list[dict[str, Any]]:
        """What was written with each chunk, in order."""
        return [_facts(pq.read_schema(self.path(number))) for number in range(len(self))]


def _facts(described: pa.Table | pa.Schema) -> dict[str, Any]:
    metadata = (described.schema if isinstance(described, pa.Table) else described).metadata or {}
    return json.loads(metadata.get(b"facts", b"{}"))


def _array(values: Any) -> pa.Array:
    """Arrow values of a column; numpy keeps its type and its nan."""
    return pa.array(values) if not hasattr(values, "dtype") else pa.array(values, from_pandas=False)
