"""Keep rows below or above a limit."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import Settings
from ..checks import check_column, check_switch, is_number, plain_numbers
from ..data.columns import numbers_of
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class Threshold(Settings):
    """Keep the rows with `above < value < below`.

    A nan row is never kept.

    Args:
        by: a numeric column.
        below: keep values strictly below. Superfiltering keeps `ifd` below 1.0.
        above: keep values strictly above.
        percentiles: the limits are percentiles, 0 to 100, of all defined values of the table. A
            row's percentile is the share of defined rows that rank before it (ties: the earlier row
            first), and `above <= percentile < below`, so that neighbouring bands share no row and
            miss none.

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
        if self.above is None and self.below is None:
            raise SuperfilterError(
                f"Threshold({self.by!r}) has no limit: give below=, above= or both"
            )
        self._check_limit("above", self.above)
        self._check_limit("below", self.below)
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise SuperfilterError(
                f"Threshold({self.by!r}) keeps nothing: above={self.above!r} is not under "
                f"{self.below!r}"
            )

    def _check_limit(self, name: str, limit: float | None) -> None:
        if limit is None:
            return
        if not is_number(limit):
            raise SuperfilterError(f"{name}={limit!r}: give a number, the limit for {self.by!r}")
        if self.percentiles and not 0 <= limit <= 100:
            raise SuperfilterError(f"{name}={limit!r}: give a percentile, 0 to 100")

    def __call__(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """Return the rows to keep, in the pool's order."""
        values = numbers_of(table, self.by)
        if self.percentiles:
            values = _percentiles(values)
        values = values[pool]
        keep = ~np.isnan(values)
        if self.below is not None:
            keep &= values < self.below
        if self.above is not None and self.percentiles:
            keep &= values >= self.above
        elif self.above is not None:
            keep &= values > self.above
        kept: np.ndarray = pool[keep]
        return kept


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Compute percentiles, from 0 to below 100; nan stays nan."""
    defined = np.flatnonzero(~np.isnan(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    percentiles = np.full(len(values), np.nan)
    percentiles[order] = np.arange(len(order)) * 100 / max(len(order), 1)
    return percentiles
