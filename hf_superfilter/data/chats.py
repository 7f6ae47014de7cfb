"""One row may hold several turns: rows into turns before scoring, turns into rows after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import Batch

UNDEFINED = ("empty_response", "too_short", "prompt_too_long", "not_finite")


@dataclass(frozen=True)
class Turns:
    """All turns of a batch in one row: `rows[i]` is the row that turn i belongs to, of `count` rows."""

    prompts: list[str]
    responses: list[str]
    rows: np.ndarray
    count: int

    def total(self, values: np.ndarray) -> np.ndarray:
        """(count,) float64 sums of (turns,) values by row; 0 for a row without turns."""
        return np.bincount(self.rows, weights=values, minlength=self.count)

    def statuses(self, by_turn: Sequence[str], used: np.ndarray, finite: np.ndarray) -> list[str]:
        """(count,) one status a row.

        A row that has no used turn takes its first turn's reason, and `empty_response` when it has no
        turn at all. One that used some turns is `truncated` when a turn was cut or did not fit, else
        `ok`; `not_finite` when its number is not finite for all that.
        """
        status = ["empty_response"] * self.count
        first = np.full(self.count, -1)
        for i in range(len(self.rows) - 1, -1, -1):
            first[self.rows[i]] = i
        any_used = self.total(used.astype(float)) > 0
        cut = {
            r
            for r, s in zip(self.rows, by_turn, strict=True)
            if s in ("truncated", "prompt_too_long")
        }
        for row in range(self.count):
            if any_used[row]:
                status[row] = (
                    "not_finite" if not finite[row] else "truncated" if row in cut else "ok"
                )
            elif first[row] >= 0:
                reason = by_turn[first[row]]
                status[row] = reason if reason in UNDEFINED else "not_finite"
        return status


def flatten_turns(batch: Batch, columns: tuple[str, str]) -> Turns:
    """The turns of a batch whose two columns hold strings, or equal-length lists of strings (chats).

    None counts as an empty string: the row gets the status `empty_response`, its neighbours are scored.

    Raises:
        ValueError: a column is missing, or a chat's lists have unequal lengths.
        TypeError: a cell is neither text nor a list of texts.
    """
    for name in columns:
        if name not in batch:
            raise ValueError(
                f"no column {name!r}: the rows have {sorted(batch)}; make it with format_pairs, "
                "or name the two columns to read with columns=(prompt, response)"
            )
    prompts: list[str] = []
    responses: list[str] = []
    rows: list[int] = []
    for row, (prompt, response) in enumerate(
        zip(batch[columns[0]], batch[columns[1]], strict=True)
    ):
        several = [_texts(prompt, columns[0], row), _texts(response, columns[1], row)]
        if len(several[0]) != len(several[1]):
            raise ValueError(
                f"row {row} of the batch has {len(several[0])} prompts in {columns[0]!r} "
                f"and {len(several[1])} responses in {columns[1]!r}: a chat needs one prompt for each response"
            )
        prompts += several[0]
        responses += several[1]
        rows += [row] * len(several[0])
    return Turns(prompts, responses, np.array(rows, dtype=np.int64), len(batch[columns[0]]))


def _texts(cell: object, column: str, row: int) -> list[str]:
    if isinstance(cell, str):
        return [cell]
    if cell is None:
        return [""]
    if isinstance(cell, (list, tuple, np.ndarray)) and all(
        turn is None or isinstance(turn, str) for turn in cell
    ):
        return [turn or "" for turn in cell]
    raise TypeError(
        f"column {column!r} holds {repr(cell)[:60]} ({type(cell).__name__}) in row {row} of the batch: "
        "prompts and responses are strings, or lists of strings for chats"
    )
