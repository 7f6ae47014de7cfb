"""Read CSV files without a guess at the type of text."""

import csv
import io
import logging
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SuperfilterError
from .files import is_text_column, open_bytes, undecodable_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)
SEPARATORS = (",", ";", "\t", "|")
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?$')
BLOCK_BYTES = 1 << 26  # Arrow reads a row whole or not at all: larger than the longest of them
INTEGER = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NO_NUMBER = r"^[+-]?(nan|NaN|NAN|inf|Infinity)$"
# A leading zero or more digits than a float64 holds: an identifier, whose digits matter.
IDENTIFIER = r"^[+-]?(0[0-9].*|[0-9]{16,})$"


class Dialect(NamedTuple):
    """Describe how a file separates columns, and the lines before its header."""

    separator: str
    lines_before: int


def read_csv(path: Path, text_columns: Collection[str] = ()) -> "Dataset":
    """Read a CSV file with a header, text as it stands there.

    Separators are commas, in a .tsv tabs. Where the header is then a single name that holds
    semicolons, tabs, bars or commas, those are; Excel's first line `sep=;` names them too.

    A column is text if a format reads it (`files.TEXT_COLUMNS`) or `text_columns` names it. Any
    other is numbers where every cell in it is one that int64 or float64 holds, truth values where
    every cell is True or False, else text. The whole column decides, not its first block. An
    empty cell is null, and `""` in a column of text the empty text.

    Raises:
        SuperfilterError: no header, two columns of one name, a row of another length, or bytes
            that are not UTF-8; the line is named.
    """
    import pyarrow as pa
    import pyarrow.csv as arrow_csv
    from datasets import Dataset

    dialect = _dialect_of(path)
    names = _header(path, dialect)
    try:
        with open_bytes(path) as file:
            table = arrow_csv.open_csv(
                file,
                arrow_csv.ReadOptions(
                    block_size=BLOCK_BYTES, use_threads=False, skip_rows=dialect.lines_before
                ),
                arrow_csv.ParseOptions(newlines_in_values=True, delimiter=dialect.separator),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            ).read_all()
    except pa.ArrowInvalid as error:
        reason = undecodable_line(path) or _uneven_line(path, dialect) or str(error)
        raise SuperfilterError(reason) from error
    return with_values(Dataset(table.rename_columns(_labels(names))), text_columns)


def read_header(url: str) -> list[str]:
    """Read the column names of a CSV file anywhere that fsspec reaches, as datasets calls them."""
    import fsspec

    with fsspec.open(url, "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
        names: list[str] = next(csv.reader(file), [])
    return _labels(names)


def _labels(names: list[str]) -> list[str]:
    """Name the index that DataFrame.to_csv writes without a name as pandas does."""
    return [name or f"Unnamed: {number}" for number, name in enumerate(names)]


def with_values(rows: "Dataset", text_columns: Collection[str] = ()) -> "Dataset":
    """Convert the columns that hold nothing but numbers, or truth values.

    Columns that a format reads and `text_columns` stay text.
    """
    from datasets import Dataset

    table = rows.data.table
    for number, name in enumerate(rows.column_names):
        if not is_text_column(name, text_columns):
            table = table.set_column(number, name, _as_values(table.column(number)))
    return Dataset(table.replace_schema_metadata(None), split=rows.split)


def _dialect_of(path: Path) -> Dialect:
    """Find how a file separates its columns."""
    usual = Dialect("\t" if ".tsv" in path.name.lower() else ",", 0)
    first = _first_row(path, usual)
    stated = EXCEL_SEPARATOR.match(",".join(first or ()))
    if stated:
        return Dialect(stated[1], 1)
    if first is None or len(first) != 1:
        return usual
    present = [separator for separator in SEPARATORS if separator in first[0]]
    if len(present) != 1:
        return usual
    logger.info("%s: columns are separated by %r", path, present[0])
    return Dialect(present[0], 0)


def _first_row(path: Path, dialect: Dialect) -> list[str] | None:
    try:
        row: list[str] | None = next(_parsed(path, dialect), None)
    except UnicodeDecodeError as error:
        raise SuperfilterError(undecodable_line(path) or str(error)) from error
    return row


def _header(path: Path, dialect: Dialect) -> list[str]:
    """Read the names of the columns."""
    names = _first_row(path, dialect)
    if names is None:
        raise SuperfilterError("No columns: the file is empty")
    for name in names:
        if names.count(name) > 1:
            raise SuperfilterError(f"two columns are called {name!r}: rename one")
    return names


def _parsed(path: Path, dialect: Dialect) -> Any:
    """Parse a CSV file; `line_num` is the line that a row ends in."""
    csv.field_size_limit(sys.maxsize)  # the module's own limit, 131,072 characters, is a short text
    lines = io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")
    rows = csv.reader(lines, delimiter=dialect.separator)
    for _ in range(dialect.lines_before):
        next(rows)
    return rows


def _uneven_line(path: Path, dialect: Dialect) -> str | None:
    """Find the first row longer or shorter than the header."""
    rows = _parsed(path, dialect)
    header = next(rows)
    for row in rows:
        if row and len(row) != len(header):
            fields = dialect.separator.join(row)
            return (
                f"Expected {len(header)} fields in line {rows.line_num}, saw {len(row)}: "
                f"{fields[:60]!r}"
            )
    return None


def _as_values(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Convert text to int64, float64 or bool if every cell is one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = column.drop_null()
    if not len(texts):
        return column
    if _all_match(texts, INTEGER):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond 64 bits
            return column
    numbers = texts.filter(pc.invert(pc.match_substring_regex(texts, NO_NUMBER)))
    if len(numbers) and _all_match(numbers, NUMBER) and not _any_match(numbers, IDENTIFIER):
        values = column.cast(pa.float64())
        finite = pc.is_finite(numbers.cast(pa.float64()))
        return values if pc.all(finite).as_py() else column  # 1e400 is no float64
    for yes, no in (("True", "False"), ("true", "false")):
        if _all_match(texts, f"^({yes}|{no})$"):
            return pc.equal(column, yes)
    return column


def _all_match(texts: "pa.ChunkedArray", pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _any_match(texts: "pa.ChunkedArray", pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())
