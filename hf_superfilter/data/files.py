"""Open files of rows, plain or compressed."""

import io
import lzma
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ..base import UNREADABLE
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset

COMPRESSIONS = {"": None, ".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
READERS = {"json": ("json", "jsonl", "ndjson"), "csv": ("csv", "tsv")}
SUFFIXES = (
    *(
        f".{kind}{packed}"
        for packed in COMPRESSIONS
        for kind in (*READERS["json"], *READERS["csv"])
    ),
    ".parquet",
)
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
# How files begin that carry a wrong name, and what to do with them.
MAGIC = {
    b"\x1f\x8b": "it is compressed by gzip: rename it to end in .gz",
    b"BZh": "it is compressed by bzip2: rename it to end in .bz2",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd: rename it to end in .zst",
    b"\xfd7zXZ": "it is compressed by xz: rename it to end in .xz",
    b"PAR1": "it is a Parquet file: rename it to end in .parquet",
    b"PK\x03\x04": "it is an Excel workbook or a zip archive: save its rows as CSV",
}

# The columns that a format reads as text, under all their usual names. What stands in them is
# never taken for a number: 007, 1.50 and nan are answers.
TEXT_COLUMNS = frozenset(
    {
        *("instruction", "input", "output", "system", "context", "response", "history"),
        *("question", "answer", "query", "problem", "solution", "text", "content"),
        *("inputs", "targets", "prompt", "completion", "chosen", "rejected", "response_rejected"),
        *("reasoning", "reasoning_content", "thinking"),
        *("messages", "conversation", "conversations", "tools"),
    }
)


class Fault(NamedTuple):
    """Describe a cell that no column can hold."""

    row: int
    place: str
    column: str
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed as its suffix says, and UTF-16 as UTF-8.

    Excel's "Unicode text" is UTF-16; it is read whole.
    """
    stream = _open_stored(path)
    start = stream.read(2)
    if start in UTF_16:
        with stream:
            return io.BytesIO((start + stream.read()).decode("utf-16").encode())
    stream.close()
    return _open_stored(path)


def _open_stored(path: Path) -> IO[bytes]:
    import pyarrow as pa

    codec = COMPRESSIONS.get(path.suffix.lower())
    if codec == "xz":  # the one that Arrow does not know
        return lzma.open(path, "rb")
    stream: IO[bytes] = pa.input_stream(str(path), compression=codec)
    return stream


def undecodable_line(path: Path) -> str | None:
    """Find the first line and byte that are not UTF-8, and say what the file looks like."""
    file: Any = open_bytes(path)
    with io.BufferedReader(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                looks = [MAGIC[start] for start in MAGIC if number == 1 and line.startswith(start)]
                remedy = looks[0] if looks else "save the file as UTF-8"
                return f"line {number}, byte {error.start + 1}: {error}; {remedy}"
    return None


def with_unreadable(rows: "Dataset", faults: Iterable[Fault]) -> "Dataset":
    """Add the column `unreadable_reason` with the reasons of some rows."""
    reasons: list[str | None] = [None] * len(rows)
    for fault in faults:
        reasons[fault.row] = f"{fault.place}, column {fault.column!r}: {fault.reason}"
    if UNREADABLE in rows.column_names:
        raise SuperfilterError(
            f"the column {UNREADABLE!r} is kept for the reasons of rows that cannot be read, such "
            f"as {next(filter(None, reasons))!r}: rename it"
        )
    return with_text_column(rows, UNREADABLE, reasons)


def with_text_column(rows: "Dataset", name: str, texts: list[str | None]) -> "Dataset":
    """Add a column of text at the end, in memory."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    column = Dataset(pa.table({name: pa.array(texts, pa.string())}))
    return concatenate_datasets([rows, column], axis=1)


def is_text_column(name: str, text_columns: Collection[str]) -> bool:
    """Check whether a column is text, by its name or the caller's."""
    return name.strip().casefold() in TEXT_COLUMNS or name in text_columns
