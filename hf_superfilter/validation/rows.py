"""Cut rows into windows, hold rows out, and tell which rows are the same.

A response is read without the white space at its end: the newline of a template is no part of what
a student is measured on. The end of text behind it is measured apart.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.chats import flatten_turns
from ..errors import SuperfilterError, WrongTypeError

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.tokenization import Window, WindowReader

COLUMNS = ("prompt", "response")
BLOCK = 1_000  # rows tokenised at once
MIN_ROWS = 8  # two of every quartile of response length


@dataclass(frozen=True, eq=False)
class Windows:
    """Hold the windows of n rows.

    Attributes:
        rows: n rows, each with the windows of its turns, the end of text last.
        name: what messages and tables call the rows.
        numbers: (n,) their row numbers in the table that they were taken from.
    """

    rows: "list[list[Window]]"
    name: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def tokens(self) -> np.ndarray:
        """Count (n,) int64 response tokens, without ends of text."""
        counts = [
            sum(window.scored - (window.status == "ok") for window in windows if window.scored)
            for windows in self.rows
        ]
        return np.array(counts, dtype=np.int64)

    @cached_property
    def is_cut(self) -> np.ndarray:
        """Mark (n,) bool the rows of which a response does not fit into the window."""
        cut = ("truncated", "prompt_too_long")
        marks = [any(window.status in cut for window in windows) for windows in self.rows]
        return np.array(marks, dtype=bool)

    @cached_property
    def digests(self) -> list[str]:
        """Digest the token ids of every row: equal for equal rows."""
        return [_digest_row(windows) for windows in self.rows]

    def take(self, places: np.ndarray) -> "Windows":
        """Return the windows of some rows."""
        rows = [self.rows[place] for place in places.tolist()]
        return Windows(rows, self.name, self.numbers[places])

    def joined(self, other: "Windows") -> "Windows":
        """Return these rows with those of another table behind them."""
        numbers = np.arange(len(self) + len(other), dtype=np.int64)
        return Windows(self.rows + other.rows, self.name, numbers)

    def digest(self) -> str:
        """Digest all rows in their order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:16]

    def measurable(self) -> "Windows":
        """Return the rows that have a response token to measure.

        Raises:
            SuperfilterError: fewer than 8 rows have one.
        """
        kept = self.take(np.flatnonzero(self.tokens > 0))
        if len(kept) < MIN_ROWS:
            raise SuperfilterError(
                f"{self.name}: {len(kept)} of its {len(self)} rows have a response to measure, "
                f"and at least {MIN_ROWS} are needed: {self._remedy()}"
            )
        return kept

    def _remedy(self) -> str:
        cut_away = int(np.count_nonzero(self.is_cut & (self.tokens == 0)))
        if cut_away:
            return f"the prompts of {cut_away} fill the student's window: raise max_length"
        return "give more rows"


def _digest_row(windows: "Sequence[Window]") -> str:
    parts = [f"{list(window.ids)}:{window.start}:{window.status}" for window in windows]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def windows_of(
    table: "Dataset", reader: "WindowReader", max_length: int | None, name: str
) -> Windows:
    """Cut the rows of a table into windows.

    Args:
        table: n rows with `prompt` and `response`, texts or, of chats, lists of texts.
        reader: of the student.
        max_length: tokens of a window; None is 1,024 or the student's window where that is shorter.
        name: what messages call the rows.

    Raises:
        SuperfilterError: no Dataset, or no such columns.
    """
    from datasets import Dataset

    if not isinstance(table, Dataset):
        raise WrongTypeError(
            f"{name} is of type {type(table).__name__}: give a Dataset with prompt and response"
        )
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise SuperfilterError(
            f"{name} has no column {missing[0]!r}: a student trains on prompt and response; make "
            "them with format_pairs"
        )
    plain = table.select_columns(list(COLUMNS)).with_format(None)
    rows: list[list[Window]] = []
    for start in range(0, len(plain), BLOCK):
        batch: dict[str, Any] = plain[start : start + BLOCK]
        turns = flatten_turns(batch, COLUMNS)
        responses = [response.rstrip() for response in turns.responses]
        pairs = reader.windows(turns.prompts, responses, max_length=max_length, append_eos=True)
        block: list[list[Window]] = [[] for _ in range(turns.count)]
        for row, response, pair in zip(turns.rows.tolist(), responses, pairs, strict=True):
            if response:
                block[row].append(pair.given)
        rows += block
    return Windows(rows, name, np.arange(len(rows), dtype=np.int64))


