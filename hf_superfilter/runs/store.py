"""A run folder, local or on any fsspec URL: whole objects by name. A reader never sees half of one."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..checks import is_url

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """The objects of a folder. Names are relative and use `/`.

    Attributes:
        folder: the folder as text.
        exclusive: whether `take` can tell who came first; not on URLs, whose stores need not be able to.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = str(folder)
        self.exclusive = not is_url(folder)
        self._local: str | None = self.folder  # the path on this machine, where it is one
        self._made: set[str] = set()
        if not self.exclusive:
            from fsspec.core import url_to_fs

            try:  # a listing that is kept would hide what other processes have put since
                self._fs, self._root = url_to_fs(self.folder, use_listings_cache=False)
            except (ImportError, ValueError) as error:  # a package to install, an unknown protocol
                raise ValueError(f"folder={self.folder!r}: {error}") from error
            self._local = self._root if getattr(self._fs, "local_file", False) else None

    def __repr__(self) -> str:
        return f"Store({self.folder!r})"

    def path(self, name: str) -> Path:
        """The file behind a name, of a local folder."""
        return Path(self.folder) / name

    def has(self, name: str) -> bool:
        """Whether an object is there."""
        return (
            self.path(name).is_file() if self.exclusive else bool(self._fs.exists(self._at(name)))
        )

    def names(self, folder: str = "") -> list[str]:
        """The names of the objects and folders directly in a folder, [] where there is none."""
        try:
            if self.exclusive:
                with os.scandir(self.path(folder)) as entries:
                    return sorted(entry.name for entry in entries)
            found = self._fs.ls(self._at(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def read(self, name: str) -> bytes:
        """An object's contents.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        return (
            self.path(name).read_bytes()
            if self.exclusive
            else bytes(self._fs.cat_file(self._at(name)))
        )

    def write(self, name: str, data: bytes) -> None:
        """Put an object, whole or not at all, in the place of one that is there.

        Raises:
            OSError: the disk is full or the folder cannot be written; nothing half-written stays.
        """
        if self._local is not None:
            with self.file(name) as unfinished:
                unfinished.write_bytes(data)
            return
        at = self._at(name)
        if (parent := at.rsplit("/", 1)[0]) not in self._made:
            self._fs.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        self._fs.pipe_file(at, data)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A local path to write to, which becomes the object when the block ends without an error."""
        if self._local is not None:  # file:// too, whose own way to put a file is not whole
            with self._room_for(name), atomic_write(Path(self._local) / name) as unfinished:
                yield unfinished
            return
        with TemporaryDirectory(prefix="hf_superfilter_") as scratch:
            path = Path(scratch) / name.rsplit("/", 1)[-1]
            yield path
            self.write(name, path.read_bytes())

    def take(self, name: str, data: bytes) -> bool:
        """Put an object only if there is none of that name, and say whether that was so; of local folders only."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with self._room_for(name), os.fdopen(handle, "wb") as file:
                file.write(data)
        except OSError:  # a full disk: a lease without an owner would keep the others waiting
            path.unlink(missing_ok=True)
            raise
        return True

    def append(self, name: str, line: str) -> None:
        """Add a line to a text file; of local folders only, since nothing can be added to an object."""
        with self._room_for(name), self.path(name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def remove(self, name: str) -> None:
        """Remove an object, if it is there; of local folders only."""
        self.path(name).unlink(missing_ok=True)

    @contextmanager
    def _room_for(self, name: str) -> Iterator[None]:
        """Say what a full disk means for a run."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise OSError(
                f"{self.folder}/{name} could not be written ({os.strerror(error.errno)}): "
                "what is finished is safe; make room and run the same command again"
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Hand out a path beside `path` to write to; without an error it takes the name `path` when the block ends.

    Until then a file that was there before stays as it was, and after an error nothing half-written stays.
    Several may write at once, on several machines too: each has a name of its own, and the last one stays.

    Example:
        >>> with atomic_write("runs/docs/notes.txt") as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> Path("runs/docs/notes.txt").read_text()
        'all of it'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
