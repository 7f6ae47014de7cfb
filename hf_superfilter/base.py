"""Define the contracts of scorers and selectors."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


Batch = Mapping[str, Sequence[Any]]
"""Column name -> n values, as `Dataset.map(batched=True)` hands over."""


Columns = dict[str, "Sequence[Any] | np.ndarray"]
"""New column name -> n values, in the order of the batch."""


class CountedColumns(dict[str, Any]):
    """Add counts of rows to the columns of a batch.

    A run sums them, logs each sum once at its end and keeps it in the manifest.

    Args:
        columns: new column name -> n values.
        counts: what the rows have in common, in words -> how many they are.
    """

    def __init__(self, columns: Columns, counts: Mapping[str, int]) -> None:
        super().__init__(columns)
        self.counts = {words: int(rows) for words, rows in counts.items() if rows}


# What a chat template that asks the clock is told, so that the text is the same on any day.
TEMPLATE_DATE = datetime(2024, 7, 26)

# The column in which reading and formatting say why a row is unreadable; null for all others.
UNREADABLE = "unreadable_reason"
# The status that such a row gets from every scorer.
UNREADABLE_STATUS = "unreadable"


@runtime_checkable
class Scorer(Protocol):
    """Compute new columns from a batch of rows.

    `ds.map(scorer, batched=True)` is all it needs to be. `name` is the prefix of its columns and
    its folder in a run. A plain function is a scorer too and goes by its own name. Whatever else a
    scorer may have is declared, with its default, on `Settings`, but for `prepare`
    (`PreparedScorer`).
    """

    name: str

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Compute the new columns on the device of `rank`."""
        ...


@runtime_checkable
class PreparedScorer(Scorer, Protocol):
    """Score only after a look at all rows, as a training or a sketch needs it."""

    def prepare(self, rows: "Dataset", folder: str) -> Scorer:
        """Make what the scorer needs in a local folder, and return a scorer that names it.

        `score` calls it in every process of a launch, and again after a kill: what is there is not
        made again. Other launches on the run folder wait, and then call it to read.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """Pick rows: `(table, pool) -> rows`.

    `pool` (m,) int64 holds the rows still in play; the returned (k,) int64 are a subset of it, best
    first, or `Kept(rows, facts)` where the funnel should show facts about the step. The whole table
    is an argument because a budget is a share of ALL rows.

    Two attributes are read where a selector has them: `by`, the column that it goes by, and
    `largest`, whether it puts large values of that column first. What a selector of `Settings`
    computes of each row alone it may give as `row_scorer()`: the processes of a run share it.
    """

    def __call__(self, table: "Dataset", pool: "np.ndarray") -> "np.ndarray | Kept":
        """Return the row numbers of `pool` to keep, best first."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Hold the rows that a selector keeps, and facts.

    It reads as its rows do: `len(kept)`, `kept[0]`, `np.asarray(kept)`, `kept.tolist()`.

    Attributes:
        rows: (k,) int64 row numbers, best first.
        facts: name -> value, as the funnel shows them.
        shortfall: why a budget was not filled, "" where it was; `select` warns with it.
        stands_for: row kept -> rows dropped for its sake, as duplicates are.

    Example:
        >>> import numpy as np
        >>> from datasets import Dataset
        >>> from hf_superfilter import Kept, select
        >>> def even(table, pool):
        ...     return Kept(pool[pool % 2 == 0], {"odd rows": int((pool % 2).sum())})
        >>> print(select(Dataset.from_dict({"text": list("abc")}), even))
        2 of 3 rows kept (66.7%)
          even          3 ->         2, odd rows 1
    """

    rows: "np.ndarray"
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shortfall: str = ""
    stands_for: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray":
        import numpy as np

        rows = np.asarray(self.rows, dtype=dtype)
        return rows.copy() if copy else rows

    def tolist(self) -> list[int]:
        """Return the rows as Python integers."""
        return [int(row) for row in self.rows]


class Settings:
    """Describe a scorer or selector by its dataclass fields.

    What they are is what their fields say. The pickle holds the fields and nothing that was
    computed or loaded since, so it is small, equal in every process, and a sound key for the
    `Dataset.map` cache. Into that key go also `arithmetic` and `identity()`.

    All that a scorer may have beyond `name` and `__call__` stands here with its default; a subclass
    overrides what it needs.

    Attributes:
        arithmetic: raised when the same settings give other numbers than before.
        bounds: the usual limits of `main`; values beyond are counted in the run's manifest.

    Example:
        >>> from dataclasses import dataclass
        >>> from hf_superfilter import Settings
        >>> @dataclass(frozen=True, repr=False)
        ... class Shout(Settings):
        ...     name: str = "shout"
        ...     def __call__(self, batch):
        ...         return {self.name: [float(text.isupper()) for text in batch["text"]]}
        >>> Shout()({"text": ["HELLO", "hello"]})
        {'shout': [1.0, 0.0]}
    """

    arithmetic: ClassVar[int] = 1
    bounds: ClassVar[tuple[float, float] | None] = None

    @property
    def main(self) -> str | None:
        """Column to rank by; None is the first returned."""
        return None

    @property
    def columns(self) -> Sequence[str] | None:
        """Columns that a scorer reads; None is all."""
        return None

    @property
    def is_repeatable(self) -> bool:
        """Whether scoring rows twice costs nothing but time; False where a server is asked."""
        return True

    @property
    def is_writable(self) -> bool:
        """Whether a recipe can hold it; False where a setting holds rows."""
        return True

    @property
    def more_columns(self) -> Sequence[str]:
        """Columns that it reads besides `columns`, where a setting asks for them."""
        return ()

    def columns_read(self, names: Sequence[str]) -> list[str]:
        """List all columns that the scorer reads of a table with these columns."""
        if self.columns is None:
            return list(names)
        return [*self.columns, *self.more_columns]

    def row_scorer(self) -> "RowScorer | None":
        """Return what a selector computes of each row alone, as a scorer; None is nothing.

        A run scores it in its folder, on all processes, and shows the selector a table that has the
        columns; in any other table the selector computes them itself.
        """
        return None

    def self_check(self, rows: "Dataset", rank: int | None = None) -> dict[str, Any]:
        """Return what the scorer measures of itself on rows.

        `score` calls it once in the life of a run folder, before the first chunk, and keeps the
        facts in the manifest; {} is nothing to say.
        """
        return {}

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return what the manifest records after scoring: model, device, dtype."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers besides fields and code."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return {
            field.name: value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.init and (value := getattr(self, field.name)) != field.default
        }

    def entry(self) -> dict[str, dict[str, Any]]:
        """Return `{name: arguments}`, as recipes and manifests write it.

        A class of another package is called `module:Class`.
        """
        kind = type(self)
        is_internal = kind.__module__.startswith(f"{__package__}.")
        name = kind.__name__ if is_internal else f"{kind.__module__}:{kind.__name__}"
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.settings().items()
        }
        return {name: arguments}

    def __repr__(self) -> str:
        """Return the Python that builds this object."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({arguments})"

    def __getstate__(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"fields": fields, "arithmetic": self.arithmetic, "identity": self.identity()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["fields"])  # the instance is frozen


