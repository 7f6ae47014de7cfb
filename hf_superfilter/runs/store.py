"""Store the objects of a run in a local folder or under an fsspec URL.

An object is a whole file with a name. A reader sees its old or its new contents, never half of
either: a local file is written under a temporary name and renamed.

    Store             objects by name, in a folder or under a URL
    atomic_write      one local file
    sweep_unfinished  remove the temporary files of writers that died
"""

import errno
import hashlib
import logging
import os
import re
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..checks import is_url
from ..errors import SuperfilterError

logger = logging.getLogger(__name__)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
REMOTE_LIFETIME = 3600.0  # seconds after which an untouched temporary file of another machine goes


class Store:
    """Read and write the objects of a folder. Names are relative and use `/`.

    Attributes:
        folder: the folder as text.
        exclusive: whether an object can be created by exactly one of several processes, and so
            whether leases work. False for every URL, since not all stores can.
    """

    def __init__(self, folder: "str | os.PathLike[str]") -> None:
        self.folder = str(folder)
        self.exclusive = not is_url(folder)
        self._local: str | None = self.folder
        self._folders: set[str] = set()  # under a URL, those that were created already
        if not self.exclusive:
            from fsspec.core import url_to_fs

            try:  # without the cache of listings, which would hide what other processes wrote
                self._fs, self._root = url_to_fs(self.folder, use_listings_cache=False)
            except (ImportError, ValueError) as error:  # a missing package, an unknown protocol
                raise SuperfilterError(f"folder={self.folder!r}: {error}") from error
            self._local = self._root if getattr(self._fs, "local_file", False) else None

    def __repr__(self) -> str:
        return f"Store({self.folder!r})"

    def path(self, name: str) -> Path:
        """Return the path of an object of a local folder."""
        return Path(self.folder) / name

    def writable(self) -> bool:
        """Return whether this process may write; always True for a URL, which cannot be asked."""
        return not self.exclusive or os.access(self.folder, os.W_OK)

    def check_folder(self, *, writable: bool = True) -> None:
        """Refuse a place that can be no folder of a run, before any work is done for it.

        Args:
            writable: whether objects will be written.

        Raises:
            SuperfilterError: it is a file or beneath one, or nothing can be written there.
        """
        if not self.exclusive:
            return
        place = Path(self.folder).absolute()
        existing = next(path for path in (place, *place.parents) if path.exists())
        reason = ""
        if not existing.is_dir():
            reason = f"{str(existing)!r} is a file"
        elif writable and not os.access(existing, os.W_OK | os.X_OK):
            reason = f"nothing can be written to {str(existing)!r}"
        if reason:
            raise SuperfilterError(
                f"the run folder {self.folder!r} cannot be used ({reason}): choose another"
            )

    def has(self, name: str) -> bool:
        """Return whether an object exists."""
        if self.exclusive:
            return self.path(name).is_file()
        with self._explain_remote(name):
            return bool(self._fs.exists(self._key(name)))

    def names(self, folder: str = "") -> list[str]:
        """List objects and folders directly in a folder, [] where it does not exist."""
        try:
            if self.exclusive:
                with os.scandir(self.path(folder)) as entries:
                    return sorted(entry.name for entry in entries)
            with self._explain_remote(folder):
                keys = self._fs.ls(self._key(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(key).rstrip("/").rsplit("/", 1)[-1] for key in keys)

    def read(self, name: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        if self.exclusive:
            return self.path(name).read_bytes()
        with self._explain_remote(name):
            return bytes(self._fs.cat_file(self._key(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write an object atomically, in the place of an older one.

        Raises:
            OSError: the disk is full or the folder cannot be written; no partial file stays.
        """
        if self._local is not None:
            with self.file(name) as unfinished:
                unfinished.write_bytes(data)
            return
        with self._explain_remote(name):
            self._fs.pipe_file(self._key_in_folder(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object atomically, only where there is none of that name.

        Returns:
            Whether this call wrote it. Of several processes that try at once, one does; under a
            URL whose store lacks conditional writes, several may believe so.
        """
        try:
            if self._local is None:
                with self._explain_remote(name):
                    self._fs.pipe_file(self._key_in_folder(name), data, mode="create")
            else:
                path = Path(self._local) / name
                with self.explain_full_disk(name), atomic_write(path, replace=False) as unfinished:
                    unfinished.write_bytes(data)
        except FileExistsError:
            return False
        return self._local is not None or self.read(name) == data

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a local path to write to; the object appears when the block ends without error."""
        if self._local is not None:  # file:// too: fsspec does not write local files atomically
            with self.explain_full_disk(name), atomic_write(Path(self._local) / name) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as scratch:
            path = Path(scratch) / name.rsplit("/", 1)[-1]
            yield path
            self.write(name, path.read_bytes())

    def append(self, name: str, line: str) -> None:
        """Add a line to a text file of a local folder; objects of a URL cannot grow."""
        with self.explain_full_disk(name), self.path(name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def set_aside(self, name: str) -> None:
        """Rename a folder that lies in the place of an object of a local folder."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged")
            logger.warning("%s is a folder in the place of a file: renamed to %s", path, aside)
            path.rename(aside)

    @contextmanager
    def explain_full_disk(self, name: str) -> Iterator[None]:
        """Say in an error about a full disk what that means for a run."""
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise OSError(
                f"{self.folder}/{name} could not be written ({os.strerror(error.errno)}): "
                "what is finished is safe; make room and run the same command again"
            ) from error

    @contextmanager
    def _explain_remote(self, name: str) -> Iterator[None]:
        """Turn the errors of a store's client, which are of no common kind, into an OSError."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, NotADirectoryError):
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"{self.folder}/{name} cannot be read or written ({reason}): what is finished is "
                "safe; run the same command again"
            ) from error

    def _key(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")

    def _key_in_folder(self, name: str) -> str:
        """Return an object's key under a URL, after creating the folder it lies in."""
        key = self._key(name)
        parent = key.rsplit("/", 1)[0]
        if parent not in self._folders:
            self._fs.makedirs(parent, exist_ok=True)
            self._folders.add(parent)
        return key


@contextmanager
def atomic_write(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Write a file atomically: to a temporary file, which is then renamed.

    Until the block ends an older file stays as it was, and after an error nothing partial stays.
    Several processes may write at once, on several machines too: each has its own temporary file.

    Args:
        path: the file to write; its folder is created.
        replace: whether to replace an existing file.

    Yields:
        The temporary path to write to.

    Raises:
        FileExistsError: the file exists, and `replace` is False.

    Example:
        >>> with atomic_write("runs/docs/notes.txt") as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> Path("runs/docs/notes.txt").read_text()
        'all of it'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished, handle = _create_unfinished(target)
    try:
        if sys.platform == "win32":
            handle.close()  # Windows renames no open file
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(target)
        else:
            _rename_to_new(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
        handle.close()


def sweep_unfinished(folder: str | Path) -> None:
    """Remove the temporary files of `atomic_write`, in a run folder, whose writers died.

    A living writer of this machine holds a lock on its file, which the operating system releases
    when the process ends. A lock of another machine may be invisible here: a file with the mark of
    another machine is removed once it has not been touched for an hour of the folder's own clock.
    """
    levels = ("*.unfinished", "*/*.unfinished", "*/*/*.unfinished")
    paths = [path for level in levels for path in Path(folder).glob(level)]
    if not paths or not os.access(folder, os.W_OK):
        return
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    for path in paths:
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            if _is_abandoned(path, now):
                path.unlink()


def _is_abandoned(path: Path, now: float) -> bool:
    mark = re.search(r"\.([0-9a-f]{8})-[0-9a-f]{12}\.unfinished$", path.name)
    if mark and mark[1] != _machine_mark():
        return now - path.stat().st_mtime > REMOTE_LIFETIME
    with path.open("rb+") as file:
        return _lock_if_free(file)


def _create_unfinished(target: Path) -> tuple[Path, IO[bytes]]:
    """Create and lock a temporary file beside `target`."""
    while True:
        name = f"{target.name}.{_machine_mark()}-{uuid.uuid4().hex[:12]}.unfinished"
        path = target.with_name(name)
        handle = path.open("xb")
        _lock_if_free(handle)
        if os.fstat(handle.fileno()).st_nlink:
            return path, handle
        handle.close()  # swept between its creation and its lock: once more


def _rename_to_new(unfinished: Path, target: Path) -> None:
    """Give a file its name, unless the name is taken: a hard link is one atomic step."""
    try:
        os.link(unfinished, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        target.open("xb").close()  # reserves the name, empty for an instant
        unfinished.replace(target)


def _machine_mark() -> str:
    """Return 8 hex digits that two machines hardly share."""
    boot = socket.gethostname()
    with suppress(OSError):
        boot += Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(boot.encode()).hexdigest()[:8]


if sys.platform == "win32":

    def _lock_if_free(file: IO[bytes]) -> bool:
        """Return True: Windows itself refuses to remove an open file."""
        return True

else:
    import fcntl

    def _lock_if_free(file: IO[bytes]) -> bool:
        """Lock an open file for as long as it is open, and return whether that was possible."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # locked by another process, or a file system without locks
            return False
        return True
