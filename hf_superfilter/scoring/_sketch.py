"""How many rows lie near a point, for any number of rows: a locality-sensitive-hash kernel-density sketch."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 8_192  # rows hashed at once
REPETITIONS = 64  # repetitions hashed at once: with a block of rows, 4 MB of cells
FORMAT = 1
# Projections are multiples of 2^-12 and rows, in bandwidths, of 2^-20. Then every sum of products is exact in float64,
# and a row falls into the same cells whatever block, thread or machine computes them.
PROJECTION_GRID, ROW_GRID = 2.0**12, 2.0**20
FARTHEST = (
    2.0**30
)  # bandwidths from the origin: beyond, a place along a projection is no longer a number to rely on
FRACTION = 0.1  # of the median distance: the automatic bandwidth
MOST_ROWS = 2**31 - 1  # that an int32 cell can count


def collision_probability(distance: np.ndarray | float, bandwidth: float) -> np.ndarray:
    """The kernel that the sketch estimates: how likely one hash puts two points at a distance into one cell.

    `k(c) = 1 - 2 Phi(-w/c) - (2c / (sqrt(2 pi) w)) (1 - exp(-w^2 / (2 c^2)))` for the distance c and the
    bandwidth w, Phi the normal distribution function: 1 at c = 0, falling, and close to `w / (c sqrt(2 pi))`
    far away. Datar et al., Locality-Sensitive Hashing Scheme Based on p-Stable Distributions, SCG 2004, section 3.2.

    Example:
        >>> collision_probability([0.0, 1.0, 10.0], bandwidth=1.0).round(4).tolist()
        [1.0, 0.3687, 0.0399]
    """
    from scipy.special import erf

    ratio = bandwidth / np.maximum(np.asarray(distance, dtype=np.float64), bandwidth * 1e-100)
    return erf(ratio / math.sqrt(2)) + 2 / (math.sqrt(2 * math.pi) * ratio) * np.expm1(
        -(ratio**2) / 2
    )


@dataclass(frozen=True, eq=False)
class Sketch:
    """Counts of rows in R x B cells, and the R hash functions that put a row into one cell each.

    `h_r(x) = floor((a_r . x + b_r) / w) mod B`, a ~ N(0, I), b ~ U[0, w), the remainder never negative. The mean
    over r of the counts in the cells of x estimates `sum_y k(|x - y|)`, k the `collision_probability`. Its size
    does not depend on the number of rows: 80 MB of int32 for the paper's R = 1,000 and B = 20,000. The remainder
    lets rows that lie B bandwidths or more apart along a projection meet by chance; where w is a tenth of the
    usual distance that is 2,000 such distances, so that B may well be smaller. arXiv 2402.09668, section 3.2.

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
        """How many rows were counted."""
        return int(self.counts[0].sum(dtype=np.int64))

    @property
    def dimensions(self) -> int:
        """The length of the vectors."""
        return self.projections.shape[1]

    def add(self, vectors: np.ndarray) -> None:
        """Count (n, d) finite vectors: the first pass.

        Raises:
            ValueError: vectors of another length, or more rows in all than a cell can count.
        """
        if self.rows + len(vectors) > MOST_ROWS:
            raise ValueError(f"a sketch counts {MOST_ROWS:,} rows at most: sketch a sample of them")
        buckets = self.counts.shape[1]
        for block in self._blocks(vectors):
            for first, cells in self._cells(block):
                for repetition, mine in enumerate(cells, start=first):
                    self.counts[repetition] += np.bincount(mine, minlength=buckets).astype(np.int32)

    def density(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) float64 mean count of the cells that (n, d) finite vectors fall into: the second pass.

        A row that was counted counts itself, so that its density is 1 at least.

        Raises:
            ValueError: vectors of another length.
        """
        parts = [np.zeros(0)]
        for block in self._blocks(vectors):
            total = np.zeros(len(block), dtype=np.int64)
            for first, cells in self._cells(block):
                mine = self.counts[first : first + len(cells)]
                total += np.take_along_axis(mine, cells, axis=1).sum(axis=0, dtype=np.int64)
            parts.append(total / len(self.counts))
        return np.concatenate(parts)

    def __add__(self, other: "Sketch") -> "Sketch":
        """The sketch of both their rows, exactly: sketches made on many machines add up to one.

        Raises:
            ValueError: the two do not share bandwidth, projections and size, or count too many rows together.
        """
        if (
            self.bandwidth != other.bandwidth
            or self.counts.shape != other.counts.shape
            or not np.array_equal(self.projections, other.projections)
            or not np.array_equal(self.offsets, other.offsets)
        ):
            raise ValueError(
                f"two sketches of different hash functions cannot be added: {self} and {other}"
            )
        if self.rows + other.rows > MOST_ROWS:
            raise ValueError(f"a sketch counts {MOST_ROWS:,} rows at most: sketch a sample of them")
        return Sketch(self.bandwidth, self.projections, self.offsets, self.counts + other.counts)

    def __repr__(self) -> str:
        """What it is of."""
        repetitions, buckets = self.counts.shape
        return (
            f"<Sketch of {self.rows:,} rows of {self.dimensions} numbers: bandwidth {self.bandwidth:.6g}, "
            f"{repetitions:,} repetitions, {buckets:,} buckets>"
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
        """The vectors in blocks; those of another length are refused."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise ValueError(
                f"vectors of shape {vectors.shape} for a sketch of {self.dimensions} numbers a row: "
                "embed all rows with one model"
            )
        return [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]

    def _cells(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """`(first repetition, (some, n) int64 cells)` for a block of n rows, a few repetitions at a time."""
        columns = np.rint(block.astype(np.float64) * (ROW_GRID / self.bandwidth)).T / ROW_GRID
        if len(block) and (longest := np.abs(columns).max()) > FARTHEST:
            raise ValueError(
                f"a vector holds {longest * self.bandwidth:.3g}, {longest:.3g} times the bandwidth of "
                f"{self.bandwidth:.3g}: choose a larger bandwidth, or drop the vector"
            )
        for first in range(0, len(self.counts), REPETITIONS):
            some = slice(first, first + REPETITIONS)
            places = (self.projections[some] / PROJECTION_GRID) @ columns
            places += self.offsets[some, None] / ROW_GRID
            yield (
                first,
                np.remainder(np.floor(places, out=places).astype(np.int64), self.counts.shape[1]),
            )


def new_sketch(
    dimensions: int,
    bandwidth: float,
    *,
    repetitions: int = 1_000,
    buckets: int = 20_000,
    seed: int = 0,
) -> Sketch:
    """An empty sketch for vectors of some length; equal arguments give equal hash functions."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((repetitions, dimensions)) * PROJECTION_GRID
    limit = np.iinfo(np.int16).max  # 8 standard deviations
    return Sketch(
        bandwidth,
        np.rint(np.clip(normal, -limit, limit)).astype(np.int16),
        rng.integers(0, int(ROW_GRID), repetitions, dtype=np.int32),
        np.zeros((repetitions, buckets), dtype=np.int32),
    )


def load_sketch(path: str | Path) -> Sketch:
    """Read what `Sketch.save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no sketch, or is damaged.
    """
    return sketch_from(Path(path).read_bytes(), str(path))


def sketch_from(data: bytes, name: str) -> Sketch:
    """The sketch in the bytes of a file; `name` is what an error calls it.

    Raises:
        ValueError: they hold no sketch, or are damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as parts:
            if int(parts["format"]) != FORMAT:
                raise ValueError(
                    f"it is of format {int(parts['format'])}, and this version reads {FORMAT}"
                )
            return Sketch(
                float(parts["bandwidth"]), parts["projections"], parts["offsets"], parts["counts"]
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{name!r} holds no sketch of Density, or a damaged one ({error}): make it again"
        ) from error


def auto_bandwidth(sample: np.ndarray) -> float:
    """A tenth of the median distance between different vectors of a (n, d) sample.

    The paper publishes no bandwidth. Far away the kernel falls like `w / distance` only, so that a wide one gives
    all rows nearly the same density: at this width a row at the median distance counts for 0.04 of a duplicate.

    Raises:
        ValueError: all vectors are equal, so that there is no distance to take.
    """
    from scipy.spatial.distance import pdist

    distances = pdist(sample.astype(np.float64))
    apart = distances[distances > 0]
    if not len(apart):
        raise ValueError(
            f"all {len(sample):,} vectors that were looked at are equal: there is no distance to take a bandwidth "
            "from, and density tells nothing about such rows"
        )
    return float(np.median(apart)) * FRACTION
