"""Apply selectors in order, and record what drops each row."""

import html
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import folder_or_url
from ..data.columns import holds_numbers, numbers_of
from ..data.own_columns import restore_source
from ..data.texts import text_lengths
from ..errors import SuperfilterError, WrongTypeError
from ._ifd import IFD_LIMIT, is_ifd

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from huggingface_hub import CommitInfo

    from ..base import Selector

logger = logging.getLogger(__name__)
MAX_STEPS = np.iinfo(np.int16).max  # `dropped_by` numbers the steps


@dataclass(frozen=True)
class Step:
    """Describe one selector's part in the funnel.

    Attributes:
        selector: its name or `repr`.
        rows_in, rows_out: rows in play before and after it.
        by: the column that it goes by, None where it names none.
        facts: what it has to tell about the choice.
        largest: whether it puts large values of `by` first, None where it does not rank.
        entry: the selector as a recipe writes it, None for a plain function or one that holds rows.
        stands_for: row kept -> rows dropped for its sake, as duplicates are.
    """

    selector: str
    rows_in: int
    rows_out: int
    by: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    largest: bool | None = None
    entry: dict[str, Any] | None = None
    stands_for: Mapping[int, Sequence[int]] = field(default_factory=dict, repr=False)

    @property
    def ranks(self) -> bool:
        """Whether it names both a column and a direction."""
        return self.by is not None and self.largest is not None


