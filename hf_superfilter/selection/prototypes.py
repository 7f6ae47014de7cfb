"""Drop prototypes, the rows closest to their cluster's centroid."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import Kept, Settings
from ..checks import check_seed, check_vector_column, plain_numbers
from ..data.columns import directions_of
from ._budget import check_budget, within_budget
from ._kmeans import centroid_cosines, check_clusters, cluster_of

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class Prototypes(Settings):
    """Keep the k rows least like their cluster's centroid.

    Rows close to a centroid are prototypes, which say little that their neighbours do not. k-means
    runs on the embeddings, divided by their lengths; likeness is the cosine with the centroid, the
    lowest first. Sorscher et al., "Beyond neural scaling laws", arXiv 2206.14486, section 5.
    Outliers come first: where the data are noisy, drop what is broken before.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        clusters: of k-means on the pool; by default the square root of its rows, at most 10,000,
            which is what arXiv 2402.09668 takes for C4.
        column: the embeddings, as `Embed` adds them.
        seed: of k-means.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Prototypes, select
        >>> vectors = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
        >>> table = Dataset.from_dict({"embedding": vectors})
        >>> sorted(select(table, [Prototypes(2, clusters=1)]).rows.tolist())
        [0, 3]
    """

    k: int | float
    _: KW_ONLY
    clusters: int | None = None
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "clusters", "seed")
        check_budget(self.k, None)
        check_clusters(self.clusters)
        check_vector_column(self.column)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, least typical first."""
        rows = np.sort(pool)
        vectors = directions_of(table, rows, self.column)
        labels, centroids = cluster_of(vectors, self.clusters, self.seed)
        cosines = centroid_cosines(vectors, labels, centroids)
        return within_budget(rows[np.argsort(cosines, kind="stable")], table, self)
