"""Cluster embeddings with k-means."""

import math
import warnings
from typing import Any

import numpy as np

from ..checks import is_count
from ..errors import SuperfilterError

MAX_CLUSTERS = 10_000  # as SemDeDup and SSL prototypes are run on C4 in arXiv 2402.09668
MANY_ROWS = 100_000  # above, k-means goes by mini-batches
BLOCK = 10_000  # rows worked on at once


def default_clusters(rows: int) -> int:
    """Return the square root of the rows, at most 10,000.

    Rounded up; 10,000 is what arXiv 2402.09668 takes for C4.

    Example:
        >>> default_clusters(52_002), default_clusters(10), default_clusters(10**9)
        (229, 4, 10000)
    """
    return min(math.ceil(math.sqrt(rows)), MAX_CLUSTERS)


def check_clusters(clusters: Any) -> None:
    """Refuse what is no number of clusters."""
    if clusters is not None and not is_count(clusters):
        raise SuperfilterError(
            f"clusters={clusters!r}: give a whole number, at least 1, or leave it out"
        )


def cluster_of(
    vectors: np.ndarray, clusters: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster vectors by k-means, many of them by mini-batches.

    Up to 100,000 rows by Lloyd's algorithm from k-means++ centres (Arthur & Vassilvitskii, 2007),
    whose expected sum of squares is at most 8 (ln k + 2) times the best. Above, those centres are
    drawn from a sample of `max(3,072, 3 clusters)` rows and moved by batches of 1,024 rows until
    ten batches in a row bring nothing (Sculley, 2010), which has no such bound; then every row is
    given to its nearest centre. Beside the vectors memory then holds that sample, the centres and
    blocks: 4 d (4 clusters) bytes and some MB, whatever the number of rows. Equal seeds give equal
    clusters on one machine.

    Where there are fewer different vectors than clusters, some stay empty. Without `clusters` there
    are `default_clusters` of them.

    Returns:
        (n,) int64 cluster of each row, and the (clusters, d) float32 centroids.

    Raises:
        SuperfilterError: more clusters than rows.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if clusters is None:
        clusters = default_clusters(len(vectors))
    if not len(vectors):
        return np.zeros(0, dtype=np.int64), np.zeros((0, vectors.shape[1]), dtype=np.float32)
    if clusters > len(vectors):
        raise SuperfilterError(
            f"clusters={clusters} and only {len(vectors)} rows in play: give at most as many"
        )
    method = KMeans if len(vectors) <= MANY_ROWS else MiniBatchKMeans
    means = method(n_clusters=clusters, n_init=1, random_state=_random_state(seed))
    with warnings.catch_warnings():
        # Fewer different vectors than clusters: some clusters stay empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = means.fit_predict(vectors)
    return labels.astype(np.int64), means.cluster_centers_.astype(np.float32)


def _random_state(seed: int) -> int:
    """Fold a seed to the 32 bits that scikit-learn takes; smaller ones stay as they are."""
    if seed < 2**32:
        return seed
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def centroid_cosines(vectors: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Compute cosines between unit vectors and their cluster's centroid.

    (n, d) vectors with (n,) labels; 0 where the centroid is all zeros.
    """
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    directions = centroids / np.where(lengths > 0, lengths, 1)
    cosines = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        cosines.append(np.einsum("nd,nd->n", vectors[block], directions[labels[block]]))
    return np.concatenate(cosines)