@dataclass(frozen=True, repr=False, eq=False)
class Selection:
    """Hold the kept rows, and what dropped the others.

    It reads as its kept rows, best first: `len(selection)`, `selection[0]` a row,
    `selection["text"]` a column, `for row in selection`, `selection.to_pandas()`.
    `print(selection)` shows the funnel. What is computed from the table is computed once, when it
    is first asked for.

    Attributes:
        table: the whole scored table, n rows.
        rows: (k,) int64 row numbers kept, best first.
        steps: the funnel, one step per selector.
        dropped_by: (n,) int16 number of the step that dropped the row, -1 for kept. Why a score is
            undefined stands in the table's `*_status` column.
        source_columns: the source's own columns, None where they are not recorded.
        run: the run folder that the scores come from, a path or the text of a URL; None without
            one.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, select
        >>> table = Dataset.from_dict({"text": ["a", "b", "c"], "ifd": [0.5, 0.9, 0.8]})
        >>> selection = select(table, TopK("ifd", 2))
        >>> selection
        Selection(2 of 3 rows, by 'ifd', cut at 0.8)
        >>> len(selection), selection[0]
        (2, {'text': 'b', 'ifd': 0.9})
    """

    table: "Dataset"
    rows: np.ndarray
    steps: tuple[Step, ...]
    dropped_by: np.ndarray
    run: Path | str | None = None
    source_columns: Sequence[str] | None = None

    @cached_property
    def subset(self) -> "Dataset":
        """Kept rows, best first: the source's own columns and all scores.

        Not the columns that `format_pairs` added, over which trainers would stumble; `table` has
        them.
        """
        return restore_source(self.table, self.source_columns).select(self.rows)

    @property
    def by(self) -> str | None:
        """Column of the last step that goes by one."""
        return next((step.by for step in reversed(self.steps) if step.by), None)

    @property
    def share(self) -> float:
        """Kept rows as a share of all rows."""
        return len(self.rows) / len(self.table)

    @cached_property
    def kept(self) -> np.ndarray:
        """Mark (n,) bool the rows that are kept."""
        mask: np.ndarray = self.dropped_by == -1
        return mask

    @cached_property
    def ranking(self) -> Step | None:
        """Find the last step that ranks by a numeric column.

        Only a step that ranks says which values are the better ones.
        """
        for step in reversed(self.steps):
            if step.ranks and self._is_numeric(step.by):
                return step
        return None

    @cached_property
    def ranked_by(self) -> str | None:
        """Find the column worth showing, or None.

        It is that of the last step that ranks, else of the last that goes by a numeric column. A
        selector of another package may use `by` for something else: only columns of the table
        count.
        """
        if self.ranking is not None:
            return self.ranking.by
        for step in reversed(self.steps):
            if self._is_numeric(step.by):
                return step.by
        return None

    @cached_property
    def scores(self) -> np.ndarray:
        """Read (n,) float64 values of `ranked_by`; nan where undefined."""
        if self.ranked_by is None:
            return np.full(len(self.table), np.nan)
        return numbers_of(self.table, self.ranked_by)

    @cached_property
    def cut(self) -> float | None:
        """Find the ranked value of the last row kept.

        None where no line divides kept from dropped rows: the last step has to rank, keep a row and
        drop no better one. The best of each cluster, say, lie on no side of a line.
        """
        step = self.ranking
        if step is None or step is not self.steps[-1] or not len(self.rows):
            return None
        cut = float(self.scores[self.rows[-1]])
        dropped = self.scores[self.dropped_by == len(self.steps) - 1]
        better = dropped > cut if step.largest else dropped < cut
        return None if np.isnan(cut) or better.any() else cut

    @cached_property
    def stands_for(self) -> dict[int, list[int]]:
        """List for kept rows those dropped for their sake, as duplicates are.

        A row that stands for others in an earlier step and falls to a duplicate later hands them
        on; one that is dropped for another reason takes them with it.
        """
        groups: dict[int, list[int]] = {}
        for step in self.steps:
            for row, others in step.stands_for.items():
                handed_on = [further for other in others for further in groups.pop(other, [])]
                groups[row] = [*groups.get(row, []), *others, *handed_on]
        return {row: others for row, others in groups.items() if self.kept[row]}

    @cached_property
    def response_lengths(self) -> np.ndarray | None:
        """Count (n,) int64 characters of each response; None without responses."""
        return text_lengths(self.table, "response")

    def to_pandas(self) -> "pd.DataFrame":
        """Return the kept rows as a pandas DataFrame, best first."""
        return self.subset.to_pandas()

    def push_to_hub(
        self,
        repo_id: str,
        config_name: str = "default",
        *,
        split: str | None = None,
        private: bool = True,
        set_default: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        pairs: bool = False,
        vectors: bool = False,
        max_shard_size: int | str = "500MB",
    ) -> "CommitInfo":
        """Publish the kept rows as a subset on the Hub, as `publish` does.

        Arguments, result and errors are those of `publish`.
        """
        from .. import publish  # by its public name: a selection knows nothing of the Hub

        return publish(
            self,
            repo_id,
            config_name,
            split=split,
            private=private,
            set_default=set_default,
            create_pr=create_pr,
            revision=revision,
            commit_message=commit_message,
            token=token,
            pairs=pairs,
            vectors=vectors,
            max_shard_size=max_shard_size,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return self.subset[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.subset)

    def __repr__(self) -> str:
        parts = [f"{len(self.rows):,} of {len(self.table):,} rows"]
        if self.ranked_by is not None:
            parts.append(f"by {self.ranked_by!r}")
        if self.cut is not None:
            parts.append(f"cut at {self.cut:.4g}")
        return f"Selection({', '.join(parts)})"

    def __str__(self) -> str:
        """Return the funnel as a table of text."""
        lines = [self._headline()]
        width = max([len(step.selector) for step in self.steps], default=0)
        for step in self.steps:
            facts = "".join(f", {name} {value}" for name, value in step.facts.items())
            counts = f"{step.rows_in:>9,} -> {step.rows_out:>9,}"
            lines.append(f"  {step.selector:<{width}}  {counts}{facts}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the funnel as an HTML table, which notebooks show."""
        lines = [f"<p>{self._headline()}</p>", "<table>"]
        lines.append("<tr><th>step</th><th>rows in</th><th>rows out</th><th>facts</th></tr>")
        for step in self.steps:
            facts = ", ".join(f"{name} {value}" for name, value in step.facts.items())
            cells = [step.selector, f"{step.rows_in:,}", f"{step.rows_out:,}", facts]
            lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
        return "\n".join([*lines, "</table>"])

    def _headline(self) -> str:
        return f"{len(self.rows):,} of {len(self.table):,} rows kept ({self.share:.1%})"

    def _is_numeric(self, column: str | None) -> bool:
        return column is not None and holds_numbers(self.table, str(column))


def select(
    table: "Dataset",
    selectors: "Selector | Callable[..., Any] | Iterable[Selector | Callable[..., Any]]",
    *,
    run: str | Path | None = None,
    source_columns: Sequence[str] | None = None,
) -> Selection:
    """Apply selectors in order to the rows in play.

    Args:
        table: any Dataset with the columns that the selectors read; no scorer or run need stand
            behind it.
        selectors: one or more, `(table, pool) -> rows`; plain functions are welcome.
        run: the run folder of the scores, so that reports and cards can tell their history.
        source_columns: the source's own columns. Without them `prompt` and `response` count as
            added by `format_pairs` where the other columns are those of a format.

    Returns:
        The selection. A budget that the rows do not fill is a warning; kept rows of an IFD of 1 or
        more are logged as one.

    Raises:
        SuperfilterError: an empty table or several, no selector, a column that is missing or not
            numeric, or a selector that returns rows that are not in its pool.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Threshold, TopK, select
        >>> table = Dataset.from_dict({"ifd": [0.5, 1.2, 0.8, 0.1]})
        >>> selection = select(table, [Threshold("ifd", below=1.0), TopK("ifd", k=0.5)])
        >>> selection.rows.tolist(), selection.dropped_by.tolist()
        ([2, 0], [-1, 0, -1, 1])
    """
    _check_table(table)
    pool = np.arange(len(table), dtype=np.int64)
    dropped_by = np.full(len(table), -1, dtype=np.int16)
    steps = []
    for number, selector in enumerate(_listed(selectors)):
        kept = _kept_by(selector, table, pool)
        if kept.shortfall:
            warnings.warn(f"{_name_of(selector)} {kept.shortfall}", stacklevel=2)
        dropped_by[pool] = number
        dropped_by[kept.rows] = -1
        steps.append(_step(selector, len(pool), kept))
        pool = kept.rows
    place = None if run is None else folder_or_url(run)
    selection = Selection(table, pool, tuple(steps), dropped_by, place, source_columns)
    _log_high_ifd(selection)
    _log_nothing_kept(selection)
    return selection


def _log_high_ifd(selection: Selection) -> None:
    """Log how many kept rows have an IFD of 1 or more, if it is selected by."""
    by = selection.ranked_by
    if by is None or not is_ifd(selection.table, by):
        return
    high = int(np.count_nonzero(selection.scores[selection.rows] >= IFD_LIMIT))
    if high:
        logger.warning(
            "%s of %s kept rows have %s of 1 or more, where the prompt does not help: "
            "select with Threshold(%r, below=1.0) first",
            f"{high:,}", f"{len(selection):,}", by, by,
        )  # fmt: skip


def _log_nothing_kept(selection: Selection) -> None:
    """Log the step that dropped the last rows, such as a share of less than one row."""
    for step in selection.steps:
        if not step.rows_out:
            logger.warning(
                "nothing is kept: %s drops all of the %s rows that reach it",
                step.selector, f"{step.rows_in:,}",
            )  # fmt: skip
            return


def _check_table(table: Any) -> None:
    """Refuse what cannot be selected from."""
    from datasets import Dataset

    if not isinstance(table, Dataset):
        hint = "make one with Dataset.from_pandas or Dataset.from_list"
        if isinstance(table, Mapping):
            hint = "pick a split, dataset['train']"
        raise WrongTypeError(f"select takes one Dataset, and got {type(table).__name__}: {hint}")
    if len(table) == 0:
        raise SuperfilterError("the table has no rows: there is nothing to select from")


def _listed(selectors: Any) -> list[Callable[..., Any]]:
    """Return the selectors as a list, all of them callable."""
    several = isinstance(selectors, Iterable) and not isinstance(selectors, str)
    listed = list(selectors) if several and not callable(selectors) else [selectors]
    if not listed:
        raise SuperfilterError("select needs at least one selector, such as TopK('ifd', k=0.10)")
    if len(listed) > MAX_STEPS:
        raise SuperfilterError(f"{len(listed):,} selectors: give at most {MAX_STEPS:,}")
    for selector in listed:
        if isinstance(selector, type):
            raise WrongTypeError(
                f"{selector.__name__} is a class, not a selector: give an instance, such as "
                "TopK('ifd', k=0.10)"
            )
        if not callable(selector):
            raise WrongTypeError(
                f"{selector!r} is not a selector: give TopK('ifd', k=0.10) or a function "
                "(table, pool)"
            )
    return listed


def _kept_by(selector: Callable[..., Any], table: "Dataset", pool: np.ndarray) -> Kept:
    """Call a selector and check the rows it returns."""
    returned = selector(table, pool.copy())
    if not isinstance(returned, Kept):
        returned = Kept(returned)
    rows = _checked_rows(returned.rows, pool, len(table), _name_of(selector))
    facts = dict(returned.facts)
    describe = getattr(selector, "facts", None)  # a selector may also tell facts afterwards
    if callable(describe):
        facts |= describe(table, pool, rows)
    return Kept(rows, facts, returned.shortfall, returned.stands_for)


def _step(selector: Any, rows_in: int, kept: Kept) -> Step:
    """Describe what a selector did."""
    is_writable = isinstance(selector, Settings) and selector.is_writable
    return Step(
        selector=_name_of(selector),
        rows_in=rows_in,
        rows_out=len(kept),
        by=getattr(selector, "by", None),
        facts=dict(kept.facts),
        largest=getattr(selector, "largest", None),
        entry=selector.entry() if is_writable else None,
        stands_for=kept.stands_for,
    )


def _name_of(selector: object) -> str:
    return getattr(selector, "__name__", None) or repr(selector)


def _checked_rows(returned: Any, pool: np.ndarray, total: int, name: str) -> np.ndarray:
    """Return rows as int64; refuse all but the pool's."""
    rows = np.asarray(returned)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise SuperfilterError(
            f"{name} answered with {rows.dtype} values of shape {rows.shape}, not with row "
            "numbers: take them from the pool, pool[mask]"
        )
    rows = rows.astype(np.int64)
    foreign = rows[(rows < 0) | (rows >= total)]
    in_play = np.zeros(total, dtype=bool)
    in_play[pool] = True
    if not len(foreign):
        foreign = rows[~in_play[rows]]
    if len(foreign):
        raise SuperfilterError(
            f"{name} answered with row {foreign.min()}, which is not among the rows still in play"
        )
    in_play[rows] = False
    if np.count_nonzero(in_play) != len(pool) - len(rows):
        values, times = np.unique(rows, return_counts=True)
        raise SuperfilterError(f"{name} answered with row {values[times > 1][0]} more than once")
    return rows
