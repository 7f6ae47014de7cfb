"""Keep rows at random, as a baseline."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import Kept, Settings
from ..checks import check_seed, plain_numbers
from ._budget import check_budget, within_budget

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class RandomSample(Settings):
    """Draw k rows of the pool uniformly without replacement.

    The draw depends on the seed and on the pool's rows, not on their order.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        tokens: instead of k, a number of response tokens, so that a baseline can match the size of
            another selection: rows are drawn while they fit. A row without a token count is not
            drawn.
        seed: the same seed draws the same rows.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import RandomSample, select
        >>> table = Dataset.from_dict({"text": list("abcdefghij")})
        >>> len(select(table, [RandomSample(0.3)]).rows)
        3
    """

    k: int | float | None = None
    _: KW_ONLY
    tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "tokens", "seed")
        check_budget(self.k, self.tokens)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the drawn row numbers, in drawing order."""
        order = np.random.default_rng(self.seed).permutation(np.sort(pool))
        return within_budget(order, table, self)
