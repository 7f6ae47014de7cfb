"""Combine several columns into one by their ranks."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns, CountedColumns, Settings
from ..checks import check_column, check_name, is_number, plain_number
from ..data.columns import numbers_of, shares_below
from ..errors import SuperfilterError, did_you_mean
from ..runs.store import Store
from ._rows import takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "values.npz"


@dataclass(frozen=True, repr=False)
class Combine(Settings):
    """Score a row by the weighted mean of its ranks in several columns.

    `combined = sum_c |w_c| r_c / sum_c |w_c|`, r_c the share of rows with a smaller value in column
    c, rows of the same value counted half; 1 - r_c where the weight is below 0, so that small
    values are the better ones. From 0 (worst in all) to 1; ranks do not care for the units of a
    column or for outliers. DEITA (arXiv 2312.15685) multiplies complexity by quality, which ranks
    rows alike where the two have the same spread.

    `score` reads all values first (`prepare`) and keeps them sorted in the run folder; with `map`
    call `prepare(rows, folder)` before.

    Columns: `combined`, float64, from 0 to 1; `combined_status`, `ok`, or why it is nan:
    `no_<column>`, the first column that has no value in the row. A run counts those rows.

    Args:
        weights: numeric column -> weight, above 0 where large values are better, else below.
        ranks: the file of sorted values made before.
        name: prefix of the columns.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Combine, score
        >>> rows = Dataset.from_dict({"ifd": [0.1, 0.9, 0.5], "ppl": [9.0, 7.0, 8.0]})
        >>> combined = score(rows, [Combine({"ifd": 1, "ppl": -1})], "runs/combined")["combined"]
        >>> [round(value, 3) for value in combined]
        [0.167, 0.833, 0.5]
    """

    weights: Mapping[str, float]
    _: KW_ONLY
    ranks: str | None = None
    name: str = "combined"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise SuperfilterError(
                f"weights={self.weights!r}: give columns and their weights, such as "
                "{'ifd': 1, 'quality': 2}"
            )
        weights = {}
        for column, weight in self.weights.items():
            check_column(column)
            number = plain_number(weight)
            if not is_number(number) or number == 0:
                raise SuperfilterError(
                    f"weights={self.weights!r}: the weight of {column!r} is {weight!r}; give a "
                    "number above or below 0"
                )
            weights[column] = number
        object.__setattr__(self, "weights", weights)
        if self.ranks is not None:
            object.__setattr__(self, "ranks", str(self.ranks))
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return tuple(self.weights)

    def identity(self) -> dict[str, str]:
        """Return a digest of the values, {} where none are given."""
        if self.ranks is None:
            return {}
        folder, _, name = self.ranks.rpartition("/")
        digest = hashlib.sha256(Store(folder or ".").read(name)).hexdigest()
        return {"ranks": f"sha256:{digest[:16]}"}

    def prepare(self, rows: "Dataset", folder: str) -> "Combine":
        """Sort the values of each column into a file of the folder.

        Raises:
            SuperfilterError: a column that is missing, is not numeric or has no value at all.
        """
        if self.ranks is not None:
            return self
        values = []
        for column in self.weights:
            numbers = numbers_of(rows, column)
            values.append(np.sort(numbers[~np.isnan(numbers)]))
            if not len(values[-1]):
                raise SuperfilterError(
                    f"column {column!r} has no value in any of the {len(rows):,} rows: there is "
                    "nothing to rank by; take it out of weights"
                )
        store = Store(folder)
        with store.file(FILE) as unfinished, unfinished.open("wb") as file:
            np.savez(file, *values)
        _read.cache_clear()  # the file may hold the values of other rows by now
        return dataclasses.replace(self, ranks=f"{store.folder.rstrip('/')}/{FILE}")

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Combine the columns of a batch of n rows.

        Raises:
            SuperfilterError: `prepare` was not called, or a column is missing.
        """
        if self.ranks is None:
            raise SuperfilterError(
                "Combine has to see all rows before it scores the first: use score(rows, "
                "[..., Combine(weights)], folder), or Combine(weights).prepare(rows, folder), "
                "which returns a scorer for map"
            )
        sorted_values = _read(self.ranks)
        total = sum(abs(weight) for weight in self.weights.values())
        combined: Any = 0.0
        status: Any = None
        counts = {}
        for (column, weight), ordered in zip(self.weights.items(), sorted_values, strict=True):
            if column not in batch:
                raise SuperfilterError(
                    f"no column {column!r} in the rows: {did_you_mean(column, batch)}"
                )
            values = np.array(batch[column], dtype=float)  # None is nan
            share = shares_below(values, ordered)
            combined = combined + abs(weight) / total * (share if weight > 0 else 1 - share)
            if status is None:
                status = np.full(len(values), "ok", dtype=object)
            missing = np.isnan(values)
            status[missing & (status == "ok")] = f"no_{column}"
            counts[f"rows without a value in {column!r}"] = int(missing.sum())
        scores = {self.name: combined, f"{self.name}_status": status.tolist()}
        return CountedColumns(scores, counts)


@lru_cache(maxsize=2)
def _read(file: str) -> list[np.ndarray]:
    """Read the sorted values of each column, in the order of the weights."""
    folder, _, name = file.rpartition("/")
    with np.load(io.BytesIO(Store(folder or ".").read(name))) as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays))]
