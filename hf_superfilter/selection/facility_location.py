"""Keep the rows that stand for all others best: facility location, by lazy greedy."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..base import Settings
from ..checks import check_seed, check_vector_column, is_count, plain_numbers
from ..data.columns import directions_of, refuse_equal, vectors_of
from ..errors import did_you_mean
from ._budget import check_budget, count_of, within_budget

if TYPE_CHECKING:
    from datasets import Dataset

SIMILARITIES = ("cosine", "euclidean", "rbf")
Rows: TypeAlias = Sequence[int] | np.ndarray
MEMORY = 2**30  # bytes that all pairs of rows may take; 16,384 rows
CELLS = 2**23  # pairs worked on at once


@dataclass(frozen=True, repr=False)
class FacilityLocation(Settings):
    """k rows S of the pool that maximise `f(S) = sum_i max_(j in S) similarity(i, j)` over the pool's rows i.

    Every row in play is to have someone like it among the rows kept, so one of a group of duplicates is enough.
    Only rows in play count and are counted: after `TopK("ifd", 0.2)` it is the best fifth that is covered, as
    in Superfiltering.D (arXiv 2402.00530, appendix). Greedy: the row that adds most, first; f(S) is at least
    1 - 1/e of the best possible (Nemhauser et al., 1978), and the gains never grow, so that a row is
    looked at again only when its last gain could still be the largest (Minoux, 1978).

    All pairs are held in memory up to 1 GiB (16,384 rows in play); above, they are computed whenever
    they are needed, in blocks, and the result is the same up to rounding. Time grows with the square of
    the rows. `neighbours` makes the memory linear. The funnel says `coverage`, f(S) divided by the rows in
    play, exact also with `neighbours`, and what was held in memory.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        similarity: `cosine`, below 0 counted as 0; `euclidean`, `exp(-|x - y| / d)` in d dimensions, as the
            authors of Superfiltering call submodlib; `rbf`, `exp(-|x - y|^2 / s)`, s the mean square distance of two
            rows in play.
        neighbours: a row counts only for its so many most similar rows, itself among them; an approximation
            for large pools.
        column: the embeddings, as `Embed` adds them.
        seed: which of rows that add equally much comes first.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import FacilityLocation, select
        >>> table = Dataset.from_dict({"embedding": [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]})
        >>> select(table, [FacilityLocation(2)]).rows.tolist()
        [2, 3]
    """

    k: int | float
    _: KW_ONLY
    similarity: str = "cosine"
    neighbours: int | None = None
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "neighbours", "seed")
        check_budget(self.k, None)
        if self.similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity={self.similarity!r}: {did_you_mean(str(self.similarity), SIMILARITIES)}"
            )
        if self.neighbours is not None and not is_count(self.neighbours):
            raise ValueError(
                f"neighbours={self.neighbours!r}: give a number of rows, at least 1, or leave it out"
            )
        check_vector_column(self.column)
        check_seed(self.seed)

    def __call__(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """The kept row numbers, in the order they were chosen."""
        order = np.random.default_rng(self.seed).permutation(
            len(pool)
        )  # ties go to the first of these
        kernel, rows = self._kernel(table, np.sort(pool), order), np.sort(pool)[order]
        room = min(count_of(self.k, len(table)), len(rows))
        costs: _Costs = _Held(kernel) if _fits(len(rows)) else kernel
        if self.neighbours is not None and self.neighbours < len(rows):
            costs = _Nearest(kernel, self.neighbours)
        chosen = np.array(list(_greedy(costs, room)), dtype=np.int64)
        return within_budget(rows[chosen], table, self)

    def facts(self, table: "Dataset", pool: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        """How well the rows kept cover the pool, and what was held in memory."""
        if not len(pool):
            return {}
        pool, count = np.sort(pool), len(pool)
        kernel = self._kernel(table, pool, np.arange(count))
        best = np.ones(count, dtype=np.float32)
        for some in _blocks(np.searchsorted(pool, rows), count):
            np.minimum(best, kernel.costs(some).min(axis=0), out=best)
        pairs = f"{count**2 * 4 / 1e6:,.1f} MB"
        if self.neighbours is not None and self.neighbours < count:
            memory = f"{self.neighbours:,} of {count:,} neighbours a row"
        else:
            memory = f"{pairs} of pairs " + (
                "held" if _fits(count) else f"recomputed (over {MEMORY / 1e6:,.0f} MB)"
            )
        return {"coverage": round(1 - float(best.mean(dtype=np.float64)), 6), "memory": memory}

    def _kernel(self, table: "Dataset", rows: np.ndarray, order: np.ndarray) -> "_Kernel":
        if self.similarity == "cosine":
            return _Kernel(directions_of(table, rows, self.column)[order], self.similarity)
        vectors = vectors_of(table, rows, self.column)
        refuse_equal(vectors, self.column)
        return _Kernel(vectors[order], self.similarity)


class _Costs(Protocol):
    """What is lost where one of m rows stands for another, 1 - similarity, from 0 (nothing) to 1 (all)."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """(b,) float64: by how much each candidate would lower the sum of (m,) `best`, the loss of each row so far."""
        ...

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` to what it is with one more row kept."""
        ...


