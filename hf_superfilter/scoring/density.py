"""Estimate how crowded it is around each embedding (arXiv 2402.09668)."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns, Settings
from ..checks import check_name, check_seed, check_vector_column, is_count, is_number, plain_numbers
from ..data.columns import vectors_or_nan
from ..errors import NotFoundError, SuperfilterError, did_you_mean
from ..runs.store import Store
from ._rows import takes_rows
from ._sketch import Sketch, auto_bandwidth, new_sketch, sketch_from

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "sketch.npz"
SAMPLED_ROWS = 1_000  # that an automatic bandwidth is taken from
BLOCK_ROWS = 100_000  # read at once by `prepare`
logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Density(Settings):
    """Estimate how many rows lie around a row.

    `density(x) = sum_y k(|x - y|)` over all rows y, x itself among them: low where a row is the
    only one of its kind. The kernel k is `collision_probability`: 1 for a duplicate, about
    `bandwidth / (distance sqrt(2 pi))` far away. The sum is estimated by `repetitions` hash
    functions, in two passes over the rows, with a sketch whose size does not depend on their number
    (`Sketch`). Sample with `InversePropensity`, which takes crowded rows less often. "How to Train
    Data-Efficient LLMs", arXiv 2402.09668, section 3.2.

    `score` runs the first pass (`prepare`) by itself, and keeps `sketch.npz` in the run folder;
    with `map` call `prepare(rows, folder)` before. Give `sketch=` to measure other rows against the
    rows of a sketch.

    Columns: `density`, float64, in rows, from 1 (alone) to the number of rows (all equal);
    `density_status`:
    `ok`, or why it is nan: `no_embedding` (no vector, or one of nan alone), `not_finite`.

    Args:
        bandwidth: the width w of a hash cell, in the unit of distances of the embedding; `auto` is
            a tenth of the median distance between 1,000 rows drawn by the seed, and is logged and
            stands in the run's manifest.
        repetitions, buckets: the size of the sketch, 4 bytes each; the error falls with the square
            root of the repetitions.
        seed: of the hash functions and of the rows behind an automatic bandwidth.
        column: the embeddings, lists of numbers of one length, as `Embed` adds them.
        sketch: the file of a sketch made before, which settles the four settings above it.
        name: prefix of the columns.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Density, score
        >>> rows = Dataset.from_dict({"embedding": [[0.0, 1.0]] * 3 + [[1.0, 0.0]]})
        >>> [round(x) for x in score(rows, [Density(bandwidth=0.001)], "runs/density")["density"]]
        [3, 3, 3, 1]
    """

    bandwidth: float | str = "auto"
    _: KW_ONLY
    repetitions: int = 1_000
    buckets: int = 20_000
    seed: int = 0
    column: str = "embedding"
    sketch: str | None = None
    name: str = "density"

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "bandwidth", "repetitions", "buckets", "seed")
        width: Any = self.bandwidth
        if width != "auto" and not (is_number(width) and width > 0):
            raise SuperfilterError(f"bandwidth={width!r}: give a distance above 0, or 'auto'")
        for setting in ("repetitions", "buckets"):
            value = getattr(self, setting)
            if not is_count(value):
                raise SuperfilterError(f"{setting}={value!r}: give a whole number, at least 1")
        check_seed(self.seed)
        check_vector_column(self.column)
        if self.sketch is not None:
            object.__setattr__(self, "sketch", str(self.sketch))
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    @property
    def columns(self) -> tuple[str]:
        """The columns that it reads."""
        return (self.column,)

    def identity(self) -> dict[str, str]:
        """Return a digest of the sketch, {} where none is given."""
        if self.sketch is None:
            return {}
        return {"sketch": _read(self.sketch)[1]}

    def prepare(self, rows: "Dataset", folder: str) -> "Density":
        """Sketch all embeddings into a file of the folder.

        This is the first pass. Called again it writes the same file again.

        Raises:
            ValueError: no such column, vectors of uneven length, no row with a vector, or all
                equal.
        """
        if self.sketch is not None:
            return self
        sketch = self._sketch_rows(rows)
        store = Store(folder)
        with store.file(FILE) as unfinished:
            sketch.save(unfinished)
        logger.info("%s: %r", self.name, sketch)
        return dataclasses.replace(self, sketch=f"{store.folder.rstrip('/')}/{FILE}")

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return the bandwidth and the rows in the sketch."""
        sketch = self._load_sketch()
        return {"bandwidth": sketch.bandwidth, "sketched_rows": sketch.rows}

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Look up a batch of n rows: the second pass.

        Raises:
            ValueError: `prepare` was not called, no such column, or vectors of another length than
                the sketch's.
        """
        sketch = self._load_sketch()
        if self.column not in batch:
            suggestion = did_you_mean(self.column, batch)
            raise SuperfilterError(
                f"no column {self.column!r} in the rows: the scorer Embed() adds it; {suggestion}"
            )
        cells = batch[self.column]
        embedded = [row for row, cell in enumerate(cells) if cell is not None and len(cell)]
        status = np.full(len(cells), "no_embedding", dtype=object)
        density = np.full(len(cells), np.nan)
        if embedded:
            rows = np.array(embedded)
            vectors = _matrix([cells[row] for row in embedded], self.column)
            finite = np.isfinite(vectors).all(axis=1)
            # A row without text has a vector of nan from Embed: it keeps `no_embedding`.
            damaged = ~finite & ~np.isnan(vectors).all(axis=1)
            density[rows[finite]] = sketch.density(vectors[finite])
            status[rows[finite]] = "ok"
            status[rows[damaged]] = "not_finite"
        return {self.name: density, f"{self.name}_status": status.tolist()}

    def _sketch_rows(self, rows: "Dataset") -> Sketch:
        """Sketch all rows that have a finite vector."""
        rng = np.random.default_rng(self.seed)
        drawn = rng.choice(len(rows), min(len(rows), SAMPLED_ROWS), replace=False)
        sample = _finite_rows(vectors_or_nan(rows, drawn, self.column))
        if not len(sample):
            raise SuperfilterError(
                f"none of the {len(drawn):,} rows that were looked at has a vector in "
                f"{self.column!r}: there is nothing to sketch; '{self.column}_status' gives the "
                "reason where Embed made the column"
            )
        automatic = self.bandwidth == "auto"
        bandwidth = auto_bandwidth(sample) if automatic else float(self.bandwidth)
        sketch = new_sketch(
            sample.shape[1],
            bandwidth,
            repetitions=self.repetitions,
            buckets=self.buckets,
            seed=self.seed,
        )
        for start in range(0, len(rows), BLOCK_ROWS):
            numbers = np.arange(start, min(start + BLOCK_ROWS, len(rows)))
            block = _finite_rows(vectors_or_nan(rows, numbers, self.column))
            if len(block):
                sketch.add(block)
        return sketch

    def _load_sketch(self) -> Sketch:
        if self.sketch is None:
            raise SuperfilterError(
                "Density has to see all rows before it scores the first: use score(rows, "
                "[Density()], folder), or Density().prepare(rows, folder), which returns a scorer "
                "for map"
            )
        return _read(self.sketch)[0]


def _finite_rows(vectors: np.ndarray) -> np.ndarray:
    """Return the finite rows of a matrix."""
    if not vectors.shape[1]:
        return vectors[:0]
    finite = np.isfinite(vectors).all(axis=1)
    return np.asarray(vectors[finite])


def _matrix(cells: Sequence[Any], column: str) -> np.ndarray:
    """Stack cells as (n, d) float32; a null number is nan."""
    try:
        vectors = np.array(cells, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise SuperfilterError(
            f"column {column!r} does not hold vectors of one length ({error}): embed all rows with "
            "one model"
        ) from error
    if vectors.ndim != 2:
        kind = type(cells[0]).__name__
        raise SuperfilterError(
            f"column {column!r} holds {kind}, not vectors: name one that Embed() adds"
        )
    return vectors


def _read(file: str) -> tuple[Sketch, str]:
    """Read a sketch and its digest, again when the file changed."""
    folder, _, name = file.rpartition("/")
    store = Store(folder or ".")
    version = None
    if store.exclusive:
        try:
            state = store.path(name).stat()
        except FileNotFoundError:
            raise NotFoundError(
                f"no sketch {file!r}: make it with Density().prepare(rows, folder)"
            ) from None
        version = state.st_mtime_ns, state.st_size
    return _load(file, version)


@lru_cache(maxsize=2)
def _load(file: str, version: tuple[int, int] | None) -> tuple[Sketch, str]:
    """Load a file; `version` is a part of the cache's key only."""
    folder, _, name = file.rpartition("/")
    data = Store(folder or ".").read(name)
    return sketch_from(data, file), f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
