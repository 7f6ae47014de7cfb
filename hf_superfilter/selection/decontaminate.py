"""Drop rows that hold the text of a benchmark."""

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import is_count, is_number, plain_numbers
from ..data.texts import check_text_columns
from ..errors import SuperfilterError
from ._overlap import Overlap, described
from ._rows import row_values

if TYPE_CHECKING:
    from datasets import Dataset

LISTED = 3  # hits that the funnel shows


@dataclass(frozen=True, repr=False)
class Decontaminate(Settings):
    """Keep rows that share no long run of words with benchmarks.

    Every text in a benchmark's cells with at least 8 words is one item, and so is a list of texts,
    joined; those in messages and other nested cells are looked for too. A row is dropped where it
    holds a run of `ngram` words of an item, as for GPT-3 (arXiv 2005.14165, appendix C), or with
    `share` at least that share of an item's different runs: PaLM (arXiv 2204.02311, section 8) and
    others after it take runs of 8 words and 0.7. An item of 8 to `ngram` words is one run, all of
    it. Words are as in `NearDuplicates`; no hash stands for a run, so every hit is one.

    Time is linear in the words of the rows; memory holds the runs of the benchmarks, some 400 bytes
    each, and no rows. A recipe's run searches on all its processes and keeps the hits in the run
    folder; in Python `score(rows, [IFD(model), clean.row_scorer()], folder)` does the same: the
    selector reads the column.

    The funnel shows how many rows each benchmark hits and the first hits with their words; items
    that are too short to be looked for are counted.

    Args:
        against: data sets, each a Dataset, or a file, a folder or a Hub id as `load_rows` takes
            them. A recipe can hold names only.
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

    against: tuple["str | Dataset", ...]
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
        scorer = self.row_scorer()
        names = self._names()
        is_clean = np.ones(len(pool), dtype=bool)
        rows_hit = np.zeros(len(names), dtype=np.int64)
        examples: list[str] = []
        for place, cell in enumerate(chain.from_iterable(row_values(table, pool, scorer))):
            if not cell:
                continue
            is_clean[place] = False
            hits = json.loads(cell)
            rows_hit[[number for number, _ in hits]] += 1
            if len(examples) < LISTED:
                number, words = hits[0]
                examples.append(f"row {pool[place]} with {names[number]}: {words!r}")
        facts: dict[str, Any] = {"rows hit": int(np.count_nonzero(~is_clean))}
        if examples:
            facts["by benchmark"] = ", ".join(
                f"{names[number]} {rows_hit[number]:,}" for number in np.flatnonzero(rows_hit)
            )
            facts["first hits"] = "; ".join(examples)
        runs = scorer.runs
        facts["benchmark texts"] = f"{len(runs.sources):,}, {runs.short:,} too short to look for"
        return Kept(pool[is_clean], facts)

    def row_scorer(self) -> Overlap:
        """Return what searches each row; the benchmarks are read when it is first used."""
        return Overlap(self.against, self.ngram, self.share, self.columns, self.split)

    @property
    def is_writable(self) -> bool:
        """Whether a recipe can hold it: not where a Dataset is given."""
        return all(isinstance(source, str) for source in self.against)

    def settings(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, Datasets in words."""
        return {**super().settings(), "against": tuple(map(described, self.against))}

    def _names(self) -> list[str]:
        """Name the benchmarks by their files, or in full where two files have one name."""
        full = [described(source) for source in self.against]
        names = [Path(name).name for name in full]
        return names if len(set(names)) == len(names) else full


def _check_sources(against: Any) -> tuple["str | Dataset", ...]:
    """Check data sets and their names; YAML hands over a list."""
    from datasets import Dataset

    listed = isinstance(against, (list, tuple)) and len(against) > 0
    sources = list(against) if listed else [against]
    for source in sources:
        is_name = isinstance(source, (str, Path)) and str(source)
        if not listed or not (is_name or isinstance(source, Dataset)):
            seen = repr(source) if isinstance(source, (str, Path, list)) else type(source).__name__
            hint = ": pick a split, dataset['test']" if isinstance(source, Mapping) else ""
            seen = f"[{seen}]" if listed else seen
            raise SuperfilterError(
                f"against={seen}{hint}: list data sets, each a Dataset, a file, a folder or a Hub "
                "id, such as ['gsm8k_test.jsonl']"
            )
    return tuple(source if isinstance(source, Dataset) else str(source) for source in sources)