class RowScorer(Settings):
    """Compute what a selector needs to know of each row's texts, in one column.

    A subclass has `name`, which tells all that decides the values but the texts, `columns` and
    `values`.
    """

    @property
    def name(self) -> str:
        """The column."""
        raise NotImplementedError

    @property
    def columns(self) -> Sequence[str]:
        """The columns of text that it reads."""
        raise NotImplementedError

    @property
    def main(self) -> str:
        """The only column."""
        return self.name

    def entry(self) -> dict[str, dict[str, Any]]:
        """Return the name, which is all that tells its values from others."""
        return {type(self).__name__: {"name": self.name}}

    def values(self, batch: Batch) -> "Sequence[Any] | np.ndarray":
        """Compute the n values of a batch."""
        raise NotImplementedError

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Compute the column of a batch."""
        return {self.name: self.values(batch)}


class ScorerAdapter(Settings):
    """Give any callable the members that `Settings` declares.

    A plain function, or an object of another package, keeps what it has of them. It is known by a
    digest of its code.
    """

    main: Any = None
    columns: Any = None
    more_columns: Any = ()
    is_repeatable: Any = False  # nobody knows what the callable does
    MEMBERS = ("main", "columns", "more_columns", "bounds", "prepare", "self_check", "provenance")

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer
        self.name = scorer_name(scorer)
        for member in self.MEMBERS:
            value = getattr(scorer, member, None)
            if value is not None:
                setattr(self, member, value)

    def __call__(self, batch: Batch, rank: int | None = None) -> Any:
        """Call the scorer, with the rank if it takes one."""
        if takes_rank(self.scorer):
            return self.scorer(batch, rank=rank)
        return self.scorer(batch)

    def identity(self) -> dict[str, Any]:
        """Return a digest of the scorer's code and state."""
        from datasets.fingerprint import Hasher

        return {"digest": Hasher.hash(self.scorer)}

    def entry(self) -> Any:
        """Return the name, all that can be written down."""
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __getstate__(self) -> dict[str, Any]:
        return {"fields": dict(self.__dict__)}


def as_scorer(scorer: Any) -> Any:
    """Return a scorer that has every optional member of `Settings`."""
    return scorer if isinstance(scorer, Settings) else ScorerAdapter(scorer)


def scorer_name(scorer: object) -> str:
    """Return a scorer's name, or its function's or class's."""
    name = getattr(scorer, "name", None) or getattr(scorer, "__name__", type(scorer).__name__)
    return str(name).strip("<>")


def takes_rank(function: Callable[..., Any]) -> bool:
    """Return whether a function takes the worker's number."""
    import inspect

    return "rank" in inspect.signature(function).parameters
