"""Keep the manifest of a run: what was scored with what, so that nothing else is mixed into it.

    run.json               the run's identity, rows, chunk size, packages; and of every scorer:
    <scorer>/scorer.json   its fingerprint, and once it is finished columns, tokens, seconds, device

The first process that comes takes the folder for its setting, in one atomic step. What decides a
scorer's numbers is its fingerprint: arguments, arithmetic, identity (a model's revision) and a
digest of the rows it reads.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from ..base import Settings
from ..errors import NotFoundError, SuperfilterError
from ..tables.row_blocks import row_blocks
from .locks import Leases
from .store import Store

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
FILE, SCORER_FILE = "run.json", "scorer.json"
PACKAGES = ("hf-superfilter", "datasets", "transformers", "torch")
FINGERPRINT = ("scorer", "arithmetic", "identity", "data")  # equal where scores have to be equal
DIGESTED = 10_000  # rows whose cells make one JSON object of a digest
READING = (  # what decides the rows of a run, as their source records it
    *("dataset", "config", "split", "template", "tokenizer", "template_kwargs", "reasoning"),
)
POLL = 0.1  # seconds between looks at what another process repairs


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read a run's `run.json`; the folder may be an fsspec URL.

    Raises:
        NotFoundError: the folder holds no run.
        SuperfilterError: the file is damaged.
    """
    store = Store(folder)
    try:
        return _load(store, FILE, _check_manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{store.folder!r} is not a run folder: it holds no run.json; make one with score or "
            "run"
        ) from None
    except ValueError as error:
        raise SuperfilterError(
            f"'{store.folder}/{FILE}' is damaged ({error}): score again into this folder, which "
            "repairs it, or use another"
        ) from error


def open_manifest(store: Store, rows: int, chunk_size: int) -> dict[str, Any]:
    """Take a folder for rows in chunks, or check that it was taken for the same.

    Returns:
        The manifest. Its `run` is a random name that every file of the run states.

    Raises:
        OSError: the folder cannot be created or read.
        SuperfilterError: it belongs to a run of another number of rows or chunk size.
    """
    try:
        manifest = _take(
            store, FILE, lambda: _new_manifest(store, rows, chunk_size), _check_taken_manifest
        )
    except OSError as error:
        raise OSError(
            f"the run folder {store.folder!r} cannot be used ({error.strerror or error}): "
            "choose another"
        ) from error
    for fact, value in {"rows": rows, "chunk_size": chunk_size}.items():
        if manifest.get(fact) != value:
            raise SuperfilterError(
                f"the run folder {store.folder!r} was made with {fact} {manifest.get(fact)}, "
                f"not {value}: use another folder"
            )
    return manifest


