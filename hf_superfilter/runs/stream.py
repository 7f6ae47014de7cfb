"""A stream of unknown length, written to the run folder chunk by chunk: from there it is a Dataset on disk.

rows/000000.arrow ...   its rows
rows/000000.json ...    beside each: the stream's state behind it. A chunk without one does not count
rows/end.json           the stream came to its end
"""

import hashlib
import json
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .locks import Leases
from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

FOLDER, END, LEASE = "rows", "rows/end.json", "spool"


def spool(stream: "IterableDataset", store: Store, chunk_size: int) -> "Dataset":
    """Write a stream's rows to `rows/` of a local run folder and map them from there.

    After a kill it goes on behind the last chunk written; of a source that can seek only the first row is
    read twice, to know the stream by. Of several processes one writes and the others wait.

    Raises:
        ValueError: no rows, a URL as the folder, another stream than the one that the folder holds, or rows whose
            types change after the first chunk.
    """
    if not store.exclusive:
        raise ValueError(
            f"folder={store.folder!r}: a stream needs a local run folder, which its rows are written to"
        )
    first = _digest_of_first(stream)
    with Leases(store, FOLDER) as leases:
        while not store.has(END):
            if leases.take(LEASE):
                _write(stream, first, store, chunk_size, leases)
                leases.give_back(LEASE)
            else:
                time.sleep(0.25)
    return _mapped(first, store)


def _write(
    stream: "IterableDataset", first: str, store: Store, chunk_size: int, leases: Leases
) -> None:
    """Write the chunks that are missing, until the stream ends or another process has taken over."""
    plain, done = stream.with_format(None), _done(store)
    found, total = None, 0
    if done:
        state = json.loads(store.read(f"{FOLDER}/{done[-1]}.json"))
        _check_first(first, state["first"], store)
        plain.load_state_dict(state["state"])
        found, total = _part(store, done[0]).features, state["total"]
    rows, number = iter(plain), len(done)
    while chunk := list(islice(rows, chunk_size)):
        part = _table_of(chunk, stream.features, found)
        found, total = part.features, total + len(chunk)
        with (
            store.file(f"{FOLDER}/{number:06d}.arrow") as path,
            pa.ipc.new_stream(path, part.data.schema) as file,
        ):
            file.write_table(part.data.table)
        facts = {"first": first, "total": total, "state": plain.state_dict()}
        store.write(f"{FOLDER}/{number:06d}.json", json.dumps(facts).encode())
        number += 1
        if not leases.is_mine(
            LEASE
        ):  # this process was frozen, and goes on only once the other is done
            return
    if not total:
        raise ValueError("the data set has no rows: there is nothing to score")
    store.write(END, json.dumps({"first": first, "total": total}).encode())


def _table_of(
    chunk: list[dict[str, Any]], named: "Features | None", found: "Features | None"
) -> "Dataset":
    """Rows as a table, of the types that the stream names, or else of those found in its first chunk."""
    from datasets import Dataset

    names = named or dict.fromkeys([*(found or ()), *(name for row in chunk for name in row)])
    columns = {name: [row.get(name) for row in chunk] for name in names}
    try:
        part = Dataset.from_dict(columns, features=named)
        if named or found is None or part.features == found:
            return part
        before, now = (
            features.arrow_schema.remove_metadata() for features in (found, part.features)
        )
        if pa.unify_schemas([before, now], promote_options="permissive") != before:
            column = next(field for field in now if field not in before)
            raise ValueError(f"{column.name!r} holds {column.type}")
        return Dataset.from_dict(
            columns, features=found
        )  # whole numbers among fractions, a column of nulls
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the rows of the stream change their types on the way ({reason}): name the types, with "
            "stream.cast(Features(...)), or give the source one form"
        ) from error


def _mapped(first: str, store: Store) -> "Dataset":
    from datasets import concatenate_datasets

    _check_first(first, json.loads(store.read(END))["first"], store)
    return concatenate_datasets([_part(store, name) for name in _done(store)])


def _part(store: Store, name: str) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_file(str(store.path(f"{FOLDER}/{name}.arrow")))


def _done(store: Store) -> list[str]:
    """The names of the chunks that count, in order."""
    names = set(store.names(FOLDER))
    return sorted(
        name[:-5] for name in names if name.endswith(".json") and f"{name[:-5]}.arrow" in names
    )


def _digest_of_first(stream: "IterableDataset") -> str:
    """What tells one stream from another without reading it: its first row."""
    row = next(iter(stream.with_format(None)), None)
    return hashlib.sha256(repr(row).encode()).hexdigest()[:16]


def _check_first(first: str, known: str, store: Store) -> None:
    if first != known:
        raise ValueError(
            f"the run folder {store.folder!r} holds the rows of another stream: use another folder"
        )
