"""Who is at work on which chunk: a lease is a file that its owner keeps touching.

Nobody is asked and no clock is compared: a lease is dead when its process is gone (seen on the same
machine), when whoever looks at it has not seen it touched for `EXPIRY` seconds of its own clock, or when
one and the same owner has kept it for longer than `patience` (it hangs, and only its heart beats). It may
still happen that two do one chunk: a process that was only frozen wakes up, or two find a lease dead at the
same moment. Both write the same file, whole, so nothing is there twice; a lease saves work, no more.
"""

import json
import math
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from .store import Store

BEAT = 5.0  # seconds between touches
EXPIRY = 30.0  # seconds without a touch after which a lease is taken over


class _Look(NamedTuple):
    """What was seen of another's lease: its owner and since when it has it, its time and since when that stands."""

    token: str | None
    taken: float
    touched: float
    unchanged: float


class Leases:
    """The leases of this process in one folder of a local store; a context that touches them in the background.

    Attributes:
        patience: seconds after which an owner that keeps one lease counts as hanging.
    """

    def __init__(self, store: Store, folder: str) -> None:
        import psutil

        me = psutil.Process()
        self.store, self.folder = store, folder
        self.owner = {
            "machine": _machine(),
            "pid": me.pid,
            "started": me.create_time(),
            "token": uuid.uuid4().hex,
        }
        self.patience = math.inf
        self._mine: set[str] = set()
        self._seen: dict[str, _Look] = {}  # the leases of others
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, name="hf_superfilter leases", daemon=True
        )

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for name in list(self._mine):
            self.give_back(name)

    def take(self, what: str) -> bool:
        """Take the lease of something, also from an owner that is dead, and say whether it is mine now."""
        name, data = self._name(what), json.dumps(self.owner).encode()
        if not self.store.take(name, data):
            if not self._is_dead(name):
                return False
            self._put_away(name)
            if not self.store.take(name, data):
                return False
        self._mine.add(what)
        return True

    def give_back(self, what: str) -> None:
        """Give a lease back, if it is still mine."""
        self._mine.discard(what)
        if self.is_mine(what):
            self.store.remove(self._name(what))

    def is_mine(self, what: str) -> bool:
        """Whether a lease is still mine: whoever was frozen for long has lost it."""
        return self._owner_of(self._name(what)).get("token") == self.owner["token"]

    def _name(self, what: str) -> str:
        return f"{self.folder}/{what}.lease"

    def _is_dead(self, name: str) -> bool:
        owner = self._owner_of(name)
        if owner.get("machine") == self.owner["machine"] and not _is_running(owner):
            return True
        try:
            touched = self.store.path(name).stat().st_mtime
        except FileNotFoundError:
            return False  # given back this very moment: the next look decides
        token, now = owner.get("token"), time.monotonic()
        before = self._seen.get(name)
        if before is None or before.token != token:
            before = _Look(token, now, touched, now)
        elif before.touched != touched:
            before = before._replace(touched=touched, unchanged=now)
        self._seen[name] = before
        return now - before.unchanged > EXPIRY or now - before.taken > self.patience

    def _put_away(self, name: str) -> None:
        """Remove a dead lease; of several that try at once, one does."""
        aside = f"{name}.{self.owner['token']}"
        with suppress(FileNotFoundError):
            self.store.path(name).rename(self.store.path(aside))
            self.store.remove(aside)
        self._seen.pop(name, None)

    def _owner_of(self, name: str) -> dict:
        try:
            return json.loads(self.store.read(name) or b"{}")
        except (FileNotFoundError, ValueError):
            return {}

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            for what in list(self._mine):
                with suppress(
                    OSError
                ):  # given back meanwhile, or a network disk that does not answer: the next beat
                    if self.is_mine(what):
                        os.utime(self.store.path(self._name(what)))


def _machine() -> str:
    """What has one table of processes: equal for two processes that can see each other's numbers, else not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"  # a container numbers its processes itself
    except OSError:
        return socket.gethostname()


def _is_running(owner: dict) -> bool:
    """Whether the process that holds a lease of this machine is still there, and still the same one."""
    import psutil

    try:
        process = psutil.Process(owner["pid"])
        return (
            abs(process.create_time() - owner["started"]) < 1
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.NoSuchProcess, KeyError):
        return False
