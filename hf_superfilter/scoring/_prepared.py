"""Keep what a scorer prepares in a file of a folder, and read it back with its digest."""

import hashlib
from collections.abc import Callable

from ..errors import NotFoundError
from ..runs.store import Store


def write_once(folder: str, name: str, make: Callable[[], bytes]) -> str:
    """Write a file where it is not there yet; return its path.

    Args:
        folder: a local folder or an fsspec URL.
        name: of the file.
        make: makes its contents; not called where the file is there.
    """
    store = Store(folder)
    if not store.has(name):
        contents = make()
        with store.file(name) as unfinished:
            unfinished.write_bytes(contents)
    return f"{store.folder.rstrip('/')}/{name}"


def read_prepared(file: str, missing: str) -> tuple[bytes, str]:
    """Read a file and its digest.

    Args:
        file: its path.
        missing: what to say where it is not there.

    Raises:
        NotFoundError: it is not there.
    """
    folder, _, name = file.rpartition("/")
    try:
        data = Store(folder or ".").read(name)
    except FileNotFoundError:
        raise NotFoundError(missing) from None
    return data, f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