class _Kernel:
    """The losses of all pairs, computed as they are asked for.

    They are losses and not similarities because float32 tells 1e-9 from 2e-9, but not 1 - 1e-9 from 1 - 2e-9.
    """

    def __init__(self, vectors: np.ndarray, similarity: str) -> None:
        self.similarity = similarity
        if similarity != "cosine" and len(
            vectors
        ):  # small numbers have small errors in the squared distances
            vectors = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.vectors = vectors
        self.squares = np.einsum("nd,nd->n", vectors, vectors)
        # The mean over all pairs of |x - y|^2 is twice the mean square distance from the mean.
        self.scale = (
            2 * max(float(self.squares.mean(dtype=np.float64)), 1e-30) if len(vectors) else 1.0
        )

    def __len__(self) -> int:
        return len(self.vectors)

    def costs(self, rows: Rows, out: np.ndarray | None = None) -> np.ndarray:
        """(b, m) float32 losses between some rows and all, 0 of a row with itself."""
        rows = np.asarray(rows, dtype=np.int64)
        out = np.matmul(self.vectors[rows], self.vectors.T, out=out)
        if self.similarity == "cosine":
            np.subtract(1, out, out=out)
        else:
            np.multiply(out, -2, out=out)
            out += self.squares
            out += self.squares[rows, None]
            np.maximum(out, 0, out=out)
            if self.similarity == "euclidean":
                np.sqrt(out, out=out)
            np.multiply(
                out,
                -1 / (self.scale if self.similarity == "rbf" else self.vectors.shape[1]),
                out=out,
            )
            np.negative(np.expm1(out, out=out), out=out)
        out[np.arange(len(rows)), rows] = 0
        return np.clip(out, 0, 1, out=out)

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """As `_Costs`."""
        return _sum_gains(self.costs(candidates), best)

    def keep(self, row: int, best: np.ndarray) -> None:
        """As `_Costs`."""
        np.minimum(best, self.costs([row])[0], out=best)


class _Held:
    """The losses of all pairs, in memory."""

    def __init__(self, kernel: _Kernel) -> None:
        self.all = np.empty((len(kernel), len(kernel)), dtype=np.float32)
        for some in _blocks(np.arange(len(kernel)), len(kernel)):
            kernel.costs(some, out=self.all[some[0] : some[-1] + 1])

    def __len__(self) -> int:
        return len(self.all)

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """As `_Costs`."""
        return _sum_gains(self.all[candidates], best)

    def keep(self, row: int, best: np.ndarray) -> None:
        """As `_Costs`."""
        np.minimum(best, self.all[row], out=best)


class _Nearest:
    """The losses between each row and the few most similar to it; all others are 1."""

    def __init__(self, kernel: _Kernel, neighbours: int) -> None:
        near = np.empty((len(kernel), neighbours), dtype=np.int64)
        costs = np.empty((len(kernel), neighbours), dtype=np.float32)
        for some in _blocks(np.arange(len(kernel)), len(kernel)):
            block = kernel.costs(some)
            near[some] = np.argpartition(block, neighbours - 1, axis=1)[:, :neighbours]
            costs[some] = np.take_along_axis(block, near[some], axis=1)
        # Turned round: which rows a candidate stands for, in `rows[starts[c] : starts[c + 1]]`.
        order = np.argsort(near, axis=None, kind="stable")
        self.rows, self.costs = order // neighbours, costs.ravel()[order]
        self.starts = np.searchsorted(near.ravel()[order], np.arange(len(kernel) + 1))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """As `_Costs`."""
        parts = (slice(self.starts[c], self.starts[c + 1]) for c in candidates)
        lowered = (np.maximum(best[self.rows[part]] - self.costs[part], 0) for part in parts)
        return np.array([part.sum(dtype=np.float64) for part in lowered])

    def keep(self, row: int, best: np.ndarray) -> None:
        """As `_Costs`."""
        part = slice(self.starts[row], self.starts[row + 1])
        best[self.rows[part]] = np.minimum(best[self.rows[part]], self.costs[part])


def _greedy(costs: _Costs, room: int) -> Iterator[int]:
    """`room` rows, each the one that adds most to those before it; of equal ones the first."""
    best = np.ones(len(costs), dtype=np.float32)
    bounds = [
        -g for some in _blocks(np.arange(len(costs)), len(costs)) for g in costs.gains(some, best)
    ]
    heap = [
        (bound, row) for row, bound in enumerate(bounds)
    ]  # what a row added when last looked at, largest first
    heapq.heapify(heap)
    for _ in range(room):
        fresh: set[int] = set()
        while (
            heap[0][1] not in fresh and heap[0][0] < 0
        ):  # a row that adds nothing never will again
            stale = [heapq.heappop(heap)]
            # Twice as many at each look, for one product of many is faster than many of one.
            while (
                heap
                and len(stale) <= len(fresh)
                and len(stale) * len(costs) < CELLS
                and heap[0][1] not in fresh
            ):
                stale.append(heapq.heappop(heap))
            gains = costs.gains([row for _, row in stale], best)
            for (bound, row), gain in zip(stale, gains.tolist(), strict=True):
                heapq.heappush(
                    heap, (max(bound, -gain), row)
                )  # by rounding, a product may come out larger than before
            fresh |= {row for _, row in stale}
        _, row = heapq.heappop(heap)
        costs.keep(row, best)
        yield row


def _sum_gains(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(b,) float64 sums of what (b, m) losses lie below (m,) `best`."""
    lowered = best - costs
    return np.maximum(lowered, 0, out=lowered).sum(axis=1, dtype=np.float64)


def _blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Rows in parts whose pairs with `width` others can be worked on at once."""
    step = max(CELLS // max(width, 1), 1)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _fits(count: int) -> bool:
    """Whether all pairs of so many rows may be held in memory."""
    return count**2 * 4 <= MEMORY
