"""Scorers that have to see all rows before they score any: one launch makes what they need, all others wait for it.

folder/<scorer>/prepared-<claim>/                what `prepare` made
folder/<scorer>/prepared-<claim>/prepared.json   all of it is there
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
from .store import atomic_write

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
DONE, LEASE = "prepared.json", "prepare"
POLL = 0.5  # seconds between looks at what another launch makes


def prepared_folder(name: str, claim: str) -> str:
    """The folder in a run folder that holds what a scorer prepared."""
    return f"{name}/prepared-{claim}"


def prepared(scorer: Any, table: "Dataset", chunks: Chunks, process: Process) -> Any:
    """The scorer with what it needs made, by this launch or by another one; as it is when no chunk is left to score.

    Of several launches and processes on one local folder one has the lease and makes it, with all its processes;
    when it dies another one goes on. On a store without exclusive creation each launch makes its own, in
    the temporary folder of its machine, unless it finds it in the store.

    `scorer.prepare(table, folder)` is called in every process, also where all is made: it then only reads.
    """
    store, home = chunks.store, prepared_folder(chunks.name, chunks.claim)
    folder = (
        store.path(home)
        if store.exclusive
        else Path(tempfile.gettempdir()) / f"hf_superfilter-{chunks.claim}"
    )
    with Leases(store, home) as leases:
        while (
            state := broadcast(_state(chunks, home, leases) if process.is_main else "")
        ) == "wait":
            time.sleep(POLL)
        if state == "scored":
            return scorer
        if state == "made" and not store.exclusive:
            _fetch(chunks, home, folder)
        ready = scorer.prepare(table, str(folder))
        if state == "make":
            broadcast(None)  # a process that still writes would have half a file listed
            if process.is_main:
                _put(chunks, home, folder)
            broadcast(None)  # no other process goes on before all is there
            if not store.exclusive and not process.is_main:
                _fetch(chunks, home, folder)
        return ready


def _state(chunks: Chunks, home: str, leases: Leases) -> str:
    """What the main process finds: all is `scored` already, or `made`; it may `make` it; or another does: `wait`."""
    if not chunks.pending():
        return "scored"
    if chunks.store.has(f"{home}/{DONE}"):
        return "made"
    if not chunks.store.exclusive:
        return "make"
    if not leases.take(LEASE):
        logger.info("waiting for another process to prepare %s", chunks.name)
        return "wait"
    if chunks.store.has(f"{home}/{DONE}"):  # put between the look and the lease
        leases.give_back(LEASE)
        return "made"
    return "make"


def _put(chunks: Chunks, home: str, folder: Path) -> None:
    """Copy what was made to the store, unless it was made there, and say that it is all."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = [name for name in names if not name.endswith(".lease")]
    if not chunks.store.exclusive:
        for name in files:
            chunks.store.write(f"{home}/{name}", (folder / name).read_bytes())
    chunks.store.write(
        f"{home}/{DONE}", json.dumps({"claim": chunks.claim, "files": files}, indent=2).encode()
    )


def _fetch(chunks: Chunks, home: str, folder: Path) -> None:
    """Copy from the store what this machine does not have."""
    for name in json.loads(chunks.store.read(f"{home}/{DONE}"))["files"]:
        if not (folder / name).is_file():
            with atomic_write(folder / name) as unfinished:
                unfinished.write_bytes(chunks.store.read(f"{home}/{name}"))
