"""Keep the rows that cover all others: facility location."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..base import Kept, Settings
from ..checks import (
    check_column,
    check_seed,
    check_vector_column,
    is_count,
    is_number,
    plain_numbers,
)
from ..data.columns import (
    directions_of,
    numbers_of,
    refuse_equal,
    shares_below,
    vectors_of,
)
from ..errors import SuperfilterError, did_you_mean
from ._budget import check_budget, count_of, within_budget

if TYPE_CHECKING:
    from datasets import Dataset

SIMILARITIES = ("cosine", "euclidean", "rbf")
Rows: TypeAlias = Sequence[int] | np.ndarray
MEMORY = 2**30  # bytes that all pairs of rows may take; 16,384 rows
CELLS = 2**23  # pairs worked on at once
WEIGHT = 0.5  # of the quality


@dataclass(frozen=True, repr=False)
class FacilityLocation(Settings):
    """Keep k rows that cover the whole pool best.

    The rows S maximise `f(S) = sum_i max_(j in S) similarity(i, j)` over the pool's rows i: every
    row in play is to have one like it among the rows kept, so one of a group of duplicates is
    enough. Only rows in play count and are counted: after `TopK("ifd", 0.2)` it is the best fifth
    that is covered, as in Superfiltering.D (arXiv 2402.00530, appendix).

    Greedy: the row that adds most, first; f(S) is at least 1 - 1/e of the best possible (Nemhauser
    et al., 1978), and the gains never grow, so that a row is looked at again only when its last
    gain could still be the largest (Minoux, 1978).

    All pairs are held in memory up to 1 GiB (16,384 rows in play); above, they are computed
    whenever they are needed, in blocks of 2^23 pairs, and the result and its bound are the same up
    to rounding: memory holds those, about 100 MB, and what is linear in the rows. Time grows with
    the square of the rows: 1,000 of 100,000 x 64 took 388 CPU-seconds and 164 MB (AMD EPYC, Zen 4).
    `neighbours` holds so many pairs a row instead. The funnel shows `coverage`, f(S) divided by the
    rows in play, exact also with `neighbours`, and what was held in memory.

    With `quality` they maximise `(1 - weight) f(S) / m + weight sum_(j in S) q_j / k`, where m is
    the number of rows in play and q_j the share of them with a smaller value in that column (equal
    ones counted half): coverage and quality, each from 0 to 1, in one goal. The second part only
    adds up, so the sum is monotone and submodular too, and the bound of 1 - 1/e holds for both
    together. The funnel shows `mean quality rank` of the rows kept beside the coverage. D3 (arXiv
    2503.11441) joins diversity, difficulty and dependability in one weighted coreset in this way.

    Args:
        k: an int is a count, a float a share of ALL rows of the table, rounded down.
        similarity: `cosine`, below 0 counted as 0; `euclidean`, `exp(-|x - y| / d)` in d
            dimensions, as the authors of Superfiltering call submodlib; `rbf`, `exp(-|x - y|^2 /
            s)`, s the mean square distance of two rows in play.
        neighbours: a row counts only for its so many most similar rows, itself among them; an
            approximation for large pools.
        quality: a numeric column whose large values are good, such as `ifd`; a nan row is not kept,
            but it is still covered.
        weight: of the quality, from 0 (coverage alone) to 1 (the best k rows); 0.5 unless set.
        column: the embeddings, as `Embed` adds them.
        seed: which of rows that add equally much comes first.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import FacilityLocation, select
        >>> vectors = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
        >>> table = Dataset.from_dict({"embedding": vectors})
        >>> select(table, [FacilityLocation(2)]).rows.tolist()
        [2, 3]
    """

    k: int | float
    _: KW_ONLY
    similarity: str = "cosine"
    neighbours: int | None = None
    quality: str | None = None
    weight: float | None = None
    column: str = "embedding"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "k", "neighbours", "weight", "seed")
        check_budget(self.k, None)
        if self.similarity not in SIMILARITIES:
            raise SuperfilterError(
                f"similarity={self.similarity!r}: "
                f"{did_you_mean(str(self.similarity), SIMILARITIES)}"
            )
        if self.neighbours is not None and not is_count(self.neighbours):
            raise SuperfilterError(
                f"neighbours={self.neighbours!r}: give a number of rows, at least 1, or leave it "
                "out"
            )
        self._check_quality()
        check_vector_column(self.column)
        check_seed(self.seed)

    def _check_quality(self) -> None:
        if self.quality is not None:
            check_column(self.quality)
        if self.weight is None:
            return
        if self.quality is None:
            raise SuperfilterError(
                f"weight={self.weight!r}: name the column of quality that it weighs, quality='ifd'"
            )
        if not is_number(self.weight) or not 0 <= self.weight <= 1:
            raise SuperfilterError(f"weight={self.weight!r}: give a number from 0 to 1")

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, as chosen, and their coverage."""
        # Ties go to the first of the shuffled rows.
        order = np.random.default_rng(self.seed).permutation(len(pool))
        rows = np.sort(pool)[order]
        kernel = self._kernel(table, np.sort(pool), order)
        room = min(count_of(self.k, len(table)), len(rows))
        losses, ranks = self._losses(kernel), None
        if self.quality is not None:
            ranks = shares_below(numbers_of(table, self.quality)[rows])
            room = min(room, int(np.count_nonzero(~np.isnan(ranks))))
            losses = _WithQuality(
                losses, ranks, WEIGHT if self.weight is None else self.weight, room
            )
        picks = np.array(list(_greedy(losses, room)), dtype=np.int64)
        kept = within_budget(rows[picks], table, self)
        facts = self._facts(kernel, picks)
        if ranks is not None and len(picks):
            facts["mean quality rank"] = round(float(ranks[picks].mean()), 6)
        return replace(kept, facts=facts)

    def _losses(self, kernel: "_Kernel") -> "_Losses":
        """Choose what is held in memory."""
        if self._is_approximate(len(kernel)):
            return _NearestLosses(kernel, self.neighbours or 1)
        if _fits(len(kernel)):
            return _HeldLosses(kernel)
        return kernel

    def _is_approximate(self, rows: int) -> bool:
        return self.neighbours is not None and self.neighbours < rows

    def _facts(self, kernel: "_Kernel", picks: np.ndarray) -> dict[str, Any]:
        """Measure the coverage, and tell what was held in memory."""
        rows = len(kernel)
        if not rows:
            return {}
        best = np.ones(rows, dtype=np.float32)
        for block in _blocks(picks, rows):
            np.minimum(best, kernel.losses(block).min(axis=0), out=best)
        if self._is_approximate(rows):
            memory = f"{self.neighbours:,} of {rows:,} neighbours a row"
        elif _fits(rows):
            memory = f"{rows**2 * 4 / 1e6:,.1f} MB of pairs held"
        else:
            memory = (
                f"{rows**2 * 4 / 1e6:,.1f} MB of pairs recomputed (over {MEMORY / 1e6:,.0f} MB)"
            )
        return {"coverage": round(1 - float(best.mean(dtype=np.float64)), 6), "memory": memory}

    def _kernel(self, table: "Dataset", rows: np.ndarray, order: np.ndarray) -> "_Kernel":
        if self.similarity == "cosine":
            return _Kernel(directions_of(table, rows, self.column)[order], self.similarity)
        vectors = vectors_of(table, rows, self.column)
        refuse_equal(vectors, self.column)
        return _Kernel(vectors[order], self.similarity)


