"""Pass over single rows that cannot be read, and stop where there are many."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import UNREADABLE, UNREADABLE_STATUS
from ..checks import is_number
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset

MAX_UNREADABLE = 0.01  # share of the rows that may be unreadable
NAMED = 3  # rows that an error names
RECORDED = 20  # rows that the manifest names; the log names all


def check_share(max_unreadable: float) -> None:
    """Refuse what is no share of the rows."""
    if not is_number(max_unreadable) or not 0 <= max_unreadable <= 1:
        raise SuperfilterError(
            f"max_unreadable={max_unreadable!r}: give a share of the rows, from 0 to 1"
        )


def check_reasons(table: "Dataset", max_unreadable: float) -> None:
    """Stop before anything is scored if too many rows could not be read or formatted."""
    if UNREADABLE not in table.column_names:
        return
    entries = [
        {"row": row, "reason": reason}
        for row, reason in enumerate(table[UNREADABLE][:])
        if reason is not None
    ]
    check_count(entries, len(table), max_unreadable)


def check_count(entries: Sequence[Mapping[str, Any]], rows: int, max_unreadable: float) -> None:
    """Raise an error that names the first rows if more than a share of them is unreadable."""
    if len(entries) <= max_unreadable * rows:
        return
    ordered = sorted(entries, key=lambda entry: entry["row"])
    examples = "; ".join(f"row {entry['row']}: {entry['reason']}" for entry in ordered[:NAMED])
    raise SuperfilterError(
        f"{len(entries):,} of {rows:,} rows are unreadable, more than "
        f"max_unreadable={max_unreadable:g} of them: {examples}; correct or filter them, or allow "
        "more with max_unreadable=1.0 (in score, a recipe, or as --max-unreadable 1.0)"
    )


def unreadable_entries(
    batch: Mapping[str, Sequence[Any]],
    statuses: Sequence[str],
    columns: Sequence[str],
    first: int,
) -> list[dict[str, Any]]:
    """List the unreadable rows of a batch with their reasons.

    Args:
        batch: n rows as the scorer saw them.
        statuses: (n,) what it says of each.
        columns: those that it read.
        first: the row number of the batch's first row.
    """
    entries = []
    for place, status in enumerate(statuses):
        if status != UNREADABLE_STATUS:
            continue
        reason = batch[UNREADABLE][place] if UNREADABLE in batch else None
        if reason is None:  # rows that were not read by load_rows and format_pairs
            cells = [(name, batch[name][place]) for name in columns if name in batch]
            reason = ", ".join(
                f"column {name!r} holds {type(cell).__name__} {cell!r:.60}" for name, cell in cells
            )
        entries.append({"row": first + place, "reason": reason})
    return entries
