"""Keep one row of each group of near-duplicates."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..base import Kept, Settings
from ..checks import check_column, check_switch, is_count, is_number, plain_numbers
from ..data.columns import best_first
from ..data.texts import check_text_columns, row_texts, word_ngrams
from ..errors import SuperfilterError
from ._budget import check_budget, count_of, shortfall_of
from ._rows import row_values
from ._signatures import DIGEST_NUMBERS, Signatures, band_size

if TYPE_CHECKING:
    from datasets import Dataset

LEAST = 0.05  # smaller thresholds would need more minima
LISTED = 3  # groups and rows of each that the funnel shows


@dataclass(frozen=True, repr=False)
class NearDuplicates(Settings):
    """Keep rows unlike every better row, best first.

    Rows stand in order, best first. A row is dropped where a kept row before it has the same text,
    or word n-grams A, B with a Jaccard similarity `|A & B| / |A | B|` of at least `threshold`; so
    of a group of duplicates the best stays. Candidates are found by MinHash signatures of 128
    minima in bands (LSH; Broder, 1997; Lee et al., arXiv 2107.06499, appendix A), and each is then
    compared by its true similarity: no row is dropped for an estimate, and a pair at the threshold
    is missed with a chance of at most 2%, a closer one with a smaller chance.

    Words are runs of letters and digits in lower case, whatever their width and however their
    accents are coded; characters of Chinese, Japanese, Korean, Thai, Lao, Burmese and Khmer count
    singly. A text with fewer than `ngram` words is one n-gram.

    Time is linear in the rows where few pairs lie close below the threshold. Memory is 8 bytes a
    row for each band, of which there are 25 at 0.7, and for the rows that share a band with another
    as much again and 4 bytes for each n-gram.

    A recipe's run computes the signatures on all its processes and keeps them in the run folder;
    comparing the candidates is the work of one. In Python `score(rows, [IFD(model),
    duplicates.row_scorer()], folder)` does the same: the selector reads the column.

    The funnel shows how many rows were exact and how many near-duplicates, and
    `selection.stands_for` lists the rows that each kept row stands for.

    Args:
        threshold: from 0.05 to 1, which drops rows with equal n-grams only.
        by: a numeric column: its better rows stay. A nan row is never kept. None is the order of
            the table.
        k: "down to k rows": the first k that are kept. An int is a count, a float a share of ALL
            rows of the table, rounded down. None keeps all.
        largest: False prefers the smallest values of `by`.
        columns: texts that are compared, joined by a line break; the turns of a chat likewise.
        ngram: words of an n-gram.

    Raises (when it is called):
        SuperfilterError: no such column, or one that holds no texts.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import NearDuplicates, select
        >>> texts = ["Name the three primary colours, please.", "How tall is it?",
        ...          "Name the three primary colours, please!"]
        >>> table = Dataset.from_dict({"text": texts, "ifd": [0.5, 0.6, 0.7]})
        >>> selection = select(table, [NearDuplicates(by="ifd", columns=["text"])])
        >>> selection.rows.tolist(), selection.stands_for
        ([2, 1], {2: [0]})
    """

    threshold: float = 0.7
    _: KW_ONLY
    by: str | None = None
    k: int | float | None = None
    largest: bool = True
    columns: tuple[str, ...] = ("prompt", "response")
    ngram: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "threshold", "k", "ngram")
        if not is_number(self.threshold) or not LEAST <= self.threshold <= 1:
            raise SuperfilterError(
                f"threshold={self.threshold!r}: give a Jaccard similarity, {LEAST} to 1"
            )
        if self.by is not None:
            check_column(self.by)
        if self.k is not None:
            check_budget(self.k, None)
        check_switch("largest", self.largest)
        object.__setattr__(self, "columns", check_text_columns(self.columns))
        if not is_count(self.ngram):
            raise SuperfilterError(f"ngram={self.ngram!r}: give a number of words, at least 1")

    def __call__(self, table: "Dataset", pool: np.ndarray) -> Kept:
        """Return the rows to keep, best first, and what they stand for."""
        rows = self._order(table, pool)
        signatures = self._signatures(table, rows)
        same = _first_of_equal(
            signatures[:, :DIGEST_NUMBERS].copy()
        )  # (m,) place of the best row with the same text
        distinct = np.flatnonzero(same == np.arange(len(rows)))
        buckets = _shared_buckets(signatures[:, DIGEST_NUMBERS:], distinct)
        leaders = same.copy()
        leaders[distinct] = self._leaders(table, rows, distinct, buckets)
        leaders = leaders[same]
        kept = np.flatnonzero(leaders == np.arange(len(rows)))
        room = len(kept) if self.k is None else count_of(self.k, len(table))
        shortfall = shortfall_of(room, len(kept))
        kept = kept[:room]
        groups = _groups(leaders, kept)
        exact = int(np.count_nonzero(same != np.arange(len(rows))))
        facts: dict[str, Any] = {
            "exact duplicates": exact,
            "near-duplicates": int(np.count_nonzero(leaders != np.arange(len(rows)))) - exact,
        }
        stands_for = {int(rows[place]): rows[others].tolist() for place, others in groups.items()}
        if stands_for:
            facts["rows that stand for others"] = _in_words(stands_for)
        return Kept(rows[kept], facts, shortfall, stands_for)

    def _order(self, table: "Dataset", pool: np.ndarray) -> np.ndarray:
        """Order the rows that may be kept, best first."""
        if self.by is None:
            return np.sort(pool)
        return best_first(table, pool, self.by, largest=self.largest)

    def row_scorer(self) -> Signatures:
        """Return what signs each row."""
        return Signatures(self.columns, self.ngram, band_size(self.threshold))

    def _signatures(self, table: "Dataset", rows: np.ndarray) -> np.ndarray:
        """Read or compute the (m, numbers) int64 signatures of rows."""
        scorer = self.row_scorer()
        signatures = np.zeros((len(rows), scorer.numbers), dtype=np.int64)
        start = 0
        for block in row_values(table, rows, scorer):
            signatures[start : start + len(block)] = block
            start += len(block)
        return signatures

    def _leaders(
        self, table: "Dataset", rows: np.ndarray, distinct: np.ndarray, shared: "Buckets"
    ) -> np.ndarray:
        """Find for each distinct text the first kept row like it, or itself.

        Args:
            rows: (m,) row numbers, best first.
            distinct: (d,) places in `rows`, ascending.
            shared: the buckets that these share.

        Returns:
            (d,) places in `rows`.
        """
        leaders = distinct.copy()
        texts = row_texts(table, rows[distinct[shared.places]], self.columns)
        members: dict[int, list[int]] = {}  # bucket -> kept places in `distinct`
        ngrams: dict[int, np.ndarray] = {}
        for number, text in enumerate(texts):
            place = int(shared.places[number])
            own = word_ngrams(text, self.ngram)
            buckets = shared.of(number)
            candidates = {other for bucket in buckets for other in members.get(bucket, ())}
            leader = self._first_alike(own, sorted(candidates), ngrams)
            if leader is not None:
                leaders[place] = distinct[leader]
                continue
            ngrams[place] = own
            for bucket in buckets:
                members.setdefault(bucket, []).append(place)
        return leaders

    def _first_alike(
        self, own: np.ndarray, candidates: list[int], ngrams: dict[int, np.ndarray]
    ) -> int | None:
        """Find the first candidate whose similarity reaches the threshold."""
        for candidate in candidates:
            other = ngrams[candidate]
            common = len(np.intersect1d(own, other, assume_unique=True))
            if common >= self.threshold * (len(own) + len(other) - common):
                return candidate
        return None


def _first_of_equal(digests: np.ndarray) -> np.ndarray:
    """Find for each element the first that equals it."""
    whole = digests.view([("", np.int64)] * DIGEST_NUMBERS).ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.ravel()])


class Buckets(NamedTuple):
    """Hold the bands that several rows share, numbered: buckets.

    Attributes:
        places: (c,) places that share any, ascending.
        starts: (c + 1,) where the buckets of each begin.
        buckets: the buckets of all, one after the other.
    """

    places: np.ndarray
    starts: np.ndarray
    buckets: np.ndarray

    def of(self, number: int) -> list[int]:
        """List the buckets of the place of this number."""
        numbers: list[int] = self.buckets[self.starts[number] : self.starts[number + 1]].tolist()
        return numbers


def _shared_buckets(keys: np.ndarray, distinct: np.ndarray) -> Buckets:
    """Number the keys of bands that several of some rows have.

    Args:
        keys: (m, bands) of all rows.
        distinct: (d,) the rows, whose places are told.
    """
    places, buckets = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    offset = 0
    for band in range(keys.shape[1]):
        values, inverse, counts = np.unique(
            keys[distinct, band], return_inverse=True, return_counts=True
        )
        places.append(np.flatnonzero(counts[inverse] > 1))
        buckets.append(offset + inverse[places[-1]])
        offset += len(values)
    all_places = np.concatenate(places)
    order = np.argsort(all_places, kind="stable")
    crowded, starts = np.unique(all_places[order], return_index=True)
    return Buckets(crowded, np.append(starts, len(order)), np.concatenate(buckets)[order])


def _groups(leaders: np.ndarray, kept: np.ndarray) -> dict[int, np.ndarray]:
    """List for each kept place the other places that it leads."""
    others = np.flatnonzero(leaders != np.arange(len(leaders)))
    others = others[np.isin(leaders[others], kept)]
    others = others[np.argsort(leaders[others], kind="stable")]
    first = np.unique(leaders[others], return_index=True)
    parts = np.split(others, first[1][1:])
    return {int(leader): part for leader, part in zip(first[0], parts, strict=False)}


def _in_words(stands_for: dict[int, list[int]]) -> str:
    """Write the number of groups, and the largest of them."""
    largest = sorted(stands_for.items(), key=lambda group: -len(group[1]))[:LISTED]
    texts = []
    for row, others in largest:
        listed = ", ".join(map(str, others[:LISTED]))
        more = len(others) - LISTED
        texts.append(f"{row} for {listed}{f' and {more:,} more' if more > 0 else ''}")
    dots = "; ..." if len(stands_for) > LISTED else ""
    return f"{len(stands_for):,} (row {'; '.join(texts)}{dots})"
