"""Selectors in order: from a scored table to the rows that are kept, and why the others are not."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Settings
from ..checks import folder_or_url

if TYPE_CHECKING:
    from datasets import Dataset

    from ..base import Selector


@dataclass(frozen=True)
class Step:
    """One selector's part in the funnel.

    Attributes:
        selector: its name or `repr`.
        rows_in, rows_out: rows in play before and after it.
        by: the column it goes by, None where it names none.
        facts: what it has to say of itself.
        largest: whether it puts large values of `by` first, None where it does not rank.
        entry: the selector as a recipe writes it, None for a plain function.
    """

    selector: str
    rows_in: int
    rows_out: int
    by: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    largest: bool | None = None
    entry: dict[str, Any] | None = None

    @property
    def ranks(self) -> bool:
        """Whether its rows stand best first by a column: it names the column and the direction."""
        return self.by is not None and self.largest is not None


@dataclass(frozen=True, repr=False, eq=False)
class Selection:
    """What was kept of a table, in which order, and what dropped the rest.

    Attributes:
        table: the whole scored table, n rows.
        rows: (k,) int64 row numbers kept, best first.
        steps: the funnel, one step a selector.
        dropped_by: (n,) int64 number of the step that dropped the row, -1 for kept. Why a score was
            undefined stands in the table's `*_status` column.
        run: the run folder the scores come from, a path or the text of a URL; None where there is none.
    """

    table: "Dataset"
    rows: np.ndarray
    steps: tuple[Step, ...]
    dropped_by: np.ndarray
    run: Path | str | None = None

    @cached_property
    def subset(self) -> "Dataset":
        """The kept rows with all their columns, best first."""
        return self.table.select(self.rows)

    @property
    def by(self) -> str | None:
        """The column of the last step that goes by one, None where none does."""
        return next((step.by for step in reversed(self.steps) if step.by), None)

    @property
    def share(self) -> float:
        """Kept rows as a share of all rows."""
        return len(self.rows) / len(self.table)

    def __repr__(self) -> str:
        """The funnel as a table."""
        lines = [f"{len(self.rows):,} of {len(self.table):,} rows kept ({self.share:.1%})"]
        width = max([len(step.selector) for step in self.steps], default=0)
        for step in self.steps:
            facts = "".join(f", {name} {value}" for name, value in step.facts.items())
            lines.append(
                f"  {step.selector:<{width}}  {step.rows_in:>9,} -> {step.rows_out:>9,}{facts}"
            )
        return "\n".join(lines)


def select(
    table: "Dataset",
    selectors: "Selector | Callable | Iterable[Selector | Callable]",
    *,
    run: str | Path | None = None,
) -> Selection:
    """Apply selectors in order; each sees the whole table and the rows still in play.

    Args:
        table: any Dataset with the columns the selectors read; no scorer or run need stand behind it.
        selectors: one or more, `(table, pool) -> rows`; plain functions are welcome.
        run: the run folder of the scores, so that reports and cards can tell their history.

    Raises:
        ValueError: an empty table or several, no selector, a column that is missing or not numeric, or
            a selector that answers with rows that are not in its pool.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Threshold, TopK, select
        >>> table = Dataset.from_dict({"ifd": [0.5, 1.2, 0.8, 0.1]})
        >>> selection = select(table, [Threshold("ifd", below=1.0), TopK("ifd", k=0.5)])
        >>> selection.rows.tolist(), selection.dropped_by.tolist()
        ([2, 0], [-1, 0, -1, 1])
    """
    chosen = _checked(table, selectors)
    pool = np.arange(len(table), dtype=np.int64)
    dropped_by = np.full(len(table), -1, dtype=np.int64)
    steps = []
    for number, selector in enumerate(chosen):
        rows = _checked_rows(selector(table, pool.copy()), pool, len(table), _name_of(selector))
        dropped_by[pool] = number
        dropped_by[rows] = -1
        facts = selector.facts(table, pool, rows) if hasattr(selector, "facts") else {}
        by, largest = getattr(selector, "by", None), getattr(selector, "largest", None)
        entry = selector.entry() if isinstance(selector, Settings) else None
        steps.append(Step(_name_of(selector), len(pool), len(rows), by, facts, largest, entry))
        pool = rows
    return Selection(
        table, pool, tuple(steps), dropped_by, folder_or_url(run) if run is not None else None
    )


def _checked(table: "Dataset", selectors: Any) -> list[Callable]:
    """The selectors as a list, for a table that can be selected from."""
    if isinstance(table, Mapping) or not hasattr(table, "__len__"):
        raise ValueError(
            f"select takes one Dataset, and got {type(table).__name__}: pick a split, dataset['train']"
        )
    if len(table) == 0:
        raise ValueError("the table has no rows: there is nothing to select from")
    chosen = (
        list(selectors)
        if isinstance(selectors, Iterable) and not callable(selectors)
        else [selectors]
    )
    for selector in chosen:
        if not callable(selector):
            raise ValueError(
                f"{selector!r} is not a selector: give TopK('ifd', k=0.10) or a function (table, pool)"
            )
    if not chosen:
        raise ValueError("select needs at least one selector, such as TopK('ifd', k=0.10)")
    return chosen


def _name_of(selector: object) -> str:
    return getattr(selector, "__name__", None) or repr(selector)


def _checked_rows(answer: Any, pool: np.ndarray, total: int, name: str) -> np.ndarray:
    """A selector's answer as row numbers; what is not a subset of the pool is refused."""
    rows = np.asarray(answer)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} answered with {rows.dtype} values of shape {rows.shape}, not with row numbers: "
            "take them from the pool, pool[mask]"
        )
    rows = rows.astype(np.int64)
    outside = rows[(rows < 0) | (rows >= total)]
    in_play = np.zeros(total, dtype=bool)
    in_play[pool] = True
    foreign = outside if len(outside) else rows[~in_play[rows]]
    if len(foreign):
        raise ValueError(
            f"{name} answered with row {foreign.min()}, which is not among the rows still in play"
        )
    in_play[rows] = False
    if np.count_nonzero(in_play) != len(pool) - len(rows):
        values, times = np.unique(rows, return_counts=True)
        raise ValueError(f"{name} answered with row {values[times > 1][0]} more than once")
    return rows