def texts_digest(row: dict[str, Any]) -> str:
    """Digest prompt and response of a row, without the white space around them."""
    texts = [text_of(row[column]) for column in COLUMNS]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def text_of(cell: Any) -> str:
    """Return the text of a cell without the white space around it, of a chat all its turns."""
    if isinstance(cell, list):
        return "\1".join(text_of(part) for part in cell)
    return str(cell or "").strip()


@dataclass(frozen=True, eq=False)
class Split:
    """Hold the row numbers of the three parts of a table.

    Attributes:
        pool: (p,) rows that may be scored, selected and trained on.
        held_out: (h,) rows to measure on.
        tuning: (t,) rows that the learning rate is chosen on.
        repeated: rows that stand in none, because a row of the other parts has the same texts, or
            a chat of them the same turn.
    """

    pool: np.ndarray
    held_out: np.ndarray
    tuning: np.ndarray
    repeated: int


def split_rows(table: "Dataset", held_out: int, tuning: int, seed: int) -> Split:
    """Draw rows to hold out; no row of the pool has the texts of one of them, or of a turn of it.

    Args:
        table: n rows with `prompt` and `response`.
        held_out: rows to measure on.
        tuning: rows that the learning rate is chosen on.
        seed: of the draw.

    Returns:
        The parts, each in the order of the table.

    Raises:
        SuperfilterError: fewer rows than are asked for, or none left to train on.
    """
    if held_out + tuning >= len(table):
        raise SuperfilterError(
            f"held_out={held_out} and {tuning} rows to tune on are all of the {len(table)} rows: "
            "hold fewer rows out, or give more rows"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(table))
    parts = [order[:held_out], order[held_out : held_out + tuning]]
    turns = turns_of(table)
    taken = set[str]().union(*(turns[row] for row in parts[0].tolist()))
    tuned = [row for row in parts[1].tolist() if taken.isdisjoint(turns[row])]
    taken = taken.union(*(turns[row] for row in tuned))
    rest = np.sort(order[held_out + tuning :]).tolist()
    pool = [row for row in rest if taken.isdisjoint(turns[row])]
    if not pool:
        raise SuperfilterError(
            f"all of the {len(rest)} rows that are not held out have the prompt and response of "
            "one that is: take out what is there twice, or give more rows"
        )
    repeated = len(table) - held_out - len(tuned) - len(pool)
    return Split(
        np.array(pool, dtype=np.int64),
        np.sort(parts[0]),
        np.sort(np.array(tuned, dtype=np.int64)),
        repeated,
    )


def digests_of(table: "Dataset") -> list[str]:
    """Digest prompt and response of every row."""
    return [texts_digest(row) for row in _rows_of(table)]


def turns_of(table: "Dataset") -> list[set[str]]:
    """Digest prompt and response of every row, and of a chat those of every turn too.

    Rows that were cut out of one chat share their first turns: who trains on one of them has seen
    these responses of the other.
    """
    turns = []
    for row in _rows_of(table):
        digests = {texts_digest(row)}
        if all(isinstance(row[column], list) for column in COLUMNS):
            for prompt, response in zip(row["prompt"], row["response"], strict=False):
                digests.add(texts_digest({"prompt": prompt, "response": response}))
        turns.append(digests)
    return turns


def _rows_of(table: "Dataset") -> Iterator[dict[str, Any]]:
    plain = table.select_columns(list(COLUMNS)).with_format(None)
    for start in range(0, len(plain), BLOCK):
        batch = plain[start : start + BLOCK]
        for prompt, response in zip(batch["prompt"], batch["response"], strict=True):
            yield {"prompt": prompt, "response": response}
