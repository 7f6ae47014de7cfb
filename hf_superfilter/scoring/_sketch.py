"""Sketch kernel densities with locality-sensitive hashing."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SuperfilterError

BLOCK_ROWS = 8_192  # hashed at once
BLOCK_REPETITIONS = 64  # hashed at once: with a block of rows, 4 MB of cells
FORMAT = 1
# Projections are multiples of 2^-12 and rows, in bandwidths, of 2^-20. Then every sum of products
# is exact in float64: a row falls into the same cells in any block, thread or machine.
PROJECTION_GRID, ROW_GRID = 2.0**12, 2.0**20
MAX_COORDINATE = 2.0**30  # in bandwidths: beyond, float64 no longer places a row on a projection
BANDWIDTH_FRACTION = 0.1  # of the median distance: the automatic bandwidth
MAX_ROWS = 2**31 - 1  # that an int32 cell can count


def collision_probability(distance: np.ndarray | float, bandwidth: float) -> np.ndarray:
    """Compute the probability that two points share a hash cell.

    `k(c) = 1 - 2 Phi(-w/c) - (2c / (sqrt(2 pi) w)) (1 - exp(-w^2 / (2 c^2)))` for the distance c
    and the
    bandwidth w, Phi the normal distribution function: 1 at c = 0, falling, and close to `w / (c
    sqrt(2 pi))` far away. Datar et al., Locality-Sensitive Hashing Scheme Based on p-Stable
    Distributions, SCG 2004, section 3.2.

    Args:
        distance: (n,) Euclidean distances c, 0 or more.
        bandwidth: the width w of a cell, in the same unit.

    Returns:
        (n,) float64 between 0 and 1.

    Example:
        >>> collision_probability([0.0, 1.0, 10.0], bandwidth=1.0).round(4).tolist()
        [1.0, 0.3687, 0.0399]
    """
    from scipy.special import erf

    ratio = bandwidth / np.maximum(np.asarray(distance, dtype=np.float64), bandwidth * 1e-100)
    tail = np.expm1(-(ratio**2) / 2) * 2 / (math.sqrt(2 * math.pi) * ratio)
    return np.asarray(erf(ratio / math.sqrt(2)) + tail)


@dataclass(frozen=True, eq=False)
class Sketch:
    """Count rows in R x B cells, by R hash functions.

    `h_r(x) = floor((a_r . x + b_r) / w) mod B`, a ~ N(0, I), b ~ U[0, w), the remainder never
    negative. The mean over r of the counts in the cells of x estimates `sum_y k(|x - y|)`, k the
    `collision_probability`. Its size does not depend on the number of rows: 80 MB of int32 for the
    paper's R = 1,000 and B = 20,000. The remainder lets rows that lie B bandwidths or more apart
    along a projection meet by chance; where w is a tenth of the usual distance that is 2,000 such
    distances, so that B may well be smaller. arXiv 2402.09668, section 3.2.

    Attributes:
        bandwidth: w, in the unit of the distances.
        projections: (R, d) int16, a in steps of 2^-12.
        offsets: (R,) int32, b / w in steps of 2^-20.
        counts: (R, B) int32, rows in each cell; what `add` changes.

    Example:
        >>> sketch = new_sketch(dimensions=2, bandwidth=1.0, repetitions=100, buckets=1_000)
        >>> sketch.add(np.array([[0.0, 0.0], [0.0, 0.0], [500.0, 0.0]]))
        >>> sketch.density(np.array([[0.0, 0.0], [500.0, 0.0]])).round().tolist()
        [2.0, 1.0]
    """

    bandwidth: float
    projections: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray

    @property
    def rows(self) -> int:
        """The number of rows counted."""
        return int(self.counts[0].sum(dtype=np.int64))

    @property
    def dimensions(self) -> int:
        """The length of the vectors."""
        return int(self.projections.shape[1])

    def add(self, vectors: np.ndarray) -> None:
        """Count (n, d) finite vectors: the first pass.

        Raises:
            ValueError: vectors of another length, or more rows in all than a cell can count.
        """
        _check_rows(self.rows + len(vectors))
        buckets = self.counts.shape[1]
        for block in self._blocks(vectors):
            for first, cells in self._cells(block):
                for repetition, row_cells in enumerate(cells, start=first):
                    added = np.bincount(row_cells, minlength=buckets)
                    self.counts[repetition] += added.astype(np.int32)

    def density(self, vectors: np.ndarray) -> np.ndarray:
        """Look up (n, d) finite vectors: the second pass.

        Returns:
            (n,) float64 mean counts of the cells that they fall into. A row that was counted counts
            itself, so that its density is 1 at least.

        Raises:
            ValueError: vectors of another length.
        """
        parts = [np.zeros(0)]
        for block in self._blocks(vectors):
            total = np.zeros(len(block), dtype=np.int64)
            for first, cells in self._cells(block):
                counts = self.counts[first : first + len(cells)]
                total += np.take_along_axis(counts, cells, axis=1).sum(axis=0, dtype=np.int64)
            parts.append(total / len(self.counts))
        return np.concatenate(parts)

    def __add__(self, other: "Sketch") -> "Sketch":
        """Add the counts of two sketches, exactly.

        Raises:
            ValueError: the two do not share bandwidth, projections and size, or count too many rows
                together.
        """
        same = (
            self.bandwidth == other.bandwidth
            and self.counts.shape == other.counts.shape
            and np.array_equal(self.projections, other.projections)
            and np.array_equal(self.offsets, other.offsets)
        )
        if not same:
            raise SuperfilterError(
                f"two sketches of different hash functions cannot be added: {self} and {other}"
            )
        _check_rows(self.rows + other.rows)
        return Sketch(self.bandwidth, self.projections, self.offsets, self.counts + other.counts)

    def __repr__(self) -> str:
        """Describe the rows and the size."""
        repetitions, buckets = self.counts.shape
        return (
            f"<Sketch of {self.rows:,} rows of {self.dimensions} numbers: bandwidth "
            f"{self.bandwidth:.6g}, {repetitions:,} repetitions, {buckets:,} buckets>"
        )

    def save(self, path: str | Path) -> None:
        """Write one npz file, equal bytes for equal sketches."""
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file,
                format=np.int64(FORMAT),
                bandwidth=np.float64(self.bandwidth),
                projections=self.projections,
                offsets=self.offsets,
                counts=self.counts,
            )

    def _blocks(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Split the vectors into blocks; refuse those of another length."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise SuperfilterError(
                f"vectors of shape {vectors.shape} for a sketch of {self.dimensions} numbers a "
                "row: embed all rows with one model"
            )
        return [vectors[start : start + BLOCK_ROWS] for start in range(0, len(vectors), BLOCK_ROWS)]

    def _cells(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Hash a block of n rows, a few repetitions at a time.

        Yields:
            The first repetition r, and (k, n) int64 cells of the repetitions r to r + k - 1.
        """
        columns = np.rint(block.astype(np.float64) * (ROW_GRID / self.bandwidth)).T / ROW_GRID
        largest = np.abs(columns).max(initial=0.0)
        if largest > MAX_COORDINATE:
            raise SuperfilterError(
                f"a vector holds {largest * self.bandwidth:.3g}, {largest:.3g} times the bandwidth "
                f"of {self.bandwidth:.3g}: choose a larger bandwidth, or drop the vector"
            )
        buckets = self.counts.shape[1]
        for first in range(0, len(self.counts), BLOCK_REPETITIONS):
            block_of_hashes = slice(first, first + BLOCK_REPETITIONS)
            projected = (self.projections[block_of_hashes] / PROJECTION_GRID) @ columns
            projected += self.offsets[block_of_hashes, None] / ROW_GRID
            cells = np.floor(projected, out=projected).astype(np.int64)
            yield first, np.remainder(cells, buckets)


