"""Drop semantic duplicates within clusters."""

from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..base import Kept, Settings
from ..checks import check_seed, check_vector_column, is_number, plain_numbers
from ..data.columns import directions_of
from ..errors import SuperfilterError
from ._budget import check_budget, within_budget
from ._kmeans import centroid_cosines, check_clusters, cluster_of

if TYPE_CHECKING:
    from datasets import Dataset

CELLS = 2**24  # cosines held at once
UNCOMPARED = -2.0  # for a row that no other comes before; below every cosine


@dataclass(frozen=True, repr=False)
class SemDedup(Settings):
    """Keep rows without semantic duplicates, the most different first.

    SemDeDup, arXiv 2303.09540. k-means runs on the embeddings, divided by their lengths; in each
    cluster rows stand in order of their cosine with the centroid, lowest first, and each is
    compared with all before it: its likeness is the largest of those cosines. So of a group of
    duplicates the one least like the centroid stays. `threshold` keeps the rows of likeness up to
    it, the paper's 1 - epsilon; `k` keeps the k of lowest likeness, ties to the earlier row.
    Duplicates in different clusters are not seen. Rows whose texts `Embed` cut at its `max_length`
    are compared by their beginnings; how many of those were dropped is a fact of the step.

    Memory holds the vectors once, and 64 MiB of cosines of one cluster. Above 100,000 rows k-means
    goes by mini-batches. Time grows with the square of the largest cluster.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        threshold: instead of k, a cosine below 1: a row more like another than that is dropped.
        clusters: of k-means on the pool; by default the square root of its rows, at most 10,000,
            which is what arXiv 2402.09668 takes for C4.
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
            raise SuperfilterError(
                f"k={self.k!r}, threshold={self.threshold!r}: give one of the two, k rows (or a "
                "share) or a cosine"
            )
        if self.k is not None:
            check_budget(self.k, None)
        elif not is_number(self.threshold) or not -1 <= self.threshold < 1:  # type: ignore[operator]
            raise SuperfilterError(
                f"threshold={self.threshold!r}: give a cosine, from -1 up to but not including 1"
            )
        check_clusters(self.clusters)
        check_vector_column(self.column)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, the most different first."""
        rows = np.sort(pool)
        likeness = self._likeness(table, rows)
        order = np.argsort(likeness, kind="stable")
        if self.threshold is not None:
            kept = Kept(rows[order[: np.count_nonzero(likeness <= self.threshold)]])
        else:
            kept = within_budget(rows[order], table, self)
        return replace(kept, facts={**kept.facts, **self._cut_texts(table, rows, kept.rows)})

    def _cut_texts(self, table: "Dataset", rows: np.ndarray, kept: np.ndarray) -> dict[str, int]:
        """Count dropped rows of which only the beginning was embedded: their ends may differ."""
        statuses = f"{self.column}_status"
        if statuses not in table.column_names:
            return {}
        dropped = np.setdiff1d(rows, kept)
        cut = table.select_columns([statuses]).with_format(None)[dropped][statuses]
        count = cut.count("truncated")
        return {"dropped though their texts were cut": count} if count else {}

    def _likeness(self, table: "Dataset", rows: np.ndarray) -> np.ndarray:
        """Compute each row's largest cosine within its cluster."""
        vectors = directions_of(table, rows, self.column)
        labels, centroids = cluster_of(vectors, self.clusters, self.seed)
        cosines = centroid_cosines(vectors, labels, centroids)
        order = np.lexsort((cosines, labels))  # stable: of equal ones the earlier row first
        likeness = np.full(len(rows), UNCOMPARED, dtype=np.float32)
        starts = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
        for first, end in pairwise(starts):
            members = order[first:end]
            likeness[members] = _largest_cosines(vectors[members])
        return likeness


def _largest_cosines(vectors: np.ndarray) -> np.ndarray:
    """Compute each unit vector's largest cosine with earlier ones."""
    largest = np.full(len(vectors), UNCOMPARED, dtype=np.float32)
    step = max(CELLS // max(len(vectors), 1), 1)
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step] @ vectors[: start + step].T
        size, width = cosines.shape
        # Row i of the block is compared with columns 0 to start + i - 1 only.
        cosines[np.arange(width) >= np.arange(start, start + size)[:, None]] = UNCOMPARED
        largest[start : start + step] = cosines.max(axis=1)
    return largest
