"""Keep the best of each cluster, so that no kind of row takes it all, and none vanishes."""

import warnings
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Settings
from ..checks import check_column, check_seed, check_switch, check_vector_column, plain_numbers
from ..data.columns import numbers_of, refuse_undefined, vectors_or_nan
from ..errors import did_you_mean
from ._budget import check_budget, count_of
from ._kmeans import check_clusters, cluster_of

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_A_CLUSTER = 50  # the paper: 1,000 clusters of 52,002 rows, about 300 of 15,011


@dataclass(frozen=True, repr=False)
class PerCluster(Settings):
    """The best rows of each cluster, k in all, exactly; best first over all clusters, ties to the earlier row.

    Clusters are those of k-means on the column `embedding`, of all rows that have a vector, whether they
    are still in play or not. Each has a share of k in proportion to all its rows, by largest remainders
    (ties: the cluster that begins earlier). One with too few rows in play whose value is defined gives
    the rest of its share to the others, by the same rule. How learning percentage selects, arXiv 2402.10430,
    section 3, whose shares were rounded up cluster by cluster.

    Args:
        by: a numeric column; None draws rows at random in each cluster, the paper's baseline, in the order drawn.
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        clusters: how many; None is one for each 50 rows, as in the paper. Above 100,000 rows k-means
            works on samples of the rows (mini-batches).
        group: a column of text, whole numbers or booleans whose values are the clusters instead: the quota of
            every category, language or source. Null is a group of its own.
        largest: False keeps the smallest values, as learning percentage wants it.
        column: the embeddings, as `Embed` adds them.
        seed: of k-means and of the draw.

    Raises (when it is called):
        ValueError: more clusters than rows with a vector, a row in play without one, or no such column.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import PerCluster, select
        >>> table = Dataset.from_dict({"ifd": [0.9, 0.8, 0.7, 0.1], "language": ["en", "en", "en", "ga"]})
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
    largest: bool = True
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "clusters", "largest", "seed")
        if self.by is not None:
            check_column(self.by)
        check_budget(self.k, None)
        check_clusters(self.clusters)
        if self.group is not None and (not isinstance(self.group, str) or not self.group):
            raise ValueError(f"group={self.group!r}: name the column whose values are the groups")
        if self.group is not None and self.clusters is not None:
            raise ValueError(
                f"clusters={self.clusters!r}, group={self.group!r}: give one of the two"
            )
        check_switch("largest", self.largest)
        check_vector_column(self.column)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """The kept row numbers, best first."""
        order, mine, _, quotas = self._plan(table, pool)
        wanted = count_of(self.k, len(table))
        if len(order) < wanted:  # the second frame up is the caller of select()
            message = (
                f"{self!r} has room for {wanted} rows, and only {len(order)} rows can be chosen"
            )
            warnings.warn(message, stacklevel=3)
        return order[_places(mine) < quotas[mine]]

    def facts(self, table: "Dataset", pool: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        """How many clusters there are, what they keep, and how many rows some could not fill and others took."""
        _, mine, sizes, quotas = self._plan(table, pool)
        fair = apportioned(count_of(self.k, len(table)), sizes)
        short = np.maximum(fair - np.bincount(mine, minlength=len(sizes)), 0).sum()
        return {
            "clusters" if self.group is None else "groups": len(sizes),
            "rows kept of each": f"{min(quotas.tolist(), default=0)} to {max(quotas.tolist(), default=0)}",
            "rows that fell to others": int(min(short, quotas.sum())),
        }

    def _plan(
        self, table: "Dataset", pool: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The rows that can be kept, best first; their clusters; all clusters' rows and quotas."""
        labels = self._labels(table, pool)
        if self.by is None:
            order = np.random.default_rng(self.seed).permutation(np.sort(pool))
        else:
            values = numbers_of(table, self.by)
            order = np.sort(pool[~np.isnan(values[pool])])
            order = order[
                np.argsort(-values[order] if self.largest else values[order], kind="stable")
            ]
        sizes = np.bincount(labels[labels >= 0])
        room = np.bincount(labels[order], minlength=len(sizes))
        return order, labels[order], sizes, quotas_of(count_of(self.k, len(table)), sizes, room)

    def _labels(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """(n,) cluster of each row, numbered as they begin; -1 for a row that is out of play and has no vector."""
        known = self.__dict__.get("_known")
        if (
            known is None or known[0] != table._fingerprint
        ):  # k-means takes its time, and facts() asks again
            made = (
                _groups(table, self.group)
                if self.group is not None
                else self._clusters(table, pool)
            )
            known = (table._fingerprint, made)
            object.__setattr__(self, "_known", known)
        if (known[1][pool] < 0).any():
            refuse_undefined(vectors_or_nan(table, pool, self.column), pool, self.column)
        return known[1]

    def _clusters(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        vectors = vectors_or_nan(table, column=self.column)
        refuse_undefined(vectors[pool], pool, self.column)
        defined = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        clusters = self.clusters or max(1, len(defined) // ROWS_A_CLUSTER)
        labels = np.full(len(table), -1, dtype=np.int64)
        labels[defined] = _as_they_begin(cluster_of(vectors[defined], clusters, self.seed)[0])
        return labels


def quotas_of(total: int, sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """(clusters,) how many rows each keeps: `total` in proportion to `sizes`, none more than it has `room` for.

    What a full cluster leaves goes to the others in proportion to their sizes, until `total` is reached or
    all are full.

    Example:
        >>> quotas_of(10, np.array([50, 30, 20]), np.array([50, 1, 20])).tolist()
        [6, 1, 3]
    """
    quotas = np.zeros(len(sizes), dtype=np.int64)
    left, shared = (
        min(total, int(room.sum())),
        sizes,
    )  # at first by all, so that each gets the share it has room for
    while left:
        quotas += apportioned(left, shared)
        left = int(np.maximum(quotas - room, 0).sum())
        quotas = np.minimum(quotas, room)
        shared = np.where(quotas < room, sizes, 0)
    return quotas


def apportioned(total: int, sizes: np.ndarray) -> np.ndarray:
    """(clusters,) whole shares of `total` in proportion to `sizes`, by largest remainders; ties to the earlier.

    Example:
        >>> apportioned(10, np.array([50, 30, 17, 3])).tolist()
        [5, 3, 2, 0]
    """
    exact = [
        total * size for size in sizes.tolist()
    ]  # Python's whole numbers: no overflow, no rounding
    everything = max(sum(sizes.tolist()), 1)
    floors = np.array([share // everything for share in exact], dtype=np.int64)
    remainders = np.array([share % everything for share in exact], dtype=np.int64)
    more = np.argsort(-remainders, kind="stable")[: total - int(floors.sum())]
    floors[more] += 1
    return floors


def _groups(table: "Dataset", column: str) -> np.ndarray:
    """(n,) number of each row's group, as they begin."""
    import pyarrow.compute as pc
    from pyarrow import types

    if column not in table.column_names:
        raise ValueError(
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
        raise ValueError(
            f"column {column!r} holds {kind}, and groups are text, whole numbers or booleans"
        )
    cells = table.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    return pc.dictionary_encode(cells, null_encoding="encode").indices.to_numpy().astype(np.int64)


def _as_they_begin(labels: np.ndarray) -> np.ndarray:
    """Labels numbered in the order in which they first appear, without gaps."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _places(labels: np.ndarray) -> np.ndarray:
    """(m,) how many earlier elements have the same label."""
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(np.bincount(labels)) - np.bincount(labels)
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - starts[labels[order]]
    return places
