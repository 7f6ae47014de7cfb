"""Write a stream of unknown length to the run folder, and map it from there as a Dataset.

    rows/000000.arrow ...   the rows, in parts
    rows/000000.json ...    beside each part: which rows it holds, and the stream's state behind
                            them. A part without one does not count
    rows/end.json           the stream came to its end, after so many rows

Parts grow with the rows before them, so that 10 million rows are about 200 parts. Score columns
are joined to each part by itself: one slice of a long table after the other would carry the
history of all slices before it.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ..errors import SuperfilterError
from .chunks import Chunks
from .locks import Leases
from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

logger = logging.getLogger(__name__)
FOLDER, END_FILE, LEASE_NAME = "rows", "rows/end.json", "spool"
GROWTH = 16  # a part holds at least this part of the rows in front of it
POLL = 0.25  # seconds between looks at what another process writes


class _Part(NamedTuple):
    """Describe a part of the stream that was written."""

    stream: str  # digest of the stream's first row
    rows_from: int
    rows_to: int
    bytes: int  # of its file
    state: dict[str, Any]  # the stream's, behind its last row


def spool_stream(stream: "IterableDataset", store: Store, chunk_size: int) -> "list[Dataset]":
    """Write a stream's rows to `rows/` of a local run folder and map them from there.

    After a kill it goes on behind the last part written. Of a source that can seek only the first
    row, which tells one stream from another, is read twice. Of several processes one writes and the
    others wait. Memory holds `chunk_size` rows.

    Returns:
        The parts, in order.

    Raises:
        SuperfilterError: no rows, a URL as the folder, another stream than the folder holds, or
            rows whose types change after the first chunk.
    """
    if not store.exclusive:
        raise SuperfilterError(
            f"folder={store.folder!r}: a stream needs a local run folder, to write its rows to"
        )
    first = _digest_of_first(stream)
    with Leases(store, FOLDER) as leases:
        while not _is_complete(store, parts := _parts(store)):
            if leases.take(LEASE_NAME):
                _write_parts(stream, first, store, chunk_size, leases)
                leases.release(LEASE_NAME)
            else:
                time.sleep(POLL)
    _check_first(first, parts[0].stream, store)
    return [_open_part(store, number) for number in range(len(parts))]


def can_join(chunks: Chunks) -> bool:
    """Return whether `join_columns` can join columns to rows in one part."""
    if chunks.store.exclusive and not chunks.store.writable():
        return chunks.store.has(_columns_name(chunks, 0))
    return chunks.store.exclusive


def join_columns(parts: "list[Dataset]", chunks: Chunks) -> "list[Dataset]":
    """Add the columns of a finished scorer to each part, mapped from a file of its own.

    A read-only folder keeps the files that the last run wrote.
    """
    from datasets import Dataset, concatenate_datasets

    names = [_columns_name(chunks, number) for number in range(len(parts))]
    if chunks.store.writable():
        with ExitStack() as files:
            paths = [files.enter_context(chunks.store.file(name)) for name in names]
            chunks.write_arrow(dict(zip(paths, map(len, parts), strict=True)))
    joined = []
    for part, name in zip(parts, names, strict=True):
        columns = Dataset.from_file(str(chunks.store.path(name)))
        joined.append(concatenate_datasets([part, columns], axis=1))
    return joined


def _columns_name(chunks: Chunks, part: int) -> str:
    return f"{chunks.name}/columns/{part:06d}.arrow"


def _write_parts(
    stream: "IterableDataset", first: str, store: Store, chunk_size: int, leases: Leases
) -> None:
    """Write the parts that are missing, until the stream ends or the lease is lost."""
    plain, parts = stream.with_format(None), _parts(store)
    features, total = stream.features, 0
    if parts:
        _check_first(first, parts[0].stream, store)
        plain.load_state_dict(parts[-1].state)
        features, total = _open_part(store, 0).features, parts[-1].rows_to
    rows = iter(plain)
    for number, row in zip(count(len(parts)), rows):  # the next part begins with this row
        name, size = _part_name(number), max(chunk_size, total // GROWTH)
        label = {"stream": first, "rows_from": total}
        with store.file(f"{name}.arrow") as path:
            written, features = _write_part(
                islice(chain([row], rows), size), path, label, chunk_size, stream.features, features
            )
            facts = {**label, "rows_to": total + written, "bytes": path.stat().st_size}
        store.write(f"{name}.json", json.dumps({**facts, "state": plain.state_dict()}).encode())
        total += written
        if not leases.holds(LEASE_NAME):  # frozen meanwhile: another process goes on
            return
    if not total:
        raise SuperfilterError("the data set has no rows: there is nothing to score")
    store.write(END_FILE, json.dumps({"stream": first, "rows": total}).encode())


def _write_part(
    rows: Iterator[dict[str, Any]],
    path: Path,
    label: dict[str, Any],
    chunk_size: int,
    named: "Features | None",
    features: "Features | None",
) -> "tuple[int, Features]":
    """Write rows to an Arrow file, `chunk_size` at a time.

    Returns:
        The number of rows, and their types.
    """
    written = 0
    with ExitStack() as files:
        while chunk := list(islice(rows, chunk_size)):
            table = _to_table(chunk, named, features)
            features = table.features
            if not written:
                schema = table.data.schema
                schema = schema.with_metadata(
                    {**(schema.metadata or {}), "label": json.dumps(label)}
                )
                file = files.enter_context(pa.ipc.new_stream(str(path), schema))
            file.write_table(table.data.table.cast(schema))
            written += len(chunk)
    return written, features


def _to_table(
    chunk: list[dict[str, Any]], named: "Features | None", features: "Features | None"
) -> "Dataset":
    """Convert rows to a table of the types that the stream names, or else its first rows have."""
    from datasets import Dataset

    names = named or dict.fromkeys([*(features or ()), *(name for row in chunk for name in row)])
    columns = {name: [row.get(name) for row in chunk] for name in names}
    try:
        table = Dataset.from_dict(columns, features=named)
        if named or features is None or table.features == features:
            return table
        before, now = (types.arrow_schema.remove_metadata() for types in (features, table.features))
        if pa.unify_schemas([before, now], promote_options="permissive") != before:
            column = next(field for field in now if field not in before)
            raise SuperfilterError(f"{column.name!r} holds {column.type}")
        # Whole numbers among fractions, a column of nulls.
        return Dataset.from_dict(columns, features=features)
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SuperfilterError(
            f"the rows of the stream change their types on the way ({reason}): name the types, "
            "with stream.cast(Features(...)), or give the source one form"
        ) from error


def _parts(store: Store) -> list[_Part]:
    """List the parts that were written, up to the first that is missing or damaged."""
    parts: list[_Part] = []
    while True:
        name = _part_name(len(parts))
        try:
            part = _Part(**json.loads(store.read(f"{name}.json")))
            _check_part(store, name, part, parts)
        except FileNotFoundError:
            return parts
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            logger.warning(
                "%s/%s is damaged or of another place (%s): the stream is read again from there",
                store.folder, name, error,
            )  # fmt: skip
            return parts
        parts.append(part)


def _check_part(store: Store, name: str, part: _Part, before: list[_Part]) -> None:
    """Check that a part is whole, and that it follows those before it.

    Raises:
        ValueError: it is not.
    """
    path = store.path(f"{name}.arrow")
    label = {"stream": part.stream, "rows_from": part.rows_from}
    expected = {"stream": part.stream, "rows_from": 0}
    if before:
        expected = {"stream": before[0].stream, "rows_from": before[-1].rows_to}
    if label != expected:
        raise ValueError(f"{label} does not follow")
    if path.stat().st_size != part.bytes:
        raise ValueError(f"{path.stat().st_size} bytes, not {part.bytes}")
    with pa.memory_map(str(path)) as file:
        metadata = pa.ipc.open_stream(file).schema.metadata or {}
    stated = json.loads(metadata.get(b"label", b"{}"))
    if stated != label:
        raise ValueError(f"its rows are {stated}, not {label}")


def _is_complete(store: Store, parts: list[_Part]) -> bool:
    """Return whether the parts reach to the end of the stream."""
    try:
        rows = json.loads(store.read(END_FILE))["rows"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # none, or a damaged one
        return False
    return bool(parts) and bool(parts[-1].rows_to == rows)


def _open_part(store: Store, number: int) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_file(str(store.path(f"{_part_name(number)}.arrow")))


def _part_name(number: int) -> str:
    return f"{FOLDER}/{number:06d}"


def _digest_of_first(stream: "IterableDataset") -> str:
    """Digest the first row, which tells one stream from another without reading them."""
    row = next(iter(stream.with_format(None)), None)
    return hashlib.sha256(repr(row).encode()).hexdigest()[:16]


def _check_first(first: str, recorded: str, store: Store) -> None:
    if first != recorded:
        raise SuperfilterError(
            f"the run folder {store.folder!r} holds the rows of another stream: use another folder"
        )
