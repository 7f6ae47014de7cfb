"""Take chats apart into turns before scoring, and join their scores to rows after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import UNREADABLE, UNREADABLE_STATUS, Batch
from ..errors import SuperfilterError, WrongTypeError

UNDEFINED = ("empty_response", "no_prompt", "too_short", "prompt_too_long", "not_finite")


@dataclass(frozen=True)
class Turns:
    """Hold the turns of a batch: a prompt and a response each.

    Args:
        prompts: (turns,) texts.
        responses: (turns,) texts.
        rows: (turns,) int64, the row of the batch that each turn belongs to.
        count: rows of the batch; a row may have no turn.
        unreadable: rows of the batch that could not be read; they have no turn.
    """

    prompts: list[str]
    responses: list[str]
    rows: np.ndarray
    count: int
    unreadable: frozenset[int] = frozenset()

    @property
    def has_prompt(self) -> np.ndarray:
        """Return (turns,) bool: whether anything but white space stands before the response."""
        return np.array([bool(prompt.strip()) for prompt in self.prompts], dtype=bool)

    @property
    def is_unreadable(self) -> np.ndarray:
        """Return (count,) bool: whether the row could not be read."""
        return np.isin(np.arange(self.count), sorted(self.unreadable))

    def mean(self, means: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Join (turns,) means over `counts` tokens to means by row.

        Returns:
            (count,) float64, nan for a row without tokens.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            sums = self.total(np.where(counts > 0, means * counts, 0))
            return np.asarray(sums / self.total(counts))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum (turns,) values by row to (count,) float64; 0 for a row without turns."""
        return np.bincount(self.rows, weights=values, minlength=self.count)

    def statuses(self, by_turn: Sequence[str], used: np.ndarray, finite: np.ndarray) -> list[str]:
        """Join the statuses of turns to one a row.

        A row without a used turn takes the reason of its first turn, and `empty_response` where it
        has no turn; one that could not be read is `unreadable`. A row that uses some is `truncated`
        where a turn was cut or did not fit, else `ok`. It is `not_finite` where turns were used and
        its number is not finite.

        Args:
            by_turn: (turns,) statuses.
            used: (turns,) bool, whether the turn counts in the row's number.
            finite: (count,) bool, whether the row's number is finite.

        Returns:
            (count,) statuses.
        """
        first = np.full(self.count, -1)
        first[self.rows[::-1]] = np.arange(len(self.rows))[::-1]
        is_used = self.total(used.astype(float)) > 0
        is_cut = np.zeros(self.count, dtype=bool)
        is_cut[self.rows[np.isin(by_turn, ("truncated", "prompt_too_long"))]] = True
        statuses = []
        for row in range(self.count):
            if row in self.unreadable:
                statuses.append(UNREADABLE_STATUS)
            elif is_used[row] and finite[row]:
                statuses.append("truncated" if is_cut[row] else "ok")
            elif is_used[row]:
                statuses.append("not_finite")
            elif first[row] < 0:
                statuses.append("empty_response")
            else:
                reason = by_turn[first[row]]
                statuses.append(reason if reason in UNDEFINED else "not_finite")
        return statuses


def flatten_turns(batch: Batch, columns: tuple[str, str], *, keep_blank: bool = False) -> Turns:
    """List the turns of a batch.

    A response of nothing but white space, or None, is empty: the row gets the status
    `empty_response`. A row whose cells are no texts, or that has a reason in `unreadable_reason`,
    has no turns and is `unreadable`. Its neighbours are scored.

    Args:
        batch: n rows; both columns hold texts, or, for chats, lists of texts of equal length.
        columns: of the prompts and of the responses.
        keep_blank: leave responses of white space as they are, to be measured.

    Raises:
        SuperfilterError: a column is missing, or no row can be read: a chat's lists have unequal
            lengths.
        WrongTypeError: the same where cells are neither text nor lists of texts.
    """
    for name in columns:
        if name not in batch:
            raise SuperfilterError(
                f"no column {name!r}: the rows have {sorted(batch)}; make it with format_pairs, "
                "or name the two columns to read with columns=(prompt, response)"
            )
    count = len(batch[columns[0]])
    reasons = batch[UNREADABLE] if UNREADABLE in batch else [None] * count
    prompts: list[str] = []
    responses: list[str] = []
    rows: list[int] = []
    unreadable = {row for row, reason in enumerate(reasons) if reason is not None}
    errors: list[SuperfilterError] = []
    for row, cells in enumerate(zip(batch[columns[0]], batch[columns[1]], strict=True)):
        if row in unreadable:
            continue
        try:
            of_row = _turns_of_row(cells, columns, row)
        except SuperfilterError as error:
            unreadable.add(row)
            errors.append(error)
            continue
        prompts += of_row[0]
        responses += [text if keep_blank or text.strip() else "" for text in of_row[1]]
        rows += [row] * len(of_row[0])
    if errors and len(errors) == count:  # no row's fault, but that of the columns
        raise errors[0]
    return Turns(prompts, responses, np.array(rows, dtype=np.int64), count, frozenset(unreadable))


def _turns_of_row(
    cells: tuple[object, object], columns: tuple[str, str], row: int
) -> tuple[list[str], list[str]]:
    """Read the prompts and the responses of one row."""
    prompts = _texts(cells[0], columns[0], row)
    responses = _texts(cells[1], columns[1], row)
    if len(prompts) != len(responses):
        raise SuperfilterError(
            f"row {row} of the batch has {len(prompts)} prompts in {columns[0]!r} "
            f"and {len(responses)} responses in {columns[1]!r}: "
            "a chat needs one prompt for each response"
        )
    return prompts, responses


def _texts(cell: object, column: str, row: int) -> list[str]:
    if isinstance(cell, str):
        return [cell]
    if cell is None:
        return [""]
    if isinstance(cell, list | tuple | np.ndarray) and all(
        turn is None or isinstance(turn, str) for turn in cell
    ):
        return [turn or "" for turn in cell]
    raise WrongTypeError(
        f"column {column!r} holds {cell!r:.60} ({type(cell).__name__}) in row {row} of the batch: "
        "prompts and responses are strings, or lists of strings for chats"
    )
