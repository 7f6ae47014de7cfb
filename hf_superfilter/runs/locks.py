"""Lease chunks to processes, and take them back from the dead, the frozen and the hanging.

A lease is a file that its owner's heartbeat keeps touching (`filelock.SoftFileLease`): that of a
dead process of this machine is taken over at once, any other one after `LEASE` seconds without a
heartbeat. This file adds what filelock leaves open: an owner that keeps one lease for longer than
`patience` hangs, though its heart beats; and whatever stands in a lease's place without being one
is removed.

Leases save work and guarantee nothing. A frozen process may wake up when another has taken its
chunk; both then write the same file, each atomically. Machines that share a folder need different
host names, or they take each other's processes for dead.
"""

import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from .store import Store

LEASE = 30.0  # seconds without a heartbeat after which a lease is taken over


class _Sighting(NamedTuple):
    """Hold what was last seen of another's lease, and since when (monotonic seconds)."""

    owner: str | None  # the token of its claim; None where no claim can be read
    stamp: tuple[int, int]  # inode and time of modification
    owner_since: float
    stamp_since: float


class Leases:
    """Hold the leases of this process in one folder of a local store; a context manager.

    Attributes:
        patience: seconds after which an owner that keeps one lease counts as hanging.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.folder = store, folder
        self.patience = math.inf
        self._leases: dict[str, SoftFileLease] = {}
        self._sightings: dict[str, _Sighting] = {}

    def __enter__(self) -> "Leases":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._leases):
            self.release(name)

    def take(self, name: str) -> bool:
        """Take a lease, also from an owner that is dead, frozen or hanging.

        Returns:
            Whether this process holds it now. Ask again and again: what is judged by time is
            judged by how long this object has seen it unchanged.

        Raises:
            OSError: the folder cannot be written.
        """
        if name not in self._leases:
            self._leases[name] = SoftFileLease(
                self._path(name), lease_duration=LEASE, thread_local=False
            )
        if self._acquire(name):
            return True
        if not self._is_overdue(name):
            return False
        self._remove(name)
        return self._acquire(name)

    def release(self, name: str) -> None:
        """Give a lease back; one that another process has taken over is left to it."""
        lease = self._leases.pop(name, None)
        if lease is not None:
            lease.release()

    def holds(self, name: str) -> bool:
        """Return whether a lease is still this process's: one frozen for long has lost it."""
        lease = self._leases.get(name)
        if lease is None or not lease.is_locked:
            return False
        return lease.owner is not None and lease.owner.token == lease.token

    def _object(self, name: str) -> str:
        return f"{self.folder}/{name}.lease"

    def _path(self, name: str) -> Path:
        return self.store.path(self._object(name))

    def _acquire(self, name: str) -> bool:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.store.explain_full_disk(self._object(name)):
                self._leases[name].acquire(blocking=False)
        except (Timeout, LeaseSettingsMismatch):
            return False
        except (IsADirectoryError, PermissionError):
            # A directory in its place, or the lease of another user; but not a read-only folder.
            if not os.access(path.parent, os.W_OK):
                raise
            return False
        self._sightings.pop(name, None)
        return True

    def _is_overdue(self, name: str) -> bool:
        """Return whether a lease was seen unchanged, or with one owner, for too long."""
        try:
            status = self._path(name).lstat()
        except FileNotFoundError:
            return False  # released this very moment
        claim = self._leases[name].owner
        owner = claim.token if claim is not None else None
        stamp, now = (status.st_ino, status.st_mtime_ns), time.monotonic()
        sighting = self._sightings.get(name)
        if sighting is None or sighting.owner != owner:
            sighting = _Sighting(owner, stamp, now, now)
        elif sighting.stamp != stamp:
            sighting = sighting._replace(stamp=stamp, stamp_since=now)
        self._sightings[name] = sighting
        return now - sighting.stamp_since > LEASE or now - sighting.owner_since > self.patience

    def _remove(self, name: str) -> None:
        self._sightings.pop(name, None)
        self.store.set_aside(self._object(name))
        self._leases[name].force_break()
