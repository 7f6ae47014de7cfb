"""Drop semantic duplicates: rows whose embedding is close to that of another row of their cluster."""

from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..base import Settings
from ..checks import check_seed, check_vector_column, is_number, plain_numbers
from ..data.columns import directions_of
from ._budget import check_budget, within_budget
from ._kmeans import check_clusters, cluster_of, likeness

if TYPE_CHECKING:
    from datasets import Dataset

CELLS = 2**24  # cosines held at once
ALONE = -2.0  # the likeness of a row that has nothing to be compared with, below every cosine


@dataclass(frozen=True, repr=False)
class SemDedup(Settings):
    """Rows without semantic duplicates, the most different first (SemDeDup, arXiv 2303.09540).

    k-means on the embeddings, divided by their lengths; in each cluster rows stand in order of their
    cosine with the centroid, lowest first, and each is compared with all before it: its likeness is the
    largest of those cosines. So of a group of duplicates the one least like the centroid stays.
    `threshold` keeps the rows of likeness up to it, the paper's 1 - epsilon; `k` keeps the k of lowest
    likeness, ties to the earlier row. Duplicates in different clusters are not seen.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        threshold: instead of k, a cosine below 1: a row more like another than that is dropped.
        clusters: of k-means on the pool; by default the square root of its rows, at most 10,000, which is what
            arXiv 2402.09668 takes for C4.
        column: the embeddings, as `Embed` adds them.
        seed: of k-means.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import SemDedup, select
        >>> table = Dataset.from_dict({"embedding": [[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]})
        >>> sorted(select(table, [SemDedup(threshold=0.95, clusters=1)]).rows.tolist())
        [0, 2]
    """

    k: int | float | None = None
    _: KW_ONLY
    threshold: float | None = None
    clusters: int | None = None
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "threshold", "clusters", "seed")
        if (self.k is None) == (self.threshold is None):
            raise ValueError(
                f"k={self.k!r}, threshold={self.threshold!r}: give one of the two, k rows (or a share) or a cosine"
            )
        if self.k is not None:
            check_budget(self.k, None)
        elif not is_number(self.threshold) or not -1 <= self.threshold < 1:  # type: ignore[operator]
            raise ValueError(
                f"threshold={self.threshold!r}: give a cosine, from -1 up to but not including 1"
            )
        check_clusters(self.clusters)
        check_vector_column(self.column)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """The kept row numbers, the most different first."""
        rows = np.sort(pool)
        alike = self._likeness_before(table, rows)
        order = np.argsort(alike, kind="stable")
        if self.threshold is not None:
            return rows[order[: np.count_nonzero(alike <= self.threshold)]]
        return within_budget(rows[order], table, self)

    def _likeness_before(self, table: "Dataset", rows: np.ndarray) -> np.ndarray:
        """(m,) float32 largest cosine of each row with a row of its cluster that comes before it."""
        vectors = directions_of(table, rows, self.column)
        labels, centroids = cluster_of(vectors, self.clusters, self.seed)
        central = likeness(vectors, labels, centroids)
        order = np.lexsort((central, labels))  # stable: of equal ones the earlier row first
        answer = np.full(len(rows), ALONE, dtype=np.float32)
        starts = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
        for first, end in pairwise(starts):
            mine = order[first:end]
            answer[mine] = _largest_before(vectors[mine])
        return answer


def _largest_before(vectors: np.ndarray) -> np.ndarray:
    """(m,) largest cosine of each unit vector with those before it, ALONE for the first."""
    answer = np.full(len(vectors), ALONE, dtype=np.float32)
    step = max(CELLS // max(len(vectors), 1), 1)
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step] @ vectors[: start + step].T
        size, width = cosines.shape
        cosines[np.arange(width) >= np.arange(start, start + size)[:, None]] = ALONE
        answer[start : start + step] = cosines.max(axis=1)
    return answer
