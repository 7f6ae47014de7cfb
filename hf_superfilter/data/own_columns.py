"""Tell the source's own columns from those that formatting has added."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import UNREADABLE
from ..errors import SuperfilterError
from ..tables.media import read_batch
from .files import TEXT_COLUMNS
from .formats import OUTPUT, SOURCE_PREFIX, detect_format

if TYPE_CHECKING:
    from datasets import Dataset

ADDED = (*OUTPUT, "response_rejected")
ROWS_COMPARED = 100


def restore_source(table: "Dataset", source_columns: Sequence[str] | None = None) -> "Dataset":
    """Remove the columns that `format_pairs` and `load_rows` added, and rename none.

    What is left are the source's own columns, those that it renamed (`source_prompt`) under their
    own names again, and all scores.

    Args:
        table: n rows with any columns.
        source_columns: the columns of the source where a run has recorded them; otherwise `prompt`
            and `response` count as added where the other columns are those of a format.
    """
    added = added_columns(table, source_columns)
    table = table.select_columns([name for name in table.column_names if name not in added])
    for name in added:
        if SOURCE_PREFIX + name in table.column_names:
            table = table.rename_column(SOURCE_PREFIX + name, name)
    return table


def added_columns(table: "Dataset", source_columns: Sequence[str] | None = None) -> list[str]:
    """Name the columns of a table that were added for scoring."""
    names = table.column_names
    present = [name for name in ADDED if name in names]
    renamed = [name for name in present if SOURCE_PREFIX + name in names]
    reasons = [UNREADABLE] if UNREADABLE in names else []
    if source_columns is not None:
        return [n for n in present if n in renamed or n not in source_columns] + reasons
    if not set(OUTPUT) <= set(names):
        return renamed + reasons
    others = [name for name in names if name not in ADDED and name != UNREADABLE]
    own = _pair_of_source(others) | _before_others(names, others)
    if own == set(OUTPUT) and ("response_rejected" in present or _is_copied(table, others)):
        own = set()
    return [name for name in present if name in renamed or name not in own] + reasons


def _before_others(names: list[str], others: list[str]) -> set[str]:
    """Name those that stand before a column of the source: what is added stands behind them all."""
    last = max((names.index(name) for name in others if name in TEXT_COLUMNS), default=-1)
    return {name for name in ADDED if name in names and names.index(name) < last}


def _pair_of_source(others: list[str]) -> set[str]:
    """Guess which of prompt and response the source has, by its other columns."""
    own: set[str]
    for own in (set(), {"response"}, {"prompt"}):
        try:
            if detect_format([*others, *own]) != "text":
                return own
        except SuperfilterError:
            continue
    return set(OUTPUT)


def _is_copied(table: "Dataset", others: Collection[str]) -> bool:
    """Check whether other columns hold every response, and something of every prompt.

    So it is where `format_pairs(..., columns=)` named columns that no format knows.
    """
    if not others:
        return False
    head = read_batch(table, 0, min(ROWS_COMPARED, len(table)))
    compared = 0
    for number, (prompt, response) in enumerate(zip(*(head[name] for name in OUTPUT), strict=True)):
        texts = _texts([head[name][number] for name in others])
        for answer in filter(None, _texts(response)):
            if answer not in texts:
                return False
            texts.remove(answer)
            compared += 1
        for text in filter(None, _texts(prompt)):
            if not any(part and part in text for part in texts):
                return False
    return compared > 0


def _texts(value: Any) -> list[str]:
    """List the texts in a value, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return []
