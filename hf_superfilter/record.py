"""`run.json`: what a run folder was made of, so that nothing else is ever mixed into it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contracts import Settings
from .whole_files import whole_file

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "run.json"
PACKAGES = ("hf-superfilter", "datasets", "transformers", "torch")
CLAIM = ("scorer", "arithmetic", "identity", "data")  # what has to be equal for scores to be the same


def read_record(folder: str | Path) -> dict[str, Any]:
    """The contents of a run's `run.json`.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is not a run folder: it holds no run.json; make one with score or run"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record.get("scorers"), dict):
            raise ValueError("no scorers in it")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): use another folder") from error
    return record


def open_record(folder: Path, rows: int, chunk_size: int) -> None:
    """Make a run's record, or check that the one that stands there is of as many rows in the same chunks.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: it is another run's.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record = read_record(folder) if (folder / FILE).exists() else None
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        raise OSError(
            f"the run folder {str(folder)!r} cannot be used ({error.strerror or error}): choose another"
        ) from error
    for fact, value in {"rows": rows, "chunk_size": chunk_size}.items():
        if record and record.get(fact) != value:
            raise ValueError(
                f"the run folder {str(folder)!r} was made with {fact} {record.get(fact)}, not {value}: "
                "use another folder"
            )
    if record is None:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        packages = {package: _version(package) for package in PACKAGES}
        new = {"created": created, "rows": rows, "chunk_size": chunk_size, "packages": packages, "scorers": {}}
        _write(folder, new)


def note_scorer(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write down what is known of one scorer, beside what others may have written meanwhile."""
    record = read_record(folder)
    record["scorers"][name] = record["scorers"].get(name, {}) | dict(entry)
    _write(folder, record)


def note_source(folder: Path, source: Mapping[str, Any]) -> None:
    """Write down where the rows come from: data set, revision, and the columns it has by itself."""
    _write(folder, read_record(folder) | {"source": dict(source)})


def claim_of(scorer: object, name: str, table: "Dataset") -> dict[str, Any]:
    """What decides a scorer's numbers: its arguments, arithmetic and identity, and the rows it reads.

    A plain function is known by a digest of its code; then all columns count as read.
    """
    read = list(getattr(scorer, "columns", table.column_names))
    if isinstance(scorer, Settings):
        return {
            "scorer": json.loads(json.dumps(scorer.entry())),  # as it will be read back
            "arithmetic": scorer.arithmetic,
            "identity": scorer.identity(),
            "data": digest_of(table, read),
        }
    from datasets.fingerprint import Hasher

    return {"scorer": name, "identity": {"digest": Hasher.hash(scorer)}, "data": digest_of(table, read)}


def check_claim(folder: Path, name: str, claim: Mapping[str, Any]) -> None:
    """Refuse a folder where a scorer's name stands for something else, and say what differs."""
    old = read_record(folder)["scorers"].get(name)
    for part in CLAIM:
        if old is not None and old.get(part) != claim.get(part):
            raise ValueError(
                f"the run folder {str(folder)!r} holds scores named {name!r} made "
                f"{_difference(part, old.get(part), claim.get(part))}: use another folder or another name"
            )


def claim_digest(claim: Mapping[str, Any]) -> str:
    """A short digest of a claim, which every chunk made under it carries."""
    text = json.dumps({part: claim.get(part) for part in CLAIM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(table: "Dataset", columns: Sequence[str]) -> str:
    """A digest of the contents of some columns, equal for equal rows in any process and on any machine."""
    digest = hashlib.sha256()
    present = [column for column in columns if column in table.column_names]
    plain = table.select_columns(present).with_format("arrow")  # whatever format the rows are shown in
    for batch in plain.iter(batch_size=10_000) if present else ():
        digest.update(json.dumps(batch.to_pydict(), default=_as_json).encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _as_json(value: Any) -> str:
    """Bytes and times, the only things that Arrow hands over and JSON does not know."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _difference(part: str, old: Any, new: Any) -> str:
    if part == "data":
        return "from other rows"
    if part == "scorer" and isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
        before, after = next(iter(old.values())), next(iter(new.values()))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                return f"with {key}={before.get(key, 'its default')!r}, not {after.get(key, 'its default')!r}"
    return f"with {part} {old!r}, not {new!r}"


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
