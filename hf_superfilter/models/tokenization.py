"""Which tokens are scored, given which: the Superfiltering authors' rules on token ids (arXiv 2402.00530).

prompt + response, one tokenisation           response alone
ids    p0 p1 p2 r0 r1 r2                      ids    r0 r1 r2
scored          r0 r1 r2   start = 3          scored    r1 r2      start = 1
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import SuperfilterError
from .loading import token_ids

SCORED = ("ok", "truncated")
DEFAULT_MAX_LENGTH = 1_024  # the Superfiltering authors' window


Ids = Sequence[int]


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
    positions = [
        number * ids.shape[1] + np.arange(w.start, len(w.ids)) for number, w in enumerate(windows)
    ]
    return ids, np.concatenate(positions)


class Pair(NamedTuple):
    """The two windows of one prompt and response: the response given the prompt, and alone."""

    given: Window
    alone: Window


def pair_of_windows(
    whole: Ids,
    prompt: Ids,
    response: Ids,
    *,
    limit: int,
    front: Ids = (),
    ending: Ids = (),
    skip_first: bool = False,
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
    room = min(
        limit - length + 1, limit
    )  # without a prompt the authors' rule would give one token too many
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


def limit_of(max_length: int | None, window: int, name: str) -> int:
    """The tokens that are read at most: `max_length`, else 1,024 or the model's window where that is shorter.

    Raises:
        ValueError: more than the window of the model of that name.
    """
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, window)
    if max_length > window:
        raise SuperfilterError(
            f"max_length={max_length}, but {name} reads at most {window} tokens: lower it"
        )
    return max_length


class WindowReader:
    """Makes windows for one model.

    Args:
        name: the model's, for messages.
        tokenizer: the model's.
        window: tokens that the model reads at most.
    """

    def __init__(self, name: str, tokenizer: Any, window: int) -> None:
        self.name, self.tokenizer, self.window = name, tokenizer, window
        first, bos = tokenizer("x")["input_ids"][:1], tokenizer.bos_token_id
        self._bos = [bos] if bos is not None and first == [bos] else []

    def windows(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        max_length: int | None = None,
        bos: bool = False,
        skip_first: bool = False,
        append_eos: bool = False,
    ) -> list[Pair]:
        """Both windows of every prompt and response, by the rules of `pair_of_windows`.

        Prompt and response are tokenised as one string; a tokenizer that adds BOS puts it before both windows.

        Args:
            max_length: tokens; None is 1,024, or the model's window where that is shorter.
            bos: put BOS (else EOS) before both windows when the tokenizer adds none itself.
            skip_first: score neither window's first response token.
            append_eos: the end-of-text token is the response's last token, and scored.

        Raises:
            ValueError: a longer window than the model's, or a special token that the tokenizer does not have.
        """
        texts = ([p + r for p, r in zip(prompts, responses, strict=True)], prompts, responses)
        limit = limit_of(max_length, self.window, self.name)
        front = self._bos or ([self._special("bos")] if bos else [])
        ending = [self._special("eos")] if append_eos else []
        return [
            pair_of_windows(*ids, limit=limit, front=front, ending=ending, skip_first=skip_first)
            for ids in zip(*(token_ids(self.tokenizer, some) for some in texts), strict=True)
        ]

    def _special(self, wanted: str) -> int:
        """The id of BOS (EOS where there is no BOS) or of EOS."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        token = eos if wanted == "eos" or bos is None else bos
        if token is None:
            raise SuperfilterError(
                f"the tokenizer of {self.name} has no {wanted.upper()} token, which this setting needs"
            )
        return token
