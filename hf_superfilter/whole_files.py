"""A file is there whole or not at all, whenever the writer dies."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Hand out a path beside `path` to write to; without an error it takes the name `path` when the block ends.

    Until then a file that was there before stays as it was, and after an error nothing half-written stays.
    Several may write at once, on several machines too: each has a name of its own, and the last one stays.

    Example:
        >>> with whole_file("runs/docs/notes.txt") as unfinished:
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
