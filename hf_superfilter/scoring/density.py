"""Density: how crowded it is around a row's embedding, by a sketch that takes two passes over any number of rows."""

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
from ..errors import did_you_mean
from ..runs.store import Store
from ._sketch import Sketch, auto_bandwidth, new_sketch, sketch_from

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "sketch.npz"
SAMPLE = 1_000  # rows that an automatic bandwidth is taken from
BLOCK = 100_000  # rows read at once by `prepare`


@dataclass(frozen=True, repr=False)
class Density(Settings):
    """How many rows lie around a row, `sum_y k(|x - y|)`: low where it is the only one of its kind.

    The kernel k is `collision_probability`: 1 for a duplicate, about `bandwidth / (distance sqrt(2 pi))` far
    away. The sum is estimated by `repetitions` hash functions, in two passes over the rows, with a sketch
    whose size does not depend on their number (`Sketch`). A row counts itself. Sample with
    `InversePropensity`, which takes crowded rows less often. "How to Train Data-Efficient LLMs",
    arXiv 2402.09668, section 3.2.

    `score` runs the first pass (`prepare`) by itself, and keeps `sketch.npz` in the run folder; with `map`
    call `prepare(rows, folder)` before. Give `sketch=` to measure other rows against the rows of a sketch.

    Columns: `density`, float64, in rows, from 1 (alone) to the number of rows (all equal); `density_status`:
    `ok`, or why it is nan: `no_embedding` (no vector, or one of nan alone), `not_finite`.

    Args:
        bandwidth: the width w of a hash cell, in the unit of distances of the embedding; `auto` is a
            tenth of the median distance between 1,000 rows drawn by the seed, and is logged and stands in
            the run's record.
        repetitions, buckets: the size of the sketch, 4 bytes each; the error falls with the square root
            of the repetitions.
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
        if self.bandwidth != "auto" and not (is_number(self.bandwidth) and self.bandwidth > 0):  # type: ignore[operator]
            raise ValueError(f"bandwidth={self.bandwidth!r}: give a distance above 0, or 'auto'")
        for setting in ("repetitions", "buckets"):
            if not is_count(getattr(self, setting)):
                raise ValueError(
                    f"{setting}={getattr(self, setting)!r}: give a whole number, at least 1"
                )
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
        """The columns it reads."""
        return (self.column,)

    def identity(self) -> dict[str, str]:
        """The contents of the sketch, where one is given."""
        return {} if self.sketch is None else {"sketch": _read(self.sketch)[1]}

    def prepare(self, rows: "Dataset", folder: str) -> "Density":
        """The first pass: sketch all rows that have an embedding into a file of the folder.

        Called again it makes the same file again.

        Raises:
            ValueError: no such column, vectors of uneven length, no row with a vector, or all equal.
        """
        if self.sketch is not None:
            return self
        sketch, store = self._sketched(rows), Store(folder)
        with store.file(FILE) as unfinished:
            sketch.save(unfinished)
        logging.getLogger(__name__).info("%s: %r", self.name, sketch)
        return dataclasses.replace(self, sketch=f"{store.folder.rstrip('/')}/{FILE}")

    def provenance(self) -> dict[str, Any]:
        """What a run records: the bandwidth, and how many rows the sketch counts."""
        return {"bandwidth": self._counted().bandwidth, "sketched_rows": self._counted().rows}

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """The second pass: look up a batch of n rows.

        Raises:
            ValueError: `prepare` was not called, no such column, or vectors of another length than the sketch's.
        """
        sketch = self._counted()
        if self.column not in batch:
            raise ValueError(
                f"no column {self.column!r} in the rows: the scorer Embed() adds it; {did_you_mean(self.column, batch)}"
            )
        cells = batch[self.column]
        there = np.array([cell is not None and len(cell) > 0 for cell in cells], dtype=bool)
        status = np.where(there, "ok", "no_embedding").astype(object)
        density = np.full(len(cells), np.nan)
        if there.any():
            vectors = _matrix(
                [cell for cell, is_there in zip(cells, there, strict=True) if is_there], self.column
            )
            finite = np.isfinite(vectors).all(axis=1)
            mine = np.flatnonzero(there)
            density[mine[finite]] = sketch.density(vectors[finite])
            status[mine[~finite]] = "not_finite"
            status[mine[np.isnan(vectors).all(axis=1)]] = (
                "no_embedding"  # what Embed writes for a row without text
            )
        return {self.name: density, f"{self.name}_status": status.tolist()}

    def _sketched(self, rows: "Dataset") -> Sketch:
        """The sketch of all rows that have a finite vector."""
        drawn = np.random.default_rng(self.seed).choice(
            len(rows), min(len(rows), SAMPLE), replace=False
        )
        sample = _defined(vectors_or_nan(rows, drawn, self.column))
        if not len(sample):
            raise ValueError(
                f"none of the {len(drawn):,} rows that were looked at has a vector in {self.column!r}: there is "
                f"nothing to sketch; why stands in '{self.column}_status' where Embed made the column"
            )
        bandwidth = auto_bandwidth(sample) if self.bandwidth == "auto" else float(self.bandwidth)
        sketch = new_sketch(
            sample.shape[1],
            bandwidth,
            repetitions=self.repetitions,
            buckets=self.buckets,
            seed=self.seed,
        )
        for start in range(0, len(rows), BLOCK):
            numbers = np.arange(start, min(start + BLOCK, len(rows)))
            if len(block := _defined(vectors_or_nan(rows, numbers, self.column))):
                sketch.add(block)
        return sketch

    def _counted(self) -> Sketch:
        """The sketch behind this scorer."""
        if self.sketch is None:
            raise ValueError(
                "Density has to see all rows before it scores the first: use score(rows, [Density()], folder), or "
                "Density().prepare(rows, folder), which answers with a scorer for map"
            )
        return _read(self.sketch)[0]


def _defined(vectors: np.ndarray) -> np.ndarray:
    """The rows of a matrix that are finite."""
    return vectors[np.isfinite(vectors).all(axis=1)] if vectors.shape[1] else vectors[:0]


def _matrix(cells: Sequence[Any], column: str) -> np.ndarray:
    """(n, d) float32 of a batch's cells, lists or arrays of numbers; a null in one of them is nan."""
    try:
        vectors = np.array(cells, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"column {column!r} does not hold vectors of one length ({error}): embed all rows with one model"
        ) from error
    if vectors.ndim != 2:
        raise ValueError(
            f"column {column!r} holds {type(cells[0]).__name__}, not vectors: name one that Embed() adds"
        )
    return vectors


def _read(file: str) -> tuple[Sketch, str]:
    """A sketch, and a digest of its file; read again only when the file has changed."""
    folder, _, name = file.rpartition("/")
    store = Store(folder or ".")
    try:
        state = store.path(name).stat() if store.exclusive else None
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no sketch {file!r}: make it with Density().prepare(rows, folder)"
        ) from None
    return _load(file, (state.st_mtime_ns, state.st_size) if state else None)


@lru_cache(maxsize=2)
def _load(file: str, state: tuple[int, int] | None) -> tuple[Sketch, str]:
    folder, _, name = file.rpartition("/")
    data = Store(folder or ".").read(name)
    return sketch_from(data, file), f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
