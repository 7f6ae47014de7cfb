"""Keep the rows whose value lies below or above a limit."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import Settings
from ..checks import check_column, check_switch, is_number, plain_numbers
from ..data.columns import numbers_of

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class Threshold(Settings):
    """The rows of the pool with `above < value < below`, in the order of the pool; nan is never kept.

    Args:
        by: a numeric column.
        below: keep values strictly below. Superfiltering keeps `ifd` below 1.0.
        above: keep values strictly above.
        percentiles: the limits are percentiles, 0 to 100, of all defined values of the table. A row's
            percentile is the share of defined rows that rank before it (ties: the earlier row first),
            and `above <= percentile < below`, so that neighbouring bands share no row and miss none.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Threshold, select
        >>> table = Dataset.from_dict({"ppl": [40.0, 10.0, 20.0, 30.0]})
        >>> select(table, [Threshold("ppl", above=25, below=75, percentiles=True)]).rows.tolist()
        [2, 3]
    """

    by: str
    _: KW_ONLY
    below: float | None = None
    above: float | None = None
    percentiles: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "below", "above", "percentiles")
        check_column(self.by)
        check_switch("percentiles", self.percentiles)
        limits = {
            name: value for name in ("above", "below") if (value := getattr(self, name)) is not None
        }
        if not limits:
            raise ValueError(f"Threshold({self.by!r}) has no limit: give below=, above= or both")
        for name, value in limits.items():
            if not is_number(value):
                raise ValueError(f"{name}={value!r}: give a number, the limit for {self.by!r}")
            if self.percentiles and not 0 <= value <= 100:
                raise ValueError(f"{name}={value!r}: give a percentile, 0 to 100")
        if len(limits) == 2 and limits["above"] >= limits["below"]:
            raise ValueError(
                f"Threshold({self.by!r}) keeps nothing: above={self.above!r} is not under {self.below!r}"
            )

    def __call__(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """The kept row numbers, in the order of the pool."""
        values = numbers_of(table, self.by)
        if self.percentiles:
            values = _percentiles(values)
        mine = values[pool]
        keep = ~np.isnan(mine)  # and a comparison with nan is False
        if self.below is not None:
            keep &= mine < self.below
        if self.above is not None:
            keep &= (mine >= self.above) if self.percentiles else (mine > self.above)
        return pool[keep]


def _percentiles(values: np.ndarray) -> np.ndarray:
    """(n,) percentile of each value among the defined ones, 0 up to but not including 100; nan stays nan."""
    defined = np.flatnonzero(~np.isnan(values))
    ranks = np.full(len(values), np.nan)
    ranks[defined[np.argsort(values[defined], kind="stable")]] = (
        np.arange(len(defined)) * 100 / max(len(defined), 1)
    )
    return ranks
