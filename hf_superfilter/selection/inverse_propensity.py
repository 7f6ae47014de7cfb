"""Keep rows at random, crowded ones less often."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import check_column, check_seed, plain_numbers
from ..data.columns import numbers_of
from ._budget import check_budget, within_budget

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class InversePropensity(Settings):
    """Draw k rows with chances proportional to `1 / score`.

    By `density` this evens out how often kinds of rows occur: of 90 duplicates about as much is
    kept as of one row that stands alone. "How to Train Data-Efficient LLMs", arXiv 2402.09668,
    section 3.2; its printed algorithm draws in proportion to the score, which contradicts its text
    and theorem and keeps the duplicates.

    Drawn by Gumbel-top-k: the k largest of `-log score + Gumbel noise` (Kool et al., arXiv
    1903.06059). A row whose score is nan, infinite, 0 or below has no chance and is never drawn.
    The draw depends on the seed and on the pool's rows, not on their order.

    The funnel shows `max/min weight`, how much likelier the likeliest first draw is than the least
    likely, and `effective sample size`, `(sum w)^2 / sum w^2` of the pool's weights w: near the
    size of the pool the draw is almost uniform.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        by: a numeric column above 0, such as `density`.
        seed: the same seed draws the same rows.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import InversePropensity, select
        >>> table = Dataset.from_dict({"density": [1000.0] * 9 + [0.001, float("nan")]})
        >>> select(table, [InversePropensity(1)]).rows.tolist()
        [9]
    """

    k: int | float
    _: KW_ONLY
    by: str = "density"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "seed")
        check_budget(self.k, None)
        check_column(self.by)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the drawn rows, and how uneven chances were."""
        rows = np.sort(pool)
        scores = numbers_of(table, self.by)[rows]
        drawable = np.isfinite(scores) & (scores > 0)
        rows, scores = rows[drawable], scores[drawable]
        keys = np.random.default_rng(self.seed).gumbel(size=len(rows)) - np.log(scores)
        kept = within_budget(rows[np.argsort(-keys, kind="stable")], table, self)
        return replace(kept, facts=self._facts(scores, len(pool)))

    def _facts(self, scores: np.ndarray, pool_size: int) -> dict[str, Any]:
        """Describe the chances of the rows that have one."""
        facts: dict[str, Any] = {}
        if len(scores):
            weights = scores.min() / scores  # 1 for the likeliest
            effective = float(weights.sum() ** 2 / (weights**2).sum())
            with np.errstate(over="ignore"):
                ratio = scores.max() / scores.min()
            facts["max/min weight"] = float(f"{ratio:.4g}")
            facts["effective sample size"] = round(effective, 1)
        if len(scores) < pool_size:
            facts[f"without a {self.by} above 0"] = pool_size - len(scores)
        return facts
