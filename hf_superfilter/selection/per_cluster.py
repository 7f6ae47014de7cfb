"""Keep the best of each cluster."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import (
    check_column,
    check_seed,
    check_switch,
    check_vector_column,
    is_number,
    plain_number,
    plain_numbers,
)
from ..data.columns import are_finite, best_first, refuse_undefined, vectors_or_nan
from ..errors import SuperfilterError, did_you_mean
from ._budget import check_budget, count_of, shortfall_of
from ._kmeans import check_clusters, cluster_of

if TYPE_CHECKING:
    from datasets import Dataset

SCALE = 2**40  # of weights that are no counts
ROWS_PER_CLUSTER = 50  # the paper: 1,000 clusters of 52,002 rows, about 300 of 15,011


@dataclass(frozen=True, repr=False)
class PerCluster(Settings):
    """Keep the best rows of each cluster, k in all.

    Rows stand best first over all clusters, ties to the earlier row. Clusters are those of k-means
    on the column `embedding`, of all rows that have a vector, whether they are still in play or
    not. Each has a share of k in proportion to all its rows, by largest remainders (ties: the
    cluster that begins earlier). One with too few rows in play whose value is defined gives the
    rest of its share to the others, by the same rule. How learning percentage selects, arXiv
    2402.10430, section 3, whose shares were rounded up cluster by cluster.

    The funnel shows how many clusters there are, how many rows the least and the most generous of
    them keep, and how many rows of a cluster's share fell to others.

    Args:
        by: a numeric column; None draws rows at random in each cluster, the paper's baseline, in
            drawing order.
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        clusters: how many; None is one for each 50 rows, as in the paper. Above 100,000 rows
            k-means works on samples of the rows (mini-batches); memory holds the vectors once.
        group: a column of text, whole numbers or booleans whose values are the clusters instead:
            the quota of every category, language or source. Null is a group of its own.
        shares: group -> weight, a table of quotas in place of the groups' sizes:
            `{"en": 3, "zh": 1}` keeps three English rows for each Chinese one, and none of a group
            that it does not name.
        temperature: weighs a group of n rows by `n^(1 / temperature)`: 1 is in proportion, above it
            small groups get more, as multilingual models mix languages (arXiv 1907.05019, section
            4.2, takes 5). Not with `shares`.
        largest: False keeps the smallest values, as learning percentage wants it.
        column: the embeddings, as `Embed` adds them.
        seed: of k-means and of the draw.

    Raises (when it is called):
        SuperfilterError: more clusters than rows with a vector, a row in play without one, or no
            such column.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import PerCluster, select
        >>> languages = ["en", "en", "en", "ga"]
        >>> table = Dataset.from_dict({"ifd": [0.9, 0.8, 0.7, 0.1], "language": languages})
        >>> select(table, [PerCluster("ifd", 2, group="language")]).rows.tolist()
        [0, 1]
        >>> select(table, [PerCluster("ifd", 3, group="language")]).rows.tolist()
        [0, 1, 3]
    """

    by: str | None
    k: int | float
    _: KW_ONLY
    clusters: int | None = None
    group: str | None = None
    shares: Mapping[str, float] | None = None
    temperature: float | None = None
    largest: bool = True
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "clusters", "temperature", "largest", "seed")
        if self.by is not None:
            check_column(self.by)
        check_budget(self.k, None)
        check_clusters(self.clusters)
        if self.group is not None and (not isinstance(self.group, str) or not self.group):
            raise SuperfilterError(
                f"group={self.group!r}: name the column whose values are the groups"
            )
        if self.group is not None and self.clusters is not None:
            raise SuperfilterError(
                f"clusters={self.clusters!r}, group={self.group!r}: give one of the two"
            )
        self._check_mixture()
        check_switch("largest", self.largest)
        check_vector_column(self.column)
        check_seed(self.seed)

    def _check_mixture(self) -> None:
        """Check the shares and the temperature."""
        if self.temperature is not None and self.shares is not None:
            raise SuperfilterError(
                f"shares={self.shares!r}, temperature={self.temperature!r}: give one of the two"
            )
        if self.temperature is not None and (
            not is_number(self.temperature) or self.temperature <= 0
        ):
            raise SuperfilterError(f"temperature={self.temperature!r}: give a number above 0")
        if self.shares is None:
            return
        weights = {}
        if isinstance(self.shares, Mapping):
            weights = {group: plain_number(weight) for group, weight in self.shares.items()}
        if not weights or not all(is_number(w) and w > 0 for w in weights.values()):
            raise SuperfilterError(
                f"shares={self.shares!r}: give groups and weights above 0, such as "
                "{'en': 3, 'zh': 1}"
            )
        object.__setattr__(self, "shares", weights)
        if self.group is None:
            raise SuperfilterError(
                f"shares={self.shares!r}: name the column of groups, such as group='language'"
            )

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, and the clusters' shares."""
        total = count_of(self.k, len(table))
        labels = self._labels(table, pool)
        order = self._order(table, pool)
        clusters = labels[order]  # (m,) of the rows that can be kept
        sizes = self._weights(table, labels)
        room = np.bincount(clusters, minlength=len(sizes))
        room[sizes == 0] = 0  # a group that `shares` does not name
        quotas = quotas_of(total, sizes, room)
        rows = order[ranks_within(clusters) < quotas[clusters]]
        unfilled = np.maximum(apportioned(total, sizes) - room, 0).sum()
        facts: dict[str, Any] = {
            "clusters" if self.group is None else "groups": len(sizes),
            "rows kept of each": f"{min(quotas, default=0)} to {max(quotas, default=0)}",
            "rows that fell to others": int(min(unfilled, quotas.sum())),
        }
        return Kept(rows, facts, shortfall_of(total, int(room.sum())))

    def _weights(self, table: "Dataset", labels: np.ndarray) -> np.ndarray:
        """Return the whole numbers in whose proportion the clusters share k."""
        sizes = np.bincount(labels[labels >= 0])
        if self.temperature is not None:
            shares = sizes / max(sizes, default=1)  # at most 1: no power overflows
            return _whole(shares ** (1 / self.temperature))
        if self.shares is None:
            return sizes
        first = np.unique(labels, return_index=True)[1]
        names = [str(value) for value in table.select(first)[str(self.group)]]
        unknown = [str(name) for name in self.shares if str(name) not in names]
        if unknown:
            raise SuperfilterError(
                f"shares names {unknown[0]!r}, and {self.group!r} has no such group: "
                f"{did_you_mean(unknown[0], names)}"
            )
        by_name = {str(name): weight for name, weight in self.shares.items()}
        return _whole(np.array([by_name.get(name, 0.0) for name in names]))

    def _order(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """Order the defined rows, best first or as drawn."""
        if self.by is None:
            return np.random.default_rng(self.seed).permutation(np.sort(pool))
        return best_first(table, pool, self.by, largest=self.largest)

    def _labels(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """Label rows with their clusters; -1 without a vector."""
        if self.group is not None:
            return _group_labels(table, self.group)
        vectors = vectors_or_nan(table, column=self.column)
        finite = are_finite(vectors)
        if not finite[pool].all():
            refuse_undefined(vectors[pool], pool, self.column)
        labels = np.full(len(table), -1, dtype=np.int64)
        if not finite.all():
            vectors = vectors[finite]
        clusters = self.clusters or max(1, len(vectors) // ROWS_PER_CLUSTER)
        labels[finite] = _by_appearance(cluster_of(vectors, clusters, self.seed)[0])
        return labels


def quotas_of(total: int, sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Share `total` rows among clusters in proportion to their sizes.

    None gets more than it has `room` for. What a full cluster leaves goes to the others in
    proportion to their sizes, until `total` is reached or all are full.

    Returns:
        (clusters,) int64 rows that each keeps.

    Example:
        >>> quotas_of(10, np.array([50, 30, 20]), np.array([50, 1, 20])).tolist()
        [6, 1, 3]
    """
    quotas = np.zeros(len(sizes), dtype=np.int64)
    missing = min(total, int(room.sum()))
    sharing = sizes  # at first all, so that each gets the share that it has room for
    while missing:
        quotas += apportioned(missing, sharing)
        missing = int(np.maximum(quotas - room, 0).sum())
        quotas = np.minimum(quotas, room)
        sharing = np.where(quotas < room, sizes, 0)
    return quotas


def apportioned(total: int, sizes: np.ndarray) -> np.ndarray:
    """Share `total` in whole numbers in proportion to sizes.

    By largest remainders, ties to the earlier (Hamilton's method).

    Example:
        >>> apportioned(10, np.array([50, 30, 17, 3])).tolist()
        [5, 3, 2, 0]
    """
    # Python's whole numbers: no overflow, no rounding.
    products = [total * size for size in sizes.tolist()]
    everything = max(sum(sizes.tolist()), 1)
    shares = np.array([product // everything for product in products], dtype=np.int64)
    remainders = np.array([product % everything for product in products], dtype=np.int64)
    largest = np.argsort(-remainders, kind="stable")[: total - int(shares.sum())]
    shares[largest] += 1
    return shares


def _whole(weights: np.ndarray) -> np.ndarray:
    """Scale weights to whole numbers, since these are shared out exactly."""
    if not len(weights):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(np.round(weights / weights.max() * SCALE).astype(np.int64))


def _group_labels(table: "Dataset", column: str) -> np.ndarray:
    """Number rows by a column's values, as these begin."""
    import pyarrow.compute as pc
    from pyarrow import types

    if column not in table.column_names:
        raise SuperfilterError(
            f"no column {column!r} in the table: {did_you_mean(column, table.column_names)}"
        )
    kind = table.features.arrow_schema.field(column).type
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_boolean,
        types.is_null,
    )
    if not any(test(kind) for test in tests):
        raise SuperfilterError(
            f"column {column!r} holds {kind}, and groups are text, whole numbers or booleans"
        )
    cells = table.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    codes: np.ndarray = pc.dictionary_encode(cells, null_encoding="encode").indices.to_numpy()
    return codes.astype(np.int64)


def _by_appearance(labels: np.ndarray) -> np.ndarray:
    """Number labels in the order in which they appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def ranks_within(labels: np.ndarray) -> np.ndarray:
    """Count for each element the earlier ones of its label."""
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(np.bincount(labels)) - np.bincount(labels)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - starts[labels[order]]
    return ranks