def take_scorer(
    store: Store,
    name: str,
    fingerprint: Mapping[str, Any],
    run: str,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Take a scorer's folder for one fingerprint, or check that it was taken for the same.

    Args:
        origin: where the rows come from and how they were read, to say what differs.

    Raises:
        SuperfilterError: the name stands for other settings or rows; says what differs.
    """
    _take(store, f"{name}/{SCORER_FILE}", lambda: {**fingerprint, "run": run})
    check_fingerprint(store, name, fingerprint, origin)


def check_fingerprint(
    store: Store,
    name: str,
    fingerprint: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a folder where a scorer's name stands for something else, and say what differs.

    Raises:
        SuperfilterError: other settings or rows.
    """
    recorded = read_scorer(store, name)
    for part in FINGERPRINT:
        if recorded.get(part) != fingerprint.get(part):
            raise SuperfilterError(
                f"the run folder {store.folder!r} holds scores named {name!r} made "
                f"{_difference(part, recorded.get(part), fingerprint.get(part))}"
                f"{_how_read(store, origin) if part == 'data' else ''}: "
                "use another folder or another name"
            )


def record_scorer(store: Store, name: str, facts: Mapping[str, Any]) -> None:
    """Add facts about one scorer to its `scorer.json`, and from there to `run.json`.

    Several processes may record at once: each writes its file atomically, and the last one has
    read what the others wrote.
    """
    recorded = read_scorer(store, name)
    merged = recorded | dict(facts)
    if merged != recorded:
        store.write(f"{name}/{SCORER_FILE}", _to_json(merged))
    while True:  # until no process has written an older state over it
        manifest = read_manifest(store.folder)
        scorers = read_scorers(store, manifest)
        if scorers == manifest["scorers"]:
            return
        _write(store, manifest | {"scorers": scorers})


def record_source(store: Store, source: Mapping[str, Any]) -> None:
    """Record where the rows come from: data set, revision, original columns."""
    manifest = read_manifest(store.folder)
    if manifest.get("source") != dict(source):
        _write(store, manifest | {"source": dict(source)})


def record_first_source(store: Store, source: Mapping[str, Any]) -> None:
    """Record where the rows come from, unless that is recorded or the folder is read-only."""
    if "source" not in read_manifest(store.folder) and store.writable():
        record_source(store, source)


def read_scorers(store: Store, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the `scorer.json` of every scorer of a folder, listed in its `run.json` or not yet."""
    names = [*manifest["scorers"], *_unlisted_scorers(store, manifest)]
    return {name: read_scorer(store, name) for name in names}


def read_scorer(store: Store, name: str) -> dict[str, Any]:
    """Read a scorer's `scorer.json`, {} where there is none or a damaged one."""
    try:
        return _load(store, f"{name}/{SCORER_FILE}")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def fingerprint_of(scorer: Settings, table: "Dataset") -> dict[str, Any]:
    """Describe what decides a scorer's numbers."""
    return {
        "scorer": json.loads(json.dumps(scorer.entry())),  # as it will be read back
        "arithmetic": scorer.arithmetic,
        "identity": scorer.identity(),
        "data": digest_columns(table, scorer.columns_read(table.column_names)),
    }


def fingerprint_digest(fingerprint: Mapping[str, Any]) -> str:
    """Digest a fingerprint to the 16 hex digits that every chunk file states."""
    parts = {part: fingerprint.get(part) for part in FINGERPRINT}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def chunk_identity(run: str, fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """Return what a chunk's file has to state to be of this run."""
    return {
        "run": run,
        "fingerprint": fingerprint_digest(fingerprint),
        "rows": fingerprint["data"],
    }


def digest_columns(table: "Dataset", columns: Sequence[str]) -> str:
    """Digest the contents of columns: equal for equal rows, on any machine."""
    digest = hashlib.sha256()
    present = [column for column in columns if column in table.column_names]
    for start in range(0, len(table), DIGESTED) if present else ():
        separator = "{"
        for column in present:
            digest.update(f"{separator}{json.dumps(column)}: ".encode())
            for part in _digestible(table, column, start):
                digest.update(part)
            separator = ", "
        digest.update(b"}")
    return f"sha256:{digest.hexdigest()[:16]}"


def _digestible(table: "Dataset", column: str, start: int) -> Iterator[bytes]:
    """Yield the cells of `DIGESTED` rows as JSON, a block in memory at a time.

    Texts and vectors are one digest, which is 2 and 40 times faster.
    """
    kind = table.features.arrow_schema.field(column).type
    blocks = partial(row_blocks, table, [column], rows=DIGESTED, start=start, stop=start + DIGESTED)
    if not _is_text_or_vector(kind):
        separator = "["
        for block in blocks():
            cells = json.dumps(block.column(0).to_pylist(), default=_to_text)
            yield f"{separator}{cells[1:-1]}".encode()
            separator = ", "
        yield b"]"
        return
    # Lengths too, or ["ab", ""] and ["a", "b"] would be equal; a null has length -1.
    digest = hashlib.sha256()
    for block in blocks():
        digest.update(_lengths(block.column(0)))
    for block in blocks():
        for part in _contents(block.column(0)):
            digest.update(part)
    yield json.dumps(digest.hexdigest()).encode()


def _is_text_or_vector(kind: pa.DataType) -> bool:
    is_list = types.is_list(kind) or types.is_fixed_size_list(kind)
    return _is_text(kind) or bool(is_list and types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _lengths(column: pa.ChunkedArray) -> bytes:
    measure = pc.binary_length if _is_text(column.type) else pc.list_value_length
    lengths = measure(column)
    return bytes(pc.fill_null(lengths.cast(pa.int64()), -1).to_numpy().tobytes())


def _contents(column: pa.ChunkedArray) -> list[Any]:
    """Return texts, or the float64 numbers of vectors, as buffers."""
    if _is_text(column.type):
        return ["".join(pc.fill_null(column, "").to_pylist()).encode()]
    flat = pc.list_flatten(column)
    return [part.cast("float64").to_numpy(zero_copy_only=False) for part in flat.chunks]


def _to_text(value: Any) -> str:
    """Return bytes and times, which JSON lacks, as text."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _difference(part: str, old: Any, new: Any) -> str:
    """Say what differs in one part of a fingerprint, as the end of a sentence."""
    if part == "data":
        return "from other rows"
    same_class = isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new)
    if part == "scorer" and same_class:
        before, after = next(iter(old.values())), next(iter(new.values()))
        for key in sorted({*before, *after}):
            values = [arguments.get(key, "its default") for arguments in (before, after)]
            if values[0] != values[1]:
                return f"with {key}={values[0]!r}, not {values[1]!r}"
    return f"with {part} {old!r}, not {new!r}"


def _how_read(store: Store, origin: Mapping[str, Any] | None) -> str:
    """Say what the rows of a run were read with otherwise, "" where it is not recorded."""
    recorded = read_manifest(store.folder).get("source") or {}
    if not origin:
        return ""
    before, after = ({**part, **(part.get("reading") or {})} for part in (recorded, origin))
    differences = []
    for key in READING:
        if key in before and key in after and before[key] != after[key]:
            words = "another template, " if key == "template" else ""
            differences.append(f"{words}{key}={before[key]!r}, not {after[key]!r}")
    return f" ({'; '.join(differences)})" if differences else ""


def _new_manifest(store: Store, rows: int, chunk_size: int) -> dict[str, Any]:
    """Describe a new run; where scorers recorded its name already, under that name."""
    entries = [read_scorer(store, name) for name in store.names()]
    names = [entry["run"] for entry in entries if isinstance(entry.get("run"), str)]
    return {
        "run": names[0] if names else uuid.uuid4().hex[:16],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "chunk_size": chunk_size,
        "packages": {package: _version(package) for package in PACKAGES},
        "scorers": {},
    }


def _take(
    store: Store,
    name: str,
    make: Callable[[], dict[str, Any]],
    check: Callable[[dict[str, Any]], None] = lambda contents: None,
) -> dict[str, Any]:
    """Read a JSON object, or create it: of several processes one does, and all read the same.

    A damaged one is logged and made again, by one process at a time.
    """
    while True:
        try:
            return _load(store, name, check)
        except FileNotFoundError:
            store.create(name, _to_json(make()))  # whoever was first: read what it wrote
        except ValueError as error:
            logger.warning("%s/%s is damaged (%s): it is made again", store.folder, name, error)
            break
    if not store.exclusive:
        store.write(name, _to_json(make()))
        return _load(store, name, check)
    folder, _, file = name.rpartition("/")
    with Leases(store, folder or ".") as leases:
        while not leases.take(file):
            time.sleep(POLL)
        try:
            return _load(store, name, check)  # another process has repaired it
        except ValueError:
            contents = make()
            store.write(name, _to_json(contents))
            return contents


def _load(
    store: Store, name: str, check: Callable[[dict[str, Any]], None] = lambda contents: None
) -> dict[str, Any]:
    contents = json.loads(store.read(name))
    if not isinstance(contents, dict):
        raise ValueError("not a mapping")
    check(contents)
    return contents


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    if not isinstance(manifest.get("scorers"), dict):
        raise ValueError("no scorers in it")


def _check_taken_manifest(manifest: Mapping[str, Any]) -> None:
    _check_manifest(manifest)
    if not isinstance(manifest.get("run"), str):
        raise ValueError("no name of the run in it")


def _unlisted_scorers(store: Store, manifest: Mapping[str, Any]) -> list[str]:
    """Name the scorers of a folder that its `run.json` does not list yet."""
    names = [name for name in store.names() if name not in manifest["scorers"]]
    return [name for name in names if store.has(f"{name}/{SCORER_FILE}")]


def _write(store: Store, manifest: Mapping[str, Any]) -> None:
    store.write(FILE, _to_json(manifest))


def _to_json(contents: Mapping[str, Any]) -> bytes:
    return (json.dumps(contents, indent=2, ensure_ascii=False) + "\n").encode()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