def new_sketch(
    dimensions: int,
    bandwidth: float,
    *,
    repetitions: int = 1_000,
    buckets: int = 20_000,
    seed: int = 0,
) -> Sketch:
    """Make an empty sketch for vectors of some length.

    Equal arguments give equal hash functions.
    """
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((repetitions, dimensions)) * PROJECTION_GRID
    limit = np.iinfo(np.int16).max  # 8 standard deviations
    return Sketch(
        bandwidth,
        np.rint(np.clip(normal, -limit, limit)).astype(np.int16),
        rng.integers(0, int(ROW_GRID), repetitions, dtype=np.int32),
        np.zeros((repetitions, buckets), dtype=np.int32),
    )


def sketch_from(data: bytes, name: str) -> Sketch:
    """Read a sketch from bytes; errors call it `name`.

    Raises:
        ValueError: they hold no sketch, or are damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as parts:
            if int(parts["format"]) != FORMAT:
                raise SuperfilterError(
                    f"it is of format {int(parts['format'])}, and this version reads {FORMAT}"
                )
            return Sketch(
                float(parts["bandwidth"]), parts["projections"], parts["offsets"], parts["counts"]
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SuperfilterError(
            f"{name!r} holds no sketch of Density, or a damaged one ({error}): make it again"
        ) from error


def auto_bandwidth(sample: np.ndarray) -> float:
    """Take a tenth of the sample's median distance as bandwidth.

    The paper publishes no bandwidth. Far away the kernel falls like `w / distance` only, so that a
    wide one
    gives all rows nearly the same density: at this width a row at the median distance counts for
    0.04 of a duplicate.

    Args:
        sample: (n, d) finite vectors.

    Raises:
        ValueError: all vectors are equal, so that there is no distance to take.
    """
    from scipy.spatial.distance import pdist

    distances = pdist(sample.astype(np.float64))
    apart = distances[distances > 0]
    if not len(apart):
        raise SuperfilterError(
            f"all {len(sample):,} vectors that were looked at are equal: there is no distance to "
            "take a bandwidth from, and density tells nothing about such rows"
        )
    return float(np.median(apart)) * BANDWIDTH_FRACTION


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise SuperfilterError(
            f"{rows:,} rows: a sketch counts {MAX_ROWS:,} at most; sketch a sample of them"
        )
