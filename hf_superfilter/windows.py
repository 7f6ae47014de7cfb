"""Which tokens are scored, given which: the Superfiltering authors' rules on token ids (arXiv 2402.00530).

prompt + response, one tokenisation           response alone
ids    p0 p1 p2 r0 r1 r2                      ids    r0 r1 r2
scored          r0 r1 r2   start = 3          scored    r1 r2      start = 1
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Ids = Sequence[int]
SCORED = ("ok", "truncated")


class Window(NamedTuple):
    """Token ids, the position of the first one that is scored, and `ok` or what is the matter with it."""

    ids: Ids
    start: int
    status: str = "ok"

    @property
    def scored(self) -> int:
        """How many tokens are scored, each given all before it; none of a window that is not whole."""
        return max(0, len(self.ids) - self.start) if self.status in SCORED else 0


def padded(rows: Sequence[Ids]) -> np.ndarray:
    """(k, longest) int64 token ids, padded on the right with 0."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    return ids


def batch_of(windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Windows as one batch: (k, longest) padded ids; (m,) positions of the scored ones in it, flattened.

    Example:
        >>> ids, positions = batch_of([Window([1, 2, 3], 1), Window([4, 5], 1)])
        >>> ids.tolist(), positions.tolist()
        ([[1, 2, 3], [4, 5, 0]], [1, 2, 4])
    """
    ids = padded([window.ids for window in windows])
    positions = [number * ids.shape[1] + np.arange(w.start, len(w.ids)) for number, w in enumerate(windows)]
    return ids, np.concatenate(positions)


class Pair(NamedTuple):
    """The two windows of one prompt and response: the response given the prompt, and alone."""

    given: Window
    alone: Window


def pair_of_windows(
    whole: Ids, prompt: Ids, response: Ids, *, limit: int, front: Ids = (), ending: Ids = (), skip_first: bool = False
) -> Pair:
    """Both windows of a row from the tokenisations of prompt + response, of the prompt, of the response.

    The whole is cut on the right at `limit`, and its first `len(prompt)` tokens are not scored; the
    response alone is cut to `limit - len(prompt) + 1`, and its first token is not scored.

    Args:
        limit: tokens a window may hold.
        front: put before both windows (BOS); the first response token then has a token before it.
        ending: put behind both (end of text), and scored.
        skip_first: score neither window's first response token.

    Example:
        >>> given, alone = pair_of_windows([1, 2, 3, 4, 5], [1, 2], [3, 4, 5], limit=4)
        >>> given
        Window(ids=[1, 2, 3, 4], start=2, status='truncated')
        >>> alone
        Window(ids=[3, 4, 5], start=1, status='ok')
    """
    length = min(len(front) + len(prompt), limit)
    reason = "" if response else "empty_response"
    too_long = "prompt_too_long" if length + skip_first >= limit else ""
    room = min(limit - length + 1, limit)  # without a prompt the authors' rule would give one token too many
    return Pair(
        _window([*front, *whole, *ending], length + skip_first, limit, reason or too_long),
        _window([*front, *response, *ending], len(front) + skip_first, room, reason),
    )


def _window(ids: Ids, start: int, limit: int, reason: str) -> Window:
    """The first `limit` ids; the token at position 0 has nothing before it and is never scored."""
    start = max(start, 1)
    cut = ids[:limit]
    if not reason and len(cut) <= start:
        reason = "too_short"
    return Window(cut, start, reason or ("truncated" if len(ids) > limit else "ok"))
