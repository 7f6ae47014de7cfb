"""`run.json`: what a run folder was made of, so that nothing else is ever mixed into it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from ..base import Settings
from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset

FILE, SCORER = "run.json", "scorer.json"
PACKAGES = ("hf-superfilter", "datasets", "transformers", "torch")
CLAIM = (
    "scorer",
    "arithmetic",
    "identity",
    "data",
)  # what has to be equal for scores to be the same


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The contents of a run's `run.json`; the folder may be an fsspec URL.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the file is damaged.
    """
    store = Store(folder)
    try:
        text = store.read(FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{store.folder!r} is not a run folder: it holds no run.json; make one with score or run"
        ) from None
    try:
        record = json.loads(text)
        if not isinstance(record.get("scorers"), dict):
            raise ValueError("no scorers in it")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"'{store.folder}/{FILE}' is damaged ({error}): use another folder"
        ) from error
    return record


def open_manifest(store: Store, rows: int, chunk_size: int) -> None:
    """Make a run's record, or check that the one that stands there is of as many rows in the same chunks.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: it is another run's.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    packages = {package: _version(package) for package in PACKAGES}
    new = {
        "created": created,
        "rows": rows,
        "chunk_size": chunk_size,
        "packages": packages,
        "scorers": {},
    }
    try:
        if not store.has(FILE):
            _write(store, new)
        record = read_manifest(store.folder)
        if store.exclusive and not os.access(store.folder, os.W_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        raise OSError(
            f"the run folder {store.folder!r} cannot be used ({error.strerror or error}): choose another"
        ) from error
    for fact, value in {"rows": rows, "chunk_size": chunk_size}.items():
        if record.get(fact) != value:
            raise ValueError(
                f"the run folder {store.folder!r} was made with {fact} {record.get(fact)}, not {value}: "
                "use another folder"
            )


def record_scorer(store: Store, name: str, entry: Mapping[str, Any]) -> None:
    """Write down what is known of one scorer: in a file of its own, from which `run.json` is put together.

    Several processes may note at once: what each of them writes is whole, and whoever comes last has read
    what the others wrote.
    """
    known = read_scorer(store, name)
    if known != (new := known | dict(entry)):
        store.write(f"{name}/{SCORER}", _text(new))
    while True:  # until nobody has written an older look over it
        record = read_manifest(store.folder)
        found = {
            other: read_scorer(store, other)
            for other in [*record["scorers"], *_subfolders(store, record)]
        }
        if found == record["scorers"]:
            return
        _write(store, record | {"scorers": found})


def record_source(store: Store, source: Mapping[str, Any]) -> None:
    """Write down where the rows come from: data set, revision, and the columns it has by itself."""
    _write(store, read_manifest(store.folder) | {"source": dict(source)})


def _subfolders(store: Store, record: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name in store.names()
        if name not in record["scorers"] and store.has(f"{name}/{SCORER}")
    ]


def read_scorer(store: Store, name: str) -> dict[str, Any]:
    """What is noted of one scorer; nothing if it is not known."""
    try:
        return json.loads(store.read(f"{name}/{SCORER}"))
    except FileNotFoundError:
        return {}


def fingerprint_of(scorer: Settings, table: "Dataset") -> dict[str, Any]:
    """Return what decides a scorer's numbers: arguments, arithmetic, identity and its rows."""
    columns = table.column_names if scorer.columns is None else scorer.columns
    return {
        "scorer": json.loads(json.dumps(scorer.entry())),  # as it will be read back
        "arithmetic": scorer.arithmetic,
        "identity": scorer.identity(),
        "data": digest_columns(table, list(columns)),
    }


def check_fingerprint(store: Store, name: str, claim: Mapping[str, Any]) -> None:
    """Refuse a folder where a scorer's name stands for something else, and say what differs."""
    old = read_scorer(store, name)
    for part in CLAIM:
        if old and old.get(part) != claim.get(part):
            raise ValueError(
                f"the run folder {store.folder!r} holds scores named {name!r} made "
                f"{_difference(part, old.get(part), claim.get(part))}: use another folder or another name"
            )


def fingerprint_digest(claim: Mapping[str, Any]) -> str:
    """A short digest of a claim, which every chunk made under it carries."""
    text = json.dumps({part: claim.get(part) for part in CLAIM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_columns(table: "Dataset", columns: Sequence[str]) -> str:
    """A digest of the contents of some columns, equal for equal rows in any process and on any machine."""
    digest = hashlib.sha256()
    present = [column for column in columns if column in table.column_names]
    plain = table.select_columns(present).with_format(
        "arrow"
    )  # whatever format the rows are shown in
    for batch in plain.iter(batch_size=10_000) if present else ():
        cells = {name: _digestible(batch.column(name)) for name in batch.column_names}
        digest.update(json.dumps(cells, default=_as_json).encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _digestible(column: pa.ChunkedArray) -> Any:
    """A column's cells; of texts and vectors a digest of lengths and contents, 2 and 40 times as fast as JSON."""
    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        lengths, parts = (
            pc.binary_length(column),
            ["".join(pc.fill_null(column, "").to_pylist()).encode()],
        )
    elif (types.is_list(kind) or types.is_fixed_size_list(kind)) and types.is_floating(
        kind.value_type
    ):
        lengths = pc.list_value_length(column)
        parts = [
            part.cast("float64").to_numpy(zero_copy_only=False)
            for part in pc.list_flatten(column).chunks
        ]
    else:
        return column.to_pylist()
    digest = hashlib.sha256(pc.fill_null(lengths.cast(pa.int64()), -1).to_numpy().tobytes())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _as_json(value: Any) -> str:
    """Bytes and times, the only things that Arrow hands over and JSON does not know."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _difference(part: str, old: Any, new: Any) -> str:
    if part == "data":
        return "from other rows"
    if (
        part == "scorer"
        and isinstance(old, dict)
        and isinstance(new, dict)
        and list(old) == list(new)
    ):
        before, after = next(iter(old.values())), next(iter(new.values()))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                return f"with {key}={before.get(key, 'its default')!r}, not {after.get(key, 'its default')!r}"
    return f"with {part} {old!r}, not {new!r}"


def _write(store: Store, record: Mapping[str, Any]) -> None:
    store.write(FILE, _text(record))


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
