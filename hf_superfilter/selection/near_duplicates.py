"""Keep one row of each group of near-duplicates."""

import hashlib
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Kept, Settings
from ..checks import check_column, check_switch, is_count, is_number, plain_numbers
from ..data.columns import best_first
from ..data.texts import check_text_columns, row_texts, word_ngrams
from ..errors import SuperfilterError
from ._budget import check_budget, count_of, shortfall_of

if TYPE_CHECKING:
    from datasets import Dataset

PERMUTATIONS = 128  # minima of a signature
SEEN = 0.98  # least chance that a pair at the threshold shares a band
LEAST = 0.05  # smaller thresholds would need more minima
BLOCK = 1_000  # signatures held at once
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

    Words are runs of letters and digits in lower case; Chinese, Japanese and Korean characters
    count singly. A text with fewer than `ngram` words is one n-gram.

    Time is linear in the rows where few pairs lie close below the threshold. Memory is 16
    bytes a row for each band, of which there are 25 at 0.7, and 4 bytes for each n-gram of the rows
    that share a band with another.

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
        digests, keys = self._signatures(table, rows)
        same = _first_of_equal(digests)  # (m,) place of the best row with the same text
        distinct = np.flatnonzero(same == np.arange(len(rows)))
        leaders = same.copy()
        leaders[distinct] = self._leaders(table, rows, distinct, keys[distinct])
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

    def _signatures(self, table: "Dataset", rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute digests of the texts and keys of their bands.

        Returns:
            (m,) 16 bytes, equal for equal texts, and (m, bands) uint64, equal where all minima of a
            band are.
        """
        from datasketch import MinHash

        minima_of_band = _band_size(self.threshold)
        bands = PERMUTATIONS // minima_of_band
        digests = np.zeros(len(rows), dtype="V16")
        keys = np.zeros((len(rows), bands), dtype=np.uint64)
        weights = _odd_numbers(minima_of_band)
        for start, texts in _blocks(row_texts(table, rows, self.columns)):
            end = start + len(texts)
            digests[start:end] = [_digest(text) for text in texts]
            ngrams = (word_ngrams(text, self.ngram).tolist() for text in texts)
            # The n-grams are hashed already.
            sketches = MinHash.generator(ngrams, num_perm=PERMUTATIONS, hashfunc=int)
            minima = np.stack([sketch.hashvalues for sketch in sketches]).astype(np.uint64)
            minima = minima[:, : bands * minima_of_band].reshape(len(texts), bands, -1)
            keys[start:end] = (_mixed(minima) * weights).sum(axis=2)  # wraps around
        return digests, keys

    def _leaders(
        self, table: "Dataset", rows: np.ndarray, distinct: np.ndarray, keys: np.ndarray
    ) -> np.ndarray:
        """Find for each distinct text the first kept row like it, or itself.

        Args:
            rows: (m,) row numbers, best first.
            distinct: (d,) places in `rows`, ascending.
            keys: (d, bands) of these.

        Returns:
            (d,) places in `rows`.
        """
        leaders = distinct.copy()
        buckets = _shared_buckets(keys)  # (d, bands) int64, -1 where no other row has the key
        crowded = np.flatnonzero((buckets >= 0).any(axis=1))
        texts = row_texts(table, rows[distinct[crowded]], self.columns)
        members: dict[int, list[int]] = {}  # bucket -> kept places in `distinct`
        ngrams: dict[int, np.ndarray] = {}
        for place, text in zip(crowded.tolist(), texts, strict=True):
            own = word_ngrams(text, self.ngram)
            shared = [bucket for bucket in buckets[place].tolist() if bucket >= 0]
            candidates = {other for bucket in shared for other in members.get(bucket, ())}
            leader = self._first_alike(own, sorted(candidates), ngrams)
            if leader is not None:
                leaders[place] = distinct[leader]
                continue
            ngrams[place] = own
            for bucket in shared:
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


def _band_size(threshold: float) -> int:
    """Count the minima of a band, the most with which pairs at the threshold are still seen.

    Two signatures agree in a minimum with the chance of their similarity s, so they share one of b
    bands of r minima with the chance `1 - (1 - s^r)^b`.

    Example:
        >>> _band_size(0.7), _band_size(1.0)
        (5, 128)
    """
    size = 1
    while size < PERMUTATIONS:
        bands = PERMUTATIONS // (size + 1)
        if 1 - (1 - threshold ** (size + 1)) ** bands < SEEN:
            break
        size += 1
    return size


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _odd_numbers(count: int) -> np.ndarray:
    """Draw weights that make a sum of numbers a key of their sequence."""
    numbers: np.ndarray = np.random.default_rng(0).integers(2**63, size=count, dtype=np.uint64)
    return 2 * numbers + np.uint64(1)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread 32-bit numbers over 64 bits, so that sums of few do not meet."""
    product = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(product ^ (product >> np.uint64(29)))


def _blocks(texts: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield texts in blocks, each with the place of its first."""
    block: list[str] = []
    start = 0
    for text in texts:
        block.append(text)
        if len(block) == BLOCK:
            yield start, block
            start, block = start + BLOCK, []
    if block:
        yield start, block


def _first_of_equal(digests: np.ndarray) -> np.ndarray:
    """Find for each element the first that equals it."""
    _, first, inverse = np.unique(
        digests.view([("", np.uint64)] * 2).ravel(), return_index=True, return_inverse=True
    )
    return np.asarray(first[inverse.ravel()])


def _shared_buckets(keys: np.ndarray) -> np.ndarray:
    """Number the keys of each band that several rows have; -1 for the others."""
    buckets = np.full(keys.shape, -1, dtype=np.int64)
    offset = 0
    for band in range(keys.shape[1]):
        values, inverse, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = counts[inverse] > 1
        buckets[shared, band] = offset + inverse[shared]
        offset += len(values)
    return buckets


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
