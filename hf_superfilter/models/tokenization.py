"""Turn prompts and responses into token windows, and decide which tokens are scored.

prompt + response, one tokenisation              response alone
ids     g p0 p1 p2 r0 r1 r2                      ids     g r0 r1 r2
scored             r0 r1 r2    start = 4         scored    r0 r1 r2    start = 1

g stands for the tokens, none or several, that the tokenizer itself puts in front of a text. The
border of prompt and response is found by characters: a token that holds a character of the
response is scored. The Superfiltering authors' own rule (arXiv 2402.00530) takes the number of the
prompt's tokens instead.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import SuperfilterError
from .text_tokenizer import Ids, MarkedText, text_tokenizer

SCORED = ("ok", "truncated")
DEFAULT_MAX_LENGTH = 1_024  # tokens: the Superfiltering authors' window


class Window(NamedTuple):
    """Hold token ids and the position of the first one that is scored.

    Attributes:
        ids: n token ids.
        start: each token from here on is scored, given all before it.
        status: `ok`, `truncated`, or why nothing is scored.
        skipped: tokens before `start` that hold a character of the response.
    """

    ids: Ids
    start: int
    status: str = "ok"
    skipped: int = 0

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        if self.status not in SCORED:
            return 0
        return max(0, len(self.ids) - self.start)


class Pair(NamedTuple):
    """Hold a response's two windows: given its prompt, and alone."""

    given: Window
    alone: Window

    @property
    def common(self) -> tuple[slice, slice]:
        """Match the tokens that both windows score.

        Without a token in front the window alone does not score the first one; a window may be cut,
        and at the border of prompt and response both tokenisations may differ.

        Returns:
            Two slices of equal length, into the scored tokens of `given` and of `alone`.

        Example:
            >>> Pair(Window([7, 8, 1, 2, 3], 2), Window([1, 2, 3], 1)).common
            (slice(1, 3, None), slice(0, 2, None))
        """
        given, alone = (
            list(window.ids[window.start :]) if window.scored else [] for window in self
        )
        extra = max(len(given) - len(alone), 0)
        for shift in dict.fromkeys((extra, 0, 1)):
            length = min(len(given) - shift, len(alone))
            if length > 0 and given[shift : shift + length] == alone[:length]:
                return slice(shift, shift + length), slice(0, length)
        # Cut windows end at different tokens; all others end alike.
        length = 0
        while length < min(len(given), len(alone)) and given[-1 - length] == alone[-1 - length]:
            length += 1
        return slice(len(given) - length, len(given)), slice(len(alone) - length, len(alone))


def padded(rows: Sequence[Ids], padding: int = 0) -> np.ndarray:
    """Stack k rows as (k, longest) int64 token ids, padded on the right."""
    ids = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for padded_row, row in zip(ids, rows, strict=True):
        padded_row[: len(row)] = row
    return ids


