"""Sign the texts of rows, so that alike ones share a part of their signatures."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from ..base import Batch, RowScorer
from ..data.texts import joined_texts, word_ngrams

PERMUTATIONS = 128  # minima of a signature
SEEN = 0.98  # least chance that a pair at the threshold shares a band
DIGEST_NUMBERS = 2  # 64 bits each


@dataclass(frozen=True, repr=False)
class Signatures(RowScorer):
    """Compute the digest and the MinHash bands of each row's text.

    The column holds lists of 2 + bands numbers, int64: the first two are equal for equal texts,
    each other one where all `band` minima of a band are. Its name tells the settings.

    Args:
        columns: of texts, joined by a line break.
        ngram: words of an n-gram.
        band: minima of a band, of 128.
    """

    columns: tuple[str, ...] = ("prompt", "response")
    ngram: int = 3
    band: int = 5

    @property
    def name(self) -> str:
        """The column, another one for other settings."""
        settings = [self.columns, self.ngram, self.band, self.arithmetic]
        return f"signature_{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"

    @property
    def numbers(self) -> int:
        """How long the lists are."""
        return DIGEST_NUMBERS + PERMUTATIONS // self.band

    def values(self, batch: Batch) -> np.ndarray:
        """Sign a batch of n rows: (n, numbers) int64."""
        from datasketch import MinHash

        texts = joined_texts(batch, self.columns)
        bands = PERMUTATIONS // self.band
        signatures = np.zeros((len(texts), self.numbers), dtype=np.uint64)
        if not texts:
            return signatures.view(np.int64)
        digests = b"".join(map(_digest, texts))
        signatures[:, :DIGEST_NUMBERS] = np.frombuffer(digests, "<u8").reshape(len(texts), -1)
        ngrams = (word_ngrams(text, self.ngram).tolist() for text in texts)
        # The n-grams are hashed already.
        sketches = MinHash.generator(ngrams, num_perm=PERMUTATIONS, hashfunc=int)
        minima = np.stack([sketch.hashvalues for sketch in sketches]).astype(np.uint64)
        minima = minima[:, : bands * self.band].reshape(len(texts), bands, -1)
        weights = _odd_numbers(self.band)
        signatures[:, DIGEST_NUMBERS:] = (_mixed(minima) * weights).sum(axis=2)  # wraps around
        return signatures.view(np.int64)  # Datasets cannot copy rows of larger numbers


def band_size(threshold: float) -> int:
    """Count the minima of a band, the most with which pairs at the threshold are still seen.

    Two signatures agree in a minimum with the chance of their similarity s, so they share one of b
    bands of r minima with the chance `1 - (1 - s^r)^b`.

    Example:
        >>> band_size(0.7), band_size(1.0)
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
