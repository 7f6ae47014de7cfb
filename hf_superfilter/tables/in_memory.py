"""Make a Dataset of Python values, each of which stays what it is."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SuperfilterError
from .features import holds

if TYPE_CHECKING:
    from datasets import Dataset, Features

MAX_DIGITS = 76  # of a decimal256
SURROGATE = re.compile("[\ud800-\udfff]")


def rows_in_memory(rows: Any) -> "Dataset | None":
    """Make a Dataset of a list of dicts or a pandas frame.

    A key that a row lacks is null there; the index of a frame is left out.

    Returns:
        The rows, or None of anything else, and of an empty list.

    Raises:
        SuperfilterError: a frame without rows, names that are no text or stand twice, or a value
            that no column holds.
    """
    is_frame = type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns")
    if is_frame:
        return _of_frame(rows)
    if not isinstance(rows, list | tuple) or not rows:
        return None
    return _of_dicts(rows) if all(isinstance(row, Mapping) for row in rows) else None


def _of_frame(frame: Any) -> "Dataset":
    from datasets import Dataset

    if not len(frame):
        raise SuperfilterError("the frame has no rows: give one that has some")
    names = [str(name) for name in frame.columns]
    for name in names:
        if names.count(name) > 1:
            raise SuperfilterError(f"two columns of the frame are called {name!r}: rename one")
    try:
        return Dataset.from_pandas(frame, preserve_index=False)
    except (ValueError, TypeError, OverflowError):  # a column of mixed types
        objects = frame.astype(object)
        return _of_dicts(objects.where(objects.notna(), None).to_dict("records"))


def _of_dicts(rows: Sequence[Mapping[str, Any]]) -> "Dataset":
    from datasets import concatenate_datasets

    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        for name in row:
            if not isinstance(name, str):
                raise SuperfilterError(
                    f"row {number} has the key {name!r}: the names of columns are text"
                )
            names[name] = None
    columns = [_whole_column(name, [row.get(name) for row in rows]) for name in names]
    return concatenate_datasets(columns, axis=1)


def _whole_column(name: str, cells: list[Any]) -> "Dataset":
    """Make a column of which every cell can be held, or name the first that cannot."""
    for number, cell in enumerate(cells):
        reason = unholdable(cell, nested=False)
        if reason:
            raise SuperfilterError(f"row {number}, column {name!r}: {reason}; correct it")
    faults: list[tuple[int, str]] = []
    try:
        column = column_of(name, cells, faults)
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SuperfilterError(
            f"the column {name!r} cannot be read ({reason}): give it one type"
        ) from error
    for number, reason in faults:
        raise SuperfilterError(f"row {number}, column {name!r}: {reason}; correct it")
    return column


def unholdable(value: Any, *, nested: bool) -> str | None:
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
            reason = unholdable(part, nested=True)
            if reason:
                return reason
    return None


def column_of(name: str, cells: list[Any], faults: list[tuple[int, str]]) -> "Dataset":
    """Make a column of a type that keeps every value.

    Args:
        name: of the column.
        cells: n values; one that no type holds beside the others is set to None.
        faults: the row number of each such cell, and the reason, are added here.
    """
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
                faults.append((row, reason))
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
    from datasets import Json

    return holds(feature, lambda part: isinstance(part, Json))


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


def short(value: Any) -> str:
    """Show a value in an error, at most 60 characters of it."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:59] + "…"
