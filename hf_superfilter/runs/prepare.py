"""Prepare scorers that have to see all rows before they score any.

    folder/<scorer>/prepared-<fingerprint>/                what `prepare` wrote
    folder/<scorer>/prepared-<fingerprint>/prepared.json   written last: all of it is there

One launch prepares, all others wait for it.
"""

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chunks import Chunks
from .distributed import Process, broadcast
from .locks import Leases
from .manifest import fingerprint_digest
from .store import Store, atomic_write

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
DONE_FILE, LEASE_NAME = "prepared.json", "prepare"
POLL = 0.5  # seconds between looks at what another launch prepares


def prepared_folder(name: str, fingerprint: str) -> str:
    """Return the folder, within a run folder, of what a scorer prepared.

    Args:
        name: the scorer's.
        fingerprint: the digest of its fingerprint.
    """
    return f"{name}/prepared-{fingerprint}"


def prepare_scorer(scorer: Any, table: "Dataset", chunks: Chunks, process: Process) -> Any:
    """Prepare a scorer, or wait until another launch has.

    Of several launches on one local folder one holds the lease and prepares, with all its
    processes; when it dies another one goes on. On a store without leases each launch prepares for
    itself, in the temporary folder of its machine, unless the store holds the result.

    `scorer.prepare(table, folder)` is called in every process, also where all is prepared: it then
    only reads.

    Returns:
        The prepared scorer; as it came where no chunk is left to score.
    """
    store, fingerprint = chunks.store, chunks.identity["fingerprint"]
    name = prepared_folder(chunks.name, fingerprint)
    if store.exclusive:
        folder = store.path(name)
    else:
        folder = Path(tempfile.gettempdir()) / f"hf_superfilter-{fingerprint}"
    with Leases(store, name) as leases:
        state = "wait"
        while state == "wait":
            state = broadcast(_state(chunks, name, leases) if process.is_main else "")
            if state == "wait":
                time.sleep(POLL)
        if state == "scored":
            return scorer
        if state == "prepared" and not store.exclusive:
            _download(chunks, name, folder)
        ready = scorer.prepare(table, str(folder))
        if state == "prepare":
            broadcast(None)  # a process that still writes would have half a file listed
            if process.is_main:
                _publish(chunks, name, folder)
            broadcast(None)  # no other process goes on before all of it is there
            if not store.exclusive and not process.is_main:
                _download(chunks, name, folder)
        return ready


def was_prepared(folder: str | Path, name: str, entry: dict[str, Any]) -> bool:
    """Tell whether a scorer of a run looked at all rows before it scored the first.

    Args:
        folder: the run folder.
        name: the scorer's.
        entry: what the manifest says of it.
    """
    prepared = prepared_folder(name, fingerprint_digest(entry))
    return Store(folder).has(f"{prepared}/{DONE_FILE}")


def _state(chunks: Chunks, name: str, leases: Leases) -> str:
    """Decide, as the main process, what its launch does.

    Returns:
        "scored": all chunks are done. "prepared": all is there to read. "prepare": this launch
        does it. "wait": another one does.
    """
    if not chunks.pending():
        return "scored"
    if chunks.store.has(f"{name}/{DONE_FILE}"):
        return "prepared"
    if not chunks.store.exclusive:
        return "prepare"
    if not leases.take(LEASE_NAME):
        logger.info("waiting for another process to prepare %s", chunks.name)
        return "wait"
    if chunks.store.has(f"{name}/{DONE_FILE}"):  # written between the look and the lease
        leases.release(LEASE_NAME)
        return "prepared"
    return "prepare"


def _publish(chunks: Chunks, name: str, folder: Path) -> None:
    """Copy what was prepared to the store, unless it lies there, and mark it as complete."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = sorted(path.relative_to(folder).as_posix() for path in paths if path.suffix != ".lease")
    if not chunks.store.exclusive:
        for file in files:
            chunks.store.write(f"{name}/{file}", (folder / file).read_bytes())
    contents = {"fingerprint": chunks.identity["fingerprint"], "files": files}
    chunks.store.write(f"{name}/{DONE_FILE}", json.dumps(contents, indent=2).encode())


def _download(chunks: Chunks, name: str, folder: Path) -> None:
    """Copy from the store what this machine lacks."""
    for file in json.loads(chunks.store.read(f"{name}/{DONE_FILE}"))["files"]:
        if not (folder / file).is_file():
            with atomic_write(folder / file) as unfinished:
                unfinished.write_bytes(chunks.store.read(f"{name}/{file}"))