def batch_of(windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Stack k windows as one batch.

    Returns:
        (k, longest) padded ids, and (m,) positions of the scored tokens in them, counted through
        all rows.

    Example:
        >>> ids, positions = batch_of([Window([1, 2, 3], 1), Window([4, 5], 1)])
        >>> ids.tolist(), positions.tolist()
        ([[1, 2, 3], [4, 5, 0]], [1, 2, 4])
    """
    ids = padded([window.ids for window in windows])
    positions = []
    for row, window in enumerate(windows):
        positions.append(row * ids.shape[1] + np.arange(window.start, len(window.ids)))
    return ids, np.concatenate(positions)


def mean_by_window(nats: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average the losses of tokens, which stand window by window.

    Args:
        nats: (tokens,) losses.
        counts: (n,) how many belong to each window.

    Returns:
        (n,) float64 nats per token, nan for a window without tokens.
    """
    owners = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(owners, weights=nats, minlength=len(counts))
    means: np.ndarray = np.where(counts > 0, sums, np.nan) / np.maximum(counts, 1)
    return means


def limit_of(max_length: int | None, window: int, name: str) -> int:
    """Return how many tokens are read: `max_length`, else 1,024 or a shorter window.

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


def pair_of_windows(
    whole: Ids,
    response: Ids,
    border: int,
    *,
    limit: int,
    front: Ids = (),
    ending: Ids = (),
    skip_first: bool = False,
) -> Pair:
    """Cut both windows of a row out of its tokenisations.

    The whole is cut on the right at `limit`, and its first `border` tokens are not scored. The
    response alone is cut to `limit - border + 1`, as the Superfiltering authors do. The token at
    position 0 has nothing before it and is never scored.

    Args:
        whole: prompt + response, tokenised as one text.
        response: the response, tokenised by itself.
        border: tokens of the whole before the first that is scored.
        limit: tokens that a window may hold.
        front: put in front of both windows, once, and not scored.
        ending: put behind both (end of text), and scored.
        skip_first: score neither window's first response token.

    Example:
        >>> given, alone = pair_of_windows([1, 2, 3, 4, 5], [3, 4, 5], border=2, limit=4)
        >>> given
        Window(ids=[1, 2, 3, 4], start=2, status='truncated', skipped=0)
        >>> alone
        Window(ids=[3, 4, 5], start=1, status='ok', skipped=0)
    """
    given_front, alone_front = missing_front(front, whole), missing_front(front, response)
    length = min(len(given_front) + border, limit)
    reason = "" if len(response) else "empty_response"
    too_long = "prompt_too_long" if length + skip_first >= limit else ""
    # Without a prompt the authors' rule would give one token more than the limit.
    room = min(limit - length + 1, limit)
    given = [*given_front, *whole, *ending]
    alone = [*alone_front, *response, *ending]
    return Pair(
        _window(given, length + skip_first, limit, reason or too_long),
        _window(alone, len(alone_front) + skip_first, room, reason),
    )


def _window(ids: Ids, start: int, limit: int, reason: str) -> Window:
    """Cut a window at its limit and find out its status."""
    start = max(start, 1)
    cut = ids[:limit]
    if not reason and len(cut) <= start:
        reason = "too_short"
    return Window(cut, start, reason or ("truncated" if len(ids) > limit else "ok"))


def missing_front(front: Ids, ids: Ids) -> Ids:
    """Return the front tokens that ids do not begin with already.

    A rendered chat template may begin with all of them, with the last of them, or with a beginning
    of its own choice, such as the first alone.

    Example:
        >>> [missing_front([7, 8], ids) for ids in ([1, 2], [7, 8, 1], [8, 1], [7, 1])]
        [[7, 8], [], [7], []]
    """
    for count in range(len(front)):
        rest = front[count:]
        if list(ids[: len(rest)]) == list(rest):
            return front[:count]
    if len(front) and len(ids) and ids[0] == front[0]:
        return front[:0]
    return front


class WindowReader:
    """Make windows for one model.

    Args:
        name: the model's, for messages.
        tokenizer: the model's.
        window: tokens that the model reads at most.
    """

    def __init__(self, name: str, tokenizer: Any, window: int) -> None:
        self.name, self.tokenizer, self.window = name, tokenizer, window
        self.text = text_tokenizer(name, tokenizer)

    def windows(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        max_length: int | None = None,
        bos: bool = False,
        skip_first: bool = False,
        append_eos: bool = False,
        count_border: bool = False,
    ) -> list[Pair]:
        """Make both windows of every prompt and response, see `pair_of_windows`.

        Prompt and response are tokenised as one text, behind what the tokenizer puts in front of a
        text. A prompt may be written by a chat template: special tokens in it are read. Those in a
        response are text.

        Args:
            prompts, responses: n texts each.
            max_length: tokens; None is 1,024, or the model's window where that is shorter.
            bos: put BOS (else EOS) in front of both windows when the tokenizer puts nothing there.
            skip_first: score neither window's first response token.
            append_eos: the end-of-text token is the response's last token, and scored.
            count_border: keep the Superfiltering authors' reading: the border lies behind as many
                tokens as the prompt has by itself, and special tokens in a response are read.

        Raises:
            ValueError: a longer window than the model's, or a special token that the tokenizer does
                not have.
        """
        limit = limit_of(max_length, self.window, self.name)
        front = self.text.front
        if bos and not front:
            front = [self._beginning()]
        ending = [self._end()] if append_eos else []
        pairs = []
        for whole, response, border, skipped in self._readings(prompts, responses, count_border):
            pair = pair_of_windows(
                whole,
                response,
                border,
                limit=limit,
                front=front,
                ending=ending,
                skip_first=skip_first,
            )
            if skipped:
                pair = pair._replace(given=pair.given._replace(skipped=skipped))
            pairs.append(pair)
        return pairs

    def _readings(
        self, prompts: Sequence[str], responses: Sequence[str], count_border: bool
    ) -> list[tuple[list[int], list[int], int, int]]:
        """Tokenize every row: the whole, the response alone, the border, tokens skipped by it."""
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        wholes, alone = self.text.ids(texts), self.text.ids(responses)
        prompt_ids = self.text.ids(prompts)
        borders = [
            len(ids) if prompt else 0 for ids, prompt in zip(prompt_ids, prompts, strict=True)
        ]
        # Where the whole begins with the prompt's own tokens, both rules give the same border.
        unclear = [
            row for row, ids in enumerate(prompt_ids) if not self._begins_with(wholes[row], ids)
        ]
        counts = list(borders)
        found = self.text.borders(
            [wholes[row] for row in unclear],
            [prompts[row] for row in unclear],
            [texts[row] for row in unclear],
        )
        for row, border in zip(unclear, found, strict=True):
            borders[row] = border
        readings = []
        for row, border in enumerate(borders):
            whole, response = wholes[row], alone[row]
            if count_border:
                skipped = max(0, min(counts[row], len(whole)) - border)
                readings.append((whole, response, counts[row], skipped))
                continue
            if not self.text.special_ids.isdisjoint(whole[border:]):
                text = responses[row]
                whole, border = self.text.pair_with_plain_response(prompts[row], text)
                (response,) = self.text.ids_of_marked([MarkedText(text, [(0, len(text))])])
            readings.append((whole, response, border, 0))
        return readings

    def _begins_with(self, whole: Ids, prompt: Ids) -> bool:
        """Tell whether the prompt's tokens stand unchanged in the whole.

        An unknown token at their end may hold characters of the response too.
        """
        if not len(prompt):
            return True
        return whole[: len(prompt)] == prompt and prompt[-1] != self.tokenizer.unk_token_id

    def _beginning(self) -> int:
        """Return BOS, or EOS where there is none."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        token = eos if bos is None else bos
        if token is None:
            raise SuperfilterError(
                f"the tokenizer of {self.name} has no BOS token, which this setting needs"
            )
        return int(token)

    def _end(self) -> int:
        """Return EOS, or where there is none what the tokenizer puts behind a text."""
        eos = self.tokenizer.eos_token_id
        if eos is None and self.text.behind:
            eos = self.text.behind[0]
        if eos is None:
            raise SuperfilterError(
                f"the tokenizer of {self.name} has no EOS token, which this setting needs"
            )
        return int(eos)