class _Losses(Protocol):
    """Provide losses `1 - similarity` between the rows of a pool."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """Compute how much each candidate would lower `best.sum()`.

        `best` (m,) is the loss of each row so far; returns (b,) float64.
        """
        ...

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` for one more row kept."""
        ...


class _Kernel:
    """Compute the losses of all pairs whenever they are needed.

    They are losses and not similarities because float32 tells 1e-9 from 2e-9, but not 1 - 1e-9 from
    1 - 2e-9.
    """

    def __init__(self, vectors: np.ndarray, similarity: str) -> None:
        self.similarity = similarity
        if similarity != "cosine" and len(vectors):
            # Small numbers have small errors in the squared distances.
            vectors = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.vectors = vectors
        self.squares = np.einsum("nd,nd->n", vectors, vectors)
        self.scale = 1.0
        if len(vectors):
            # The mean of |x - y|^2 over all pairs is twice the mean square distance from the mean.
            self.scale = 2 * max(float(self.squares.mean(dtype=np.float64)), 1e-30)

    def __len__(self) -> int:
        return len(self.vectors)

    def losses(self, rows: Rows, out: np.ndarray | None = None) -> np.ndarray:
        """Compute (b, m) float32 losses between some rows and all."""
        rows = np.asarray(rows, dtype=np.int64)
        out = np.matmul(self.vectors[rows], self.vectors.T, out=out)
        if self.similarity == "cosine":
            np.subtract(1, out, out=out)
        else:
            self._distance_losses(rows, out)
        out[np.arange(len(rows)), rows] = 0
        return np.clip(out, 0, 1, out=out)

    def _distance_losses(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Turn products into `1 - exp(-distance / scale)`, in place."""
        np.multiply(out, -2, out=out)
        out += self.squares
        out += self.squares[rows, None]
        np.maximum(out, 0, out=out)  # |x - y|^2 = |x|^2 - 2 xy + |y|^2, but for rounding
        scale = self.scale
        if self.similarity == "euclidean":
            np.sqrt(out, out=out)
            scale = self.vectors.shape[1]
        np.multiply(out, -1 / scale, out=out)
        np.negative(np.expm1(out, out=out), out=out)

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """Compute them as `_Losses` says."""
        return _sum_gains(self.losses(candidates), best)

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` as `_Losses` says."""
        np.minimum(best, self.losses([row])[0], out=best)


class _HeldLosses:
    """Hold the losses of all pairs in memory."""

    def __init__(self, kernel: _Kernel) -> None:
        self.pairs = np.empty((len(kernel), len(kernel)), dtype=np.float32)
        for block in _blocks(np.arange(len(kernel)), len(kernel)):
            kernel.losses(block, out=self.pairs[block[0] : block[-1] + 1])

    def __len__(self) -> int:
        return len(self.pairs)

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """Compute them as `_Losses` says."""
        return _sum_gains(self.pairs[candidates], best)

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` as `_Losses` says."""
        np.minimum(best, self.pairs[row], out=best)


class _NearestLosses:
    """Hold each row's losses to its nearest; others are 1."""

    def __init__(self, kernel: _Kernel, neighbours: int) -> None:
        nearest = np.empty((len(kernel), neighbours), dtype=np.int64)
        losses = np.empty((len(kernel), neighbours), dtype=np.float32)
        for rows in _blocks(np.arange(len(kernel)), len(kernel)):
            block = kernel.losses(rows)
            nearest[rows] = np.argpartition(block, neighbours - 1, axis=1)[:, :neighbours]
            losses[rows] = np.take_along_axis(block, nearest[rows], axis=1)
        # Turned round: candidate c stands for the rows in `rows[starts[c] : starts[c + 1]]`.
        order = np.argsort(nearest, axis=None, kind="stable")
        self.rows = order // neighbours
        self.losses = losses.ravel()[order]
        self.starts = np.searchsorted(nearest.ravel()[order], np.arange(len(kernel) + 1))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """Compute them as `_Losses` says."""
        gains = np.empty(len(candidates))
        for place, candidate in enumerate(candidates):
            span = self._span(candidate)
            lowered = np.maximum(best[self.rows[span]] - self.losses[span], 0)
            gains[place] = lowered.sum(dtype=np.float64)
        return gains

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` as `_Losses` says."""
        span = self._span(row)
        best[self.rows[span]] = np.minimum(best[self.rows[span]], self.losses[span])

    def _span(self, candidate: int) -> slice:
        return slice(self.starts[candidate], self.starts[candidate + 1])


class _WithQuality:
    """Add to what a row covers what it is worth by itself.

    Args:
        losses: of the pairs.
        ranks: (m,) quality from 0 to 1; nan for a row that may not be kept.
        weight: of the quality, from 0 to 1.
        room: rows that will be kept.
    """

    def __init__(self, losses: _Losses, ranks: np.ndarray, weight: float, room: int) -> None:
        self.losses, self.share = losses, 1 - weight
        # The goal times the rows: coverage is a mean over all rows, quality one over those kept.
        worth = weight * len(losses) / max(room, 1) * ranks
        self.worth = np.where(np.isnan(ranks), -np.inf, worth)

    def __len__(self) -> int:
        return len(self.losses)

    def gains(self, candidates: Rows, best: np.ndarray) -> np.ndarray:
        """Compute them as `_Losses` says, with the worth of each candidate."""
        covered = self.share * self.losses.gains(candidates, best)
        gains: np.ndarray = covered + self.worth[np.asarray(candidates)]
        return gains

    def keep(self, row: int, best: np.ndarray) -> None:
        """Lower `best` as `_Losses` says."""
        self.losses.keep(row, best)


def _greedy(losses: _Losses, room: int) -> Iterator[int]:
    """Yield rows, each the first that adds most."""
    best = np.ones(len(losses), dtype=np.float32)
    heap: list[tuple[float, int]] = []  # minus what a row added when last looked at, and the row
    for block in _blocks(np.arange(len(losses)), len(losses)):
        heap += zip((-losses.gains(block, best)).tolist(), block.tolist(), strict=True)
    heapq.heapify(heap)
    for _ in range(room):
        _refresh_top(heap, losses, best)
        _, row = heapq.heappop(heap)
        losses.keep(row, best)
        yield row


def _refresh_top(heap: list[tuple[float, int]], losses: _Losses, best: np.ndarray) -> None:
    """Update gains until the top of the heap is fresh.

    Twice as many rows at each look, for one product of many is faster than many of one.
    """
    fresh: set[int] = set()
    while heap[0][1] not in fresh and heap[0][0] < 0:  # a row that adds nothing never will again
        stale = [heapq.heappop(heap)]
        while (
            heap
            and len(stale) <= len(fresh)
            and len(stale) * len(losses) < CELLS
            and heap[0][1] not in fresh
        ):
            stale.append(heapq.heappop(heap))
        gains = losses.gains([row for _, row in stale], best)
        for (bound, row), gain in zip(stale, gains.tolist(), strict=True):
            # By rounding, a gain may come out larger than before.
            heapq.heappush(heap, (max(bound, -gain), row))
        fresh |= {row for _, row in stale}


def _sum_gains(losses: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Sum what (b, m) losses lie below (m,) `best`."""
    lowered = best - losses
    gains: np.ndarray = np.maximum(lowered, 0, out=lowered).sum(axis=1, dtype=np.float64)
    return gains


def _blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield blocks of rows of at most `CELLS` pairs."""
    step = max(CELLS // max(width, 1), 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _fits(count: int) -> bool:
    """Return whether all pairs of rows may be held."""
    return count**2 * 4 <= MEMORY
