"""Share among the processes of a run what its selectors compute of each row.

    folder/selectors/    a run folder of its own: one sub-folder per column, see `runs.runner`

The columns are those of `row_scorer()` of the selectors, and are shown to them only: the selection
holds the table without them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import Settings
from ..runs.manifest import FILE
from ..runs.runner import score
from ..runs.store import Store
from ..selection.funnel import Selection, select

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "selectors"


def row_columns(rows: "Dataset", selectors: Sequence[Any], folder: str | Path) -> "Dataset | None":
    """Compute the columns of a run's selectors, with all processes that do.

    Args:
        rows: n rows with the columns of text.
        selectors: those without a row scorer, or of columns that the rows lack, are passed over.
        folder: the run folder.

    Returns:
        The n rows of the columns. None where no selector has any, and on all processes of a launch
        but the main one.
    """
    scorers: dict[str, Any] = {}
    for selector in selectors:
        scorer: Any = selector.row_scorer() if isinstance(selector, Settings) else None
        if scorer is not None and set(scorer.columns) <= set(rows.column_names):
            scorers[scorer.name] = scorer
    if not scorers:
        return None
    read = sorted({column for scorer in scorers.values() for column in scorer.columns})
    table = score(rows.select_columns(read), list(scorers.values()), f"{folder}/{FOLDER}")
    return None if table is None else table.select_columns(list(scorers))


def select_in_run(
    table: "Dataset",
    selectors: Sequence[Any],
    folder: str | Path,
    *,
    columns: "Dataset | None" = None,
    source_columns: Sequence[str] | None = None,
) -> Selection:
    """Apply a run's selectors, which read what was computed of each row before.

    Args:
        table: the scored rows.
        columns: as `row_columns` returns them; without them those of a run that has finished them
            are read again.
    """
    from datasets import concatenate_datasets

    if columns is None and Store(folder).has(f"{FOLDER}/{FILE}"):
        columns = row_columns(table, selectors, folder)
    shown = table if columns is None else concatenate_datasets([table, columns], axis=1)
    selection = select(shown, selectors, run=folder, source_columns=source_columns)
    return replace(selection, table=table)
