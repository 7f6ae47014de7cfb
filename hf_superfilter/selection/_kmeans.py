"""k-means on embeddings, for every selector that works cluster by cluster."""

import math
import warnings
from typing import Any

import numpy as np

from ..checks import is_count

MOST_CLUSTERS = 10_000  # as SemDeDup and SSL prototypes are run on C4 in arXiv 2402.09668
MANY_ROWS = 100_000  # above, k-means goes by mini-batches


def default_clusters(rows: int) -> int:
    """The square root of the number of rows, rounded up, and at most 10,000, which is that of C4's size.

    Example:
        >>> default_clusters(52_002), default_clusters(10), default_clusters(10**9)
        (229, 4, 10000)
    """
    return min(math.ceil(math.sqrt(rows)), MOST_CLUSTERS)


def check_clusters(clusters: Any) -> None:
    """Refuse a number of clusters that is none."""
    if clusters is not None and not is_count(clusters):
        raise ValueError(f"clusters={clusters!r}: give a whole number, at least 1, or leave it out")


def cluster_of(
    vectors: np.ndarray, clusters: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """k-means: (n,) int64 cluster of each row, and the (clusters, d) float32 centroids.

    Mini-batch k-means above 100,000 rows. Where there are fewer different vectors than clusters, some stay
    empty. Without `clusters` there are `default_clusters` of them.

    Raises:
        ValueError: more clusters than rows.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if clusters is None:
        clusters = default_clusters(len(vectors))
    if not len(vectors):
        return np.zeros(0, dtype=np.int64), np.zeros((0, vectors.shape[1]), dtype=np.float32)
    if clusters > len(vectors):
        raise ValueError(
            f"clusters={clusters} and only {len(vectors)} rows in play: give at most as many clusters"
        )
    kind = KMeans if len(vectors) <= MANY_ROWS else MiniBatchKMeans
    means = kind(n_clusters=clusters, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than clusters
        labels = means.fit_predict(vectors)
    return labels.astype(np.int64), means.cluster_centers_.astype(np.float32)


def likeness(vectors: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n,) float32 cosine between each unit vector and the centroid of its cluster; 0 for a centroid of zeros."""
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    directions = centroids / np.where(lengths > 0, lengths, 1)
    parts = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(vectors), 10_000):
        part = slice(start, start + 10_000)
        parts.append(np.einsum("nd,nd->n", vectors[part], directions[labels[part]]))
    return np.concatenate(parts)
