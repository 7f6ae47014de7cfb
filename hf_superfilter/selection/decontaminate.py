"""Drop rows that hold the text of a benchmark."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import is_count, is_number, plain_numbers
from ..data.sources import load_rows
from ..data.texts import check_text_columns, is_text, is_texts, row_texts, words_of
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from datasets import Dataset

SHORTEST = 8  # words; what is shorter is said by everybody. GPT-3 takes the same
LISTED = 3  # hits that the funnel shows


@dataclass(frozen=True, repr=False)
class Decontaminate(Settings):
    """Keep rows that share no long run of words with benchmarks.

    Every cell of text of a benchmark with at least 8 words is one item. A row is dropped where it
    holds a run of `ngram` words of an item, as for GPT-3 (arXiv 2005.14165, appendix C), or with
    `share` at least that share of an item's different runs: PaLM (arXiv 2204.02311, section 8) and
    others after it take runs of 8 words and 0.7. An item of 8 to `ngram` words is one run, all of
    it. Words are as in `NearDuplicates`; no hash stands for a run, so every hit is one.

    Time is linear in the words of the rows; memory holds the runs of the benchmarks, some 400 bytes
    each, and no rows.

    The funnel shows how many rows each benchmark hits and the first hits with their words; items
    that are too short to be looked for are counted.

    Args:
        against: data sets, each a file, a folder or a Hub id as `load_rows` takes them.
        ngram: words of a run.
        share: of an item's runs, above 0 and at most 1; None drops a row for a single run.
        columns: texts of the rows that are searched.
        split: of those data sets that are no single file.

    Raises (when it is called):
        SuperfilterError: a data set that cannot be read, or that has no item of 8 words; a column
            that is missing.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Decontaminate, embedded_sample, load_rows, select
        >>> copied = load_rows("embedded:sample")["output"][0]
        >>> table = Dataset.from_dict({"text": [f"Well: {copied}", "Quite another text."]})
        >>> selection = select(table, Decontaminate(["embedded:sample"], columns=["text"]))
        >>> selection.rows.tolist(), selection.steps[0].facts["rows hit"]
        ([1], 1)
    """

    against: tuple[str, ...]
    _: KW_ONLY
    ngram: int = 13
    share: float | None = None
    columns: tuple[str, ...] = ("prompt", "response")
    split: str | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "ngram", "share")
        object.__setattr__(self, "against", _check_sources(self.against))
        object.__setattr__(self, "columns", check_text_columns(self.columns))
        if not is_count(self.ngram, 2):
            raise SuperfilterError(f"ngram={self.ngram!r}: give a number of words, at least 2")
        is_share = is_number(self.share) and 0 < self.share <= 1  # type: ignore[operator]
        if self.share is not None and not is_share:
            raise SuperfilterError(
                f"share={self.share!r}: give a share of an item's runs, above 0 and at most 1, or "
                "leave it out"
            )
        if self.split is not None and not isinstance(self.split, str):
            raise SuperfilterError(f"split={self.split!r}: name a split, such as 'test'")

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows without a hit, in the pool's order, and the hits."""
        runs = _Runs(self.ngram)
        for source in self.against:
            runs.add(source, self._items(source))
        is_clean = np.ones(len(pool), dtype=bool)
        rows_hit: Counter[str] = Counter()
        examples: list[str] = []
        for place, text in enumerate(row_texts(table, pool, self.columns)):
            hits = runs.hits(words_of(text), self.share)
            is_clean[place] = not hits
            rows_hit.update({runs.sources[item] for item, _ in hits})
            if hits and len(examples) < LISTED:
                item, words = hits[0]
                examples.append(f"row {pool[place]} with {runs.sources[item]}: {words!r}")
        facts: dict[str, Any] = {"rows hit": int(np.count_nonzero(~is_clean))}
        if rows_hit:
            facts["by benchmark"] = ", ".join(f"{name} {rows_hit[name]:,}" for name in rows_hit)
            facts["first hits"] = "; ".join(examples)
        facts["benchmark texts"] = f"{len(runs.sources):,}, {runs.short:,} too short to look for"
        return Kept(pool[is_clean], facts)

    def _items(self, source: str) -> Iterator[list[str]]:
        """Yield the words of each cell of text of a data set."""
        path = Path(source).expanduser()
        rows = load_rows(source, split=None if path.is_file() else self.split)
        every = np.arange(len(rows))
        for column, feature in rows.features.items():
            if is_text(feature) or is_texts(feature):
                for text in row_texts(rows, every, [column]):
                    yield words_of(text)


@dataclass
class _Runs:
    """Index the runs of words of benchmarks.

    Attributes:
        sources: (items,) the data set of each.
        sizes: (items,) different runs of each.
        items: words of a run -> the items that have it.
        starts: the first words of a run -> the lengths of the runs that begin so.
        short: items too short to look for.
    """

    ngram: int
    sources: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    items: dict[str, list[int]] = field(default_factory=dict)
    starts: dict[str, set[int]] = field(default_factory=dict)
    short: int = 0

    @property
    def least(self) -> int:
        """Words of the shortest run."""
        return min(SHORTEST, self.ngram)

    def add(self, source: str, texts: Iterator[list[str]]) -> None:
        """Add the items of a data set, each a list of words."""
        before = len(self.sources)
        name = Path(source).name
        for words in texts:
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
            self.sources.append(name)
            self.sizes.append(len(runs))
        if len(self.sources) == before:
            raise SuperfilterError(
                f"{source!r} has no text of {self.least} words or more: there is nothing to look "
                "for; name a data set with questions or answers in columns of text"
            )

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


def _check_sources(against: Any) -> tuple[str, ...]:
    """Check the names of data sets; YAML hands over a list."""
    listed = isinstance(against, (list, tuple)) and len(against) > 0
    if not listed or not all(isinstance(name, (str, Path)) and str(name) for name in against):
        raise SuperfilterError(
            f"against={against!r}: list data sets, each a file, a folder or a Hub id, such as "
            "['gsm8k_test.jsonl']"
        )
    return tuple(str(name) for name in against)
