"""The types that everything agrees on: batches, columns, scorers, selectors, and settings that pickle."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


Batch = Mapping[str, Sequence[Any]]


"""Column name -> n values, as `Dataset.map(batched=True)` hands over."""


Columns = dict[str, "Sequence[Any] | np.ndarray"]


"""New column name -> n values, in the order of the batch."""

# The column in which reading and formatting say why a row cannot be scored; null for all others.
UNREADABLE = "unreadable"


@runtime_checkable
class Scorer(Protocol):
    """Turns a batch of rows into new columns; `ds.map(scorer, batched=True)` is all it needs to be.

    `name` is the prefix of its columns and its folder in a run; `main` names the column to rank by.
    A plain function is a scorer too: it is known by its own name.

    A scorer that has to see all rows first also has `prepare(rows, folder)`, which makes what it needs in a
    local folder and returns a new scorer that names it. `score` calls it in every process of a launch at once, and
    again after a kill: what is there is not made again. Other launches on the run folder wait, and then
    call it to find all made. `trial(rows)`, if a scorer has it, is called once in the life of a run folder, before
    the first chunk; its facts go into the record. `bounds`, if a scorer has it, are the usual limits of `main`;
    values beyond are counted.
    """

    name: str

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """The new columns of a batch; `rank` is the worker's number and picks its device."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Picks rows: `(table, pool) -> rows`, both row numbers into the whole table.

    `pool` (m,) int64 holds the rows still in play; the answer (k,) int64 is a subset of it, best
    first. The whole table is there because a budget is a share of ALL rows. An optional method
    `facts(table, pool, rows) -> dict` gives the funnel something to say about the step.
    """

    def __call__(self, table: "Dataset", pool: "np.ndarray") -> "np.ndarray":
        """The row numbers of `pool` that are kept, best first."""
        ...


class Settings:
    """Base of scorers and selectors that are frozen dataclasses: what they are is what their fields say.

    The pickle holds the fields and nothing else that was computed or loaded since, so it is small,
    equal in every process, and a sound key for the `Dataset.map` cache. Into that key goes also
    `arithmetic`, to be raised when the same settings give other numbers than before, and whatever
    `identity` adds (a model's resolved revision).
    """

    arithmetic: ClassVar[int] = 1

    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the fields and the code; empty unless a subclass knows more."""
        return {}

    def settings(self) -> dict[str, Any]:
        """The fields that differ from their defaults, by name: the arguments that build this object again."""
        return {
            field.name: value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.init and (value := getattr(self, field.name)) != field.default
        }

    def entry(self) -> dict[str, dict[str, Any]]:
        """`{name: arguments}` in plain values, as recipes and records write it; a foreign class is `module:Class`."""
        kind = type(self)
        ours = kind.__module__.startswith(f"{__package__}.")
        arguments = {
            key: list(v) if isinstance(v, tuple) else v for key, v in self.settings().items()
        }
        return {kind.__name__ if ours else f"{kind.__module__}:{kind.__name__}": arguments}

    def __repr__(self) -> str:
        """The Python that builds this object."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({arguments})"

    def __getstate__(self) -> dict[str, Any]:
        """The fields, the version of the arithmetic and the identity; nothing loaded rides along."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"fields": fields, "arithmetic": self.arithmetic, "identity": self.identity()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the fields; the instance is frozen, so they go straight into its dictionary."""
        self.__dict__.update(state["fields"])
