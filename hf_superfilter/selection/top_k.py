"""Keep the best rows by a column."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import Kept, Settings
from ..checks import check_column, check_switch, plain_numbers
from ..data.columns import best_first
from ._budget import check_budget, within_budget

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class TopK(Settings):
    """Keep the k rows of largest (or smallest) value.

    Ties go to the earlier row; a nan row is never kept. Fewer rows than the budget is a warning
    that gives both numbers.

    Args:
        by: a numeric column.
        k: an int is a count; a float is a share of ALL rows of the table, also after a threshold,
            rounded down: the top 10% of 52,002 rows are 5,200.
        tokens: instead of k, a number of response tokens: rows are taken while they fit. A row
            without a token count is not taken.
        largest: False keeps the smallest values.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, select
        >>> table = Dataset.from_dict({"ifd": [0.3, float("nan"), 0.9, 0.9]})
        >>> select(table, [TopK("ifd", k=2)]).rows.tolist()
        [2, 3]
    """

    by: str
    k: int | float | None = None
    _: KW_ONLY
    tokens: int | None = None
    largest: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "tokens", "largest")
        check_column(self.by)
        check_budget(self.k, self.tokens)
        check_switch("largest", self.largest)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, best first."""
        return within_budget(best_first(table, pool, self.by, largest=self.largest), table, self)
