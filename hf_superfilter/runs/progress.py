"""Tell how far a run is, from its folder."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import NotFoundError
from .chunks import LAYOUT, Chunks
from .manifest import chunk_identity, read_manifest, read_scorers
from .store import Store


class Progress(NamedTuple):
    """Count the rows that a scorer of a run has scored.

    Attributes:
        name: the scorer's name.
        done, rows: rows scored, and rows of the run.
    """

    name: str
    done: int
    rows: int

    def __str__(self) -> str:
        return f"{self.name}: {self.done:,} of {self.rows:,} rows are scored"


def unfinished_scorers(folder: str | Path) -> list[Progress]:
    """Count what is scored of each scorer that is not finished.

    Args:
        folder: a run folder, a path or an fsspec URL; it is only read.

    Returns:
        One entry for each scorer that was begun and not finished; none of a finished run.

    Raises:
        NotFoundError: the folder holds no run.
    """
    store, manifest = Store(folder), read_manifest(folder)
    return [
        Progress(name, _rows_done(store, name, entry), manifest["rows"])
        for name, entry in read_scorers(store, manifest).items()
        if "seconds" not in entry
    ]


def rows_left(folder: str | Path, name: str, rows: int) -> np.ndarray | None:
    """List the rows that a scorer of a run has not scored.

    Returns:
        (k,) row numbers; None where the folder holds nothing of the scorer for so many rows.
    """
    try:
        manifest = read_manifest(folder)
    except NotFoundError:
        return None
    store = Store(folder)
    entry = read_scorers(store, manifest).get(name)
    if entry is None or manifest.get("rows") != rows:
        return None
    if "seconds" in entry:
        return np.arange(0)
    chunks = _chunks(store, name, entry)
    if chunks is None:
        return None
    spans = [np.asarray(chunks.span(number)) for number in chunks.pending()]
    return np.concatenate([np.arange(0), *spans])


def _rows_done(store: Store, name: str, entry: dict[str, Any]) -> int:
    chunks = _chunks(store, name, entry)
    if chunks is None:
        return 0
    chunks.pending()
    return chunks.rows_done()


def _chunks(store: Store, name: str, entry: dict[str, Any]) -> Chunks | None:
    """Open the chunks of a scorer; None where it was killed before they were cut."""
    try:
        starts = np.load(io.BytesIO(store.read(LAYOUT)))[0]
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if not {"run", "data"} <= set(entry):
        return None
    return Chunks(store, name, starts, identity=chunk_identity(entry["run"], entry))
