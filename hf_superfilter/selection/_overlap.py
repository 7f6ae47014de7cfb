"""Find the runs of words that rows share with benchmarks."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..base import Batch, RowScorer
from ..data.sources import load_rows
from ..data.texts import column_blocks, is_text, is_texts, joined_texts, row_texts, words_of
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset

SHORTEST = 8  # words; what is shorter is said by everybody. GPT-3 takes the same


@dataclass(frozen=True, repr=False)
class Overlap(RowScorer):
    """List the benchmarks that each row's text holds.

    The column holds JSON, "" where nothing is hit: for each benchmark that is, its place in
    `against` and the words of the first run in common. Its name tells the settings and the texts of
    the benchmarks.

    Args:
        against, ngram, share, columns, split: as `Decontaminate` takes them.
    """

    against: tuple["str | Dataset", ...]
    ngram: int
    share: float | None
    columns: tuple[str, ...] = ("prompt", "response")
    split: str | None = None

    @cached_property
    def runs(self) -> "Runs":
        """The runs of words of all benchmarks, read once."""
        runs = Runs(self.ngram)
        for source in self.against:
            runs.add(described(source), self._items(source))
        return runs

    @property
    def name(self) -> str:
        """The column, another one for other settings or texts."""
        settings = [self.ngram, self.share, self.columns, self.arithmetic, self.runs.digest]
        return f"overlap_{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"

    def values(self, batch: Batch) -> list[str]:
        """Search a batch of n rows."""
        return [self._hits(text) for text in joined_texts(batch, self.columns)]

    def _hits(self, text: str) -> str:
        """List the benchmarks that a text holds, in the order of `against`."""
        first: dict[int, str] = {}
        for item, words in self.runs.hits(words_of(text), self.share):
            first.setdefault(self.runs.sources[item], words)
        return json.dumps(sorted(first.items())) if first else ""

    def _items(self, source: "str | Dataset") -> Iterator[list[str]]:
        """Yield the words of each cell of text of a data set."""
        rows: Any = source
        if isinstance(source, str):
            is_file = Path(source).expanduser().is_file()
            rows = load_rows(source, split=None if is_file else self.split)
        every = np.arange(len(rows))
        for column, feature in rows.features.items():
            if is_text(feature) or is_texts(feature):
                texts = row_texts(rows, every, [column])
            else:
                texts = _nested_texts(rows, column)
            yield from map(words_of, texts)


def described(source: "str | Dataset") -> str:
    """Name a data set, or say what is in a Dataset."""
    if isinstance(source, str):
        return source
    return f"<rows: {len(source):,}, columns: {', '.join(source.column_names)}>"


def _nested_texts(rows: "Dataset", column: str) -> Iterator[str]:
    """Yield every text within the cells of a column, as of messages or answers."""
    for cells in column_blocks(rows, column):
        if pa.types.is_nested(cells.type):
            for cell in cells.to_pylist():
                yield from _texts_in(cell)


def _texts_in(cell: Any) -> Iterator[str]:
    """Yield the texts of a cell, at any depth."""
    if isinstance(cell, str):
        yield cell
    elif isinstance(cell, (dict, list)):
        for part in cell.values() if isinstance(cell, dict) else cell:
            yield from _texts_in(part)


@dataclass
class Runs:
    """Index the runs of words of benchmarks.

    Attributes:
        sources: (items,) the number of the data set of each.
        sizes: (items,) different runs of each.
        items: words of a run -> the items that have it.
        starts: the first words of a run -> the lengths of the runs that begin so.
        short: items too short to look for.
        benchmarks: data sets added.
        digest: of all their words.
    """

    ngram: int
    sources: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    items: dict[str, list[int]] = field(default_factory=dict)
    starts: dict[str, set[int]] = field(default_factory=dict)
    short: int = 0
    benchmarks: int = 0
    digest: str = ""

    @property
    def least(self) -> int:
        """Words of the shortest run."""
        return min(SHORTEST, self.ngram)

    def add(self, source: str, texts: Iterator[list[str]]) -> None:
        """Add the items of a data set, each a list of words."""
        before = len(self.sources)
        digest = hashlib.sha256(self.digest.encode())
        for words in texts:
            digest.update(f"{' '.join(words)}\n".encode("utf-8", "surrogatepass"))
            if len(words) < self.least:
                self.short += 1
                continue
            length = min(self.ngram, len(words))
            runs = set()
            for start in range(len(words) - length + 1):
                run = _run(words, start, length)
                self.starts.setdefault(_run(words, start, self.least), set()).add(length)
                if run not in runs:
                    self.items.setdefault(run, []).append(len(self.sources))
                runs.add(run)
            self.sources.append(self.benchmarks)
            self.sizes.append(len(runs))
        if len(self.sources) == before:
            raise SuperfilterError(
                f"{source!r} has no text of {self.least} words or more: there is nothing to look "
                "for; name a data set with questions or answers in columns of text"
            )
        self.benchmarks += 1
        self.digest = digest.hexdigest()

    def hits(self, words: Sequence[str], share: float | None) -> list[tuple[int, str]]:
        """List the items that a text holds, each with a run that both have."""
        common: dict[int, str] = {}  # item -> the first run in common
        counts: Counter[int] = Counter()
        for run in self._known_runs(words):
            for item in self.items[run]:
                common.setdefault(item, run)
                counts[item] += 1
        if share is None:
            return list(common.items())
        return [
            (item, run) for item, run in common.items() if counts[item] >= share * self.sizes[item]
        ]

    def _known_runs(self, words: Sequence[str]) -> dict[str, None]:
        """List the different runs of a text that are in the index, in their order.

        Few beginnings are those of a run, so most places cost one look-up.
        """
        runs: dict[str, None] = {}
        for start in range(len(words) - self.least + 1):
            for length in self.starts.get(_run(words, start, self.least), ()):
                run = _run(words, start, length)
                if run in self.items and start + length <= len(words):
                    runs[run] = None
        return runs


def _run(words: Sequence[str], start: int, length: int) -> str:
    return " ".join(words[start : start + length])
