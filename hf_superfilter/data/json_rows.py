"""Read JSON and JSON Lines without a change of any value."""

import io
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SuperfilterError
from .files import Fault, is_text_column, open_bytes, short, undecodable_line, with_unreadable

if TYPE_CHECKING:
    from datasets import Dataset, Features

# Only an escape can bring half of a surrogate pair into text that is UTF-8.
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
SURROGATE = re.compile("[\ud800-\udfff]")
LONG_DIGITS = re.compile(r"\d{19}")
MAX_DIGITS = 76  # of a decimal256


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
            faults += _remove_unholdable(row, len(places))
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
        column = _column(name, cells, places, faults)
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


def _remove_unholdable(row: JsonRow, number: int) -> list[Fault]:
    """Set the cells of a row to None that no column can hold."""
    faults = []
    for name, cell in list(row.value.items()):
        if SURROGATE.search(name):
            raise SuperfilterError(f"{row.place} has a key with a lone surrogate: {short(name)}")
        reason = _unholdable(cell, nested=False)
        if reason:
            row.value[name] = None
            faults.append(Fault(number, row.place, name, reason))
    return faults


def _unholdable(value: Any, *, nested: bool) -> str | None:
    """Explain why Arrow cannot hold a value, None if it can."""
    if isinstance(value, str):
        surrogate = SURROGATE.search(value)
        if surrogate:
            return f"a lone surrogate, {surrogate[0]!a}, at character {surrogate.start() + 1}"
    elif isinstance(value, int):
        if nested and not -(2**63) <= value < 2**63:
            return f"an integer beyond 64 bits inside of a list or object: {short(value)}"
        if len(str(abs(value))) > MAX_DIGITS:
            return f"an integer of more than {MAX_DIGITS} digits: {short(value)}"
    elif isinstance(value, (list, dict)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for part in parts:
            reason = _unholdable(part, nested=True)
            if reason:
                return reason
    return None


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


def _column(name: str, cells: list[Any], places: Sequence[str], faults: list[Fault]) -> "Dataset":
    """Make a column of a type that keeps every value."""
    import pyarrow as pa
    from datasets import Dataset, Features, Json

    try:
        column = Dataset.from_dict({name: cells}, on_mixed_types="use_json")
    except (OverflowError, ValueError):  # integers that int64, float64 or Json does not hold
        if all(cell is None or type(cell) is int for cell in cells):
            decimals = pa.array(cells, pa.decimal256(MAX_DIGITS, 0))
            return Dataset(pa.table({name: decimals}))
        for row, cell in enumerate(cells):  # among other types, Json holds up to 64 bits
            if isinstance(cell, int) and not -(2**63) <= cell < 2**64:
                reason = f"an integer beyond 64 bits among other types: {short(cell)}"
                faults.append(Fault(row, places[row], name, reason))
                cells[row] = None
        return _json_column(name, cells, Features({name: Json()}))
    if holds_json(column.features[name]):
        return _json_column(name, cells, column.features)
    return column


def _json_column(name: str, cells: list[Any], features: "Features") -> "Dataset":
    """Make a column with `Json` features, in which text stays text.

    `Json` itself would take a text such as 4 or null for a value.
    """
    from datasets import Dataset

    encoded = [_encoded(cell, features[name]) for cell in cells]
    return Dataset.from_dict({name: encoded}, features=features)


def holds_json(feature: Any) -> bool:
    """Tell whether a feature is `Json`, or has one inside."""
    from datasets import Json, LargeList, List

    if isinstance(feature, dict):
        return any(holds_json(part) for part in feature.values())
    if isinstance(feature, (List, LargeList)):
        return holds_json(feature.feature)
    return isinstance(feature, Json)


def _encoded(value: Any, feature: Any) -> Any:
    """Write a value as JSON text wherever its feature is `Json`."""
    from datasets import Json

    if value is None:
        return None
    if isinstance(feature, Json):
        return json.dumps(value)
    if isinstance(feature, dict):
        return {key: _encoded(value.get(key), part) for key, part in feature.items()}
    if isinstance(value, list):
        return [_encoded(part, feature.feature) for part in value]
    return value
