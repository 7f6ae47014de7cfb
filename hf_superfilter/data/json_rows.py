"""Read JSON and JSON Lines without a change of any value."""

import io
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SuperfilterError
from ..tables.in_memory import SURROGATE, column_of, short, unholdable
from .files import Fault, is_text_column, open_bytes, undecodable_line, with_unreadable

if TYPE_CHECKING:
    from datasets import Dataset

# Only an escape can bring half of a surrogate pair into text that is UTF-8.
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
LONG_DIGITS = re.compile(r"\d{19}")


class JsonRow(NamedTuple):
    """Hold a parsed row, and whether Arrow may fail to hold it."""

    place: str
    value: Any
    doubtful: bool


def read_json(path: Path, text_columns: Collection[str] = ()) -> "Dataset":
    """Read a JSON array of objects, or JSON Lines.

    Integers beyond 64 bits become decimals, and a column of mixed types is of the feature `Json`,
    in which each value keeps its own type. A cell that cannot be held (a lone surrogate; a number
    among the texts of a column that a format reads) is null. If a format reads the column, then
    `unreadable_reason` names line and reason, and the row gets the status `unreadable`; else a
    warning names them.

    Raises:
        SuperfilterError: a line that is not JSON or not UTF-8, an entry that is no object, or an
            object with two keys of one name.
    """
    columns: dict[str, list[Any]] = {}
    places: list[str] = []
    faults: list[Fault] = []
    for row in _json_rows(path):
        if not isinstance(row.value, dict):
            raise SuperfilterError(
                f"{row.place} is {str(row.value)[:40]!r}: every row has to be a JSON object"
            )
        if row.doubtful:
            faults += _removeunholdable(row, len(places))
        append_row(columns, row.value, len(places))
        places.append(row.place)
    texts = [name for name in columns if is_text_column(name, text_columns)]
    for name in texts:
        faults += _remove_numbers(name, columns[name], places)
    rows = make_rows(columns, texts, places, faults)
    return _reported(rows, sorted(faults), text_columns)


def append_row(columns: dict[str, list[Any]], row: Mapping[str, Any], count: int) -> None:
    """Append a row to columns of `count` cells; what one of them lacks is None."""
    for name in row:
        if name not in columns:
            columns[name] = [None] * count
    for name, cells in columns.items():
        cells.append(row.get(name))


def make_rows(
    columns: dict[str, list[Any]],
    texts: Collection[str] = (),
    places: Sequence[str] | None = None,
    faults: list[Fault] | None = None,
) -> "Dataset":
    """Make a data set of Python values, each of which stays what it is.

    Args:
        columns: n values each; emptied, so that memory holds the values of few columns twice.
        texts: the columns that hold text, also where no cell has any.
        places: (n,) where each row stands in its file.
        faults: what cannot be held, and is null, is added here.
    """
    from datasets import Dataset, Features

    places = places or [f"row {row}" for row in range(len(next(iter(columns.values()), ())))]
    faults = [] if faults is None else faults
    arrays, features = {}, {}
    for name in list(columns):
        cells = columns.pop(name)
        if name in texts and not any(cell is not None for cell in cells):
            features[name], arrays[name] = _text_column(cells)
            continue
        doubts: list[tuple[int, str]] = []
        column = column_of(name, cells, doubts)
        faults += [Fault(row, places[row], name, reason) for row, reason in doubts]
        features[name], arrays[name] = column.features[name], column.data.column(name)
    return Dataset.from_dict(arrays, features=Features(features))


def _reported(rows: "Dataset", faults: list[Fault], text_columns: Collection[str]) -> "Dataset":
    """Name every fault, in the column `unreadable_reason` or by a warning."""
    unread = [fault for fault in faults if not is_text_column(fault.column, text_columns)]
    if unread:
        first = unread[0]
        warnings.warn(
            f"{len(unread):,} cells cannot be held and are null: {first.place}, column "
            f"{first.column!r}, is the first: {first.reason}",
            stacklevel=4,
        )
    read = [fault for fault in faults if is_text_column(fault.column, text_columns)]
    return with_unreadable(rows, reversed(read)) if read else rows


def _json_rows(path: Path) -> Iterator[JsonRow]:
    """Parse the entries of a JSON array, or the lines of JSON Lines.

    A line ends with a newline character and nothing else: U+2028 is a character of its text.
    """
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="\n") as lines:
        first = True
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if first and line.lstrip().startswith("["):
                    yield from _json_array(line + lines.read())
                    return
                first = False
                yield JsonRow(f"line {number}", _parsed(f"line {number}", line), _doubtful(line))
        except UnicodeDecodeError as error:
            raise SuperfilterError(undecodable_line(path) or str(error)) from error


def _json_array(text: str) -> Iterator[JsonRow]:
    doubtful = _doubtful(text)
    for number, entry in enumerate(_parsed("the file", text), 1):
        yield JsonRow(f"entry {number}", entry, doubtful)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} of it" if error.lineno > 1 else error.msg
        raise SuperfilterError(f"{place} is not JSON ({where}): {text.strip()[:60]!r}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise SuperfilterError(f"{place} cannot be read ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, none of which may hide another."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {short(twice)} stands twice in one object: remove or rename one")
    return members


def _doubtful(text: str) -> bool:
    """Check for half a surrogate pair or a long integer."""
    return bool(SURROGATE_ESCAPE.search(text) or LONG_DIGITS.search(text))


def _removeunholdable(row: JsonRow, number: int) -> list[Fault]:
    """Set the cells of a row to None that no column can hold."""
    faults = []
    for name, cell in list(row.value.items()):
        if SURROGATE.search(name):
            raise SuperfilterError(f"{row.place} has a key with a lone surrogate: {short(name)}")
        reason = unholdable(cell, nested=False)
        if reason:
            row.value[name] = None
            faults.append(Fault(number, row.place, name, reason))
    return faults


def _remove_numbers(name: str, cells: list[Any], places: list[str]) -> list[Fault]:
    """Set the numbers among the texts of a column to None."""
    if not any(isinstance(cell, str) for cell in cells):
        return []
    faults = []
    for row, cell in enumerate(cells):
        if isinstance(cell, (bool, int, float)):
            reason = f"holds {type(cell).__name__} {short(cell)}, not text"
            faults.append(Fault(row, places[row], name, reason))
            cells[row] = None
    return faults


def _text_column(cells: list[Any]) -> tuple[Any, Any]:
    """Make a column of text of which no cell holds any."""
    import pyarrow as pa
    from datasets import Value

    return Value("string"), pa.array(cells, pa.string())
