"""Turn prompts and responses into token windows, and decide which tokens are scored.

prompt + response, one tokenisation              response alone
ids     g p0 p1 p2 r0 r1 r2                      ids     g r0 r1 r2
scored             r0 r1 r2    start = 4         scored    r0 r1 r2    start = 1

g stands for the tokens, none or several, that the tokenizer itself puts in front of a text. The
border of prompt and response is found by characters: a token that holds a character of the
response is scored. The Superfiltering authors' own rule (arXiv 2402.00530) takes the number of the
prompt's tokens instead.
"""

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import SuperfilterError
from .fork_safety import after_fork

SCORED = ("ok", "truncated")
DEFAULT_MAX_LENGTH = 1_024  # tokens: the Superfiltering authors' window

Ids = Sequence[int]
Span = tuple[int, int]


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


class MarkedText(NamedTuple):
    """Hold a text, and the spans of it in which nothing is a special token.

    Attributes:
        text: the whole text.
        plain: (start, end) of the spans, in order, in characters.
    """

    text: str
    plain: Sequence[Span] = ()

    def pieces(self) -> list[tuple[str, bool]]:
        """Cut the text into (piece, whether it is plain), none of them empty."""
        pieces, last = [], 0
        for start, end in self.plain:
            pieces += [(self.text[last:start], False), (self.text[start:end], True)]
            last = end
        pieces.append((self.text[last:], False))
        return [(piece, is_plain) for piece, is_plain in pieces if piece]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, without special tokens and uncut."""
    after_fork()
    if not len(texts):
        return []
    if not tokenizer.is_fast:
        encodings = tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return list(encodings["input_ids"])
    # The engine alone, without what transformers makes of every text besides: 0.2 s instead of
    # 0.38 s for 1,000 Alpaca rows and IFD.
    engine = tokenizer.backend_tokenizer
    # A call of the tokenizer by someone else may have left these switched on.
    if engine.truncation is not None:
        engine.no_truncation()
    if engine.padding is not None:
        engine.no_padding()
    if engine.encode_special_tokens != tokenizer.split_special_tokens:
        engine.encode_special_tokens = tokenizer.split_special_tokens
    encoded = engine.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encoded]


class TextTokenizer:
    """Tokenize texts as a model's tokenizer does, with borders and special tokens under control.

    Args:
        name: the model's, for messages.
        tokenizer: a tokenizer of transformers, fast or slow.

    Attributes:
        front: token ids that the tokenizer itself puts in front of a text: `<s>`, `[gMASK] <sop>`,
            a language code.
        behind: those that it puts behind one: `</s>`, `[SEP]`.

    Raises:
        ValueError: the tokenizer does not keep a text's tokens together.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.front, self.behind = self._around()

    def _around(self) -> tuple[list[int], list[int]]:
        """Find the ids that the tokenizer puts in front of and behind a text."""
        for text in ("x", "a", "1", "."):
            marked, plain = self.tokenizer(text)["input_ids"], self.ids([text])[0]
            for start in range(len(marked) - len(plain) + 1):
                if plain and marked[start : start + len(plain)] == plain:
                    return marked[:start], marked[start + len(plain) :]
        raise SuperfilterError(
            f"the tokenizer of {self.name} changes the tokens of a text when it adds special "
            "tokens: what it puts in front cannot be told; use another tokenizer"
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts with nothing around them; special tokens in them are read as such."""
        return token_ids(self.tokenizer, texts)

    @cached_property
    def special(self) -> dict[str, int]:
        """The special tokens that a text may hold, with their ids."""
        added = self.tokenizer.added_tokens_decoder
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens."""
        return frozenset(self.special.values())

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        # Longest first: of several that fit at one place, tokenizers take the longest.
        contents = sorted(self.special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, contents)) or r"(?!)")

    def ids_of_marked(self, texts: Sequence[MarkedText]) -> list[list[int]]:
        """Tokenize texts with plain spans: special tokens in those stay text.

        A slow tokenizer reads each span by itself where it matters.
        """
        ids = self.ids([marked.text for marked in texts])
        for row, marked in enumerate(texts):
            spans = (marked.text[start:end] for start, end in marked.plain)
            if any(self._special_text.search(span) for span in spans):
                ids[row] = self._literal_ids(marked)
        return ids

    def _literal_ids(self, marked: MarkedText) -> list[int]:
        pieces = marked.pieces()
        if self.tokenizer.is_fast:
            literal = self._literal
            stand_ins = [piece if is_plain else literal.mark(piece) for piece, is_plain in pieces]
            return literal.encode("".join(stand_ins)).ids
        ids = []
        for piece, is_plain in pieces:
            ids += self._slow_ids(piece, is_plain)
        return ids

    def pair_with_plain_response(self, prompt: str, response: str) -> tuple[list[int], int]:
        """Tokenize prompt + response; special tokens in the response stay text.

        Returns:
            The ids, and how many of them hold no character of the response.
        """
        if not self.tokenizer.is_fast:
            prompt_ids = self.ids([prompt])[0] if prompt else []
            return [*prompt_ids, *self._slow_ids(response, True)], len(prompt_ids)
        marked = self._literal.mark(prompt)
        encoding = self._literal.encode(marked + response)
        return encoding.ids, _border(encoding.offsets, len(marked))

    def borders(
        self, wholes: Sequence[Ids], prompts: Sequence[str], texts: Sequence[str]
    ) -> list[int]:
        """Count the tokens that hold no character of the response.

        Args:
            wholes: n lists of ids, of prompt + response.
            prompts, texts: the prompts, and prompt + response.

        Returns:
            n counts. A slow tokenizer tells no positions: there the tokens are decoded, and where
            that does not give the text back, all tokens count that are the same without the
            response.
        """
        after_fork()
        if self.tokenizer.is_fast:
            encodings = self._positions.encode_batch(list(texts), add_special_tokens=False)
            return [
                _border(encoding.offsets, len(prompt))
                for encoding, prompt in zip(encodings, prompts, strict=True)
            ]
        return [
            self._decoded_border(ids, prompt, text)
            for ids, prompt, text in zip(wholes, prompts, texts, strict=True)
        ]

    def cut(self, text: str, excess: int) -> str:
        """Cut the last `excess` tokens off a text, one character at least.

        More where a character takes several tokens, and blanks at the new end.
        """
        after_fork()
        if self.tokenizer.is_fast:
            offsets = self._positions.encode(text, add_special_tokens=False).offsets
            end = offsets[-excess][0] if excess < len(offsets) else 0
        else:
            ids = self.ids([text])[0]
            shorter = self._decode(ids[:-excess])
            # Where decoding does not give the text back, characters are cut in proportion.
            exact = text.startswith(shorter)
            end = len(shorter) if exact else len(text) * max(0, len(ids) - excess) // len(ids)
        return text[: min(end, len(text) - 1)].rstrip()

    def _decode(self, ids: Ids) -> str:
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")  # what is left of a character of which a token is missing

    def _decoded_border(self, ids: Ids, prompt: str, text: str) -> int:
        prompt_ids = self.ids([prompt])[0]
        border = 0
        while border < min(len(prompt_ids), len(ids)) and prompt_ids[border] == ids[border]:
            border += 1
        if self._decode(ids) == text:
            while border < len(ids) and len(self._decode(ids[: border + 1])) <= len(prompt):
                border += 1
        return border

    def _slow_ids(self, text: str, is_plain: bool) -> list[int]:
        encoding = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=is_plain, verbose=False
        )
        return list(encoding["input_ids"])

    @cached_property
    def _positions(self) -> Any:
        """The tokenizer's engine, with offsets that leave no blank of a token out."""
        engine = self.tokenizer.backend_tokenizer
        processor = engine.post_processor
        if processor is not None and b'"trim_offsets":true' in processor.__getstate__():
            return _copy_of(engine)
        return engine

    @cached_property
    def _literal(self) -> "LiteralEngine":
        return LiteralEngine(self.tokenizer.backend_tokenizer, self.special, self._special_text)


@lru_cache(maxsize=8)
def text_tokenizer(name: str, tokenizer: Any) -> TextTokenizer:
    """Return the one `TextTokenizer` of a loaded tokenizer."""
    return TextTokenizer(name, tokenizer)


class LiteralEngine:
    """Read special tokens as text, except where they are marked.

    A copy of the tokenizer's engine, to which every special token has a stand-in: a text that
    nobody writes, which is read as the token. So a text is tokenised as a whole, marked tokens and
    all.

    Args:
        engine: of a fast tokenizer; it is not changed.
        special: its special tokens, with their ids.
        pattern: finds them in a text.
    """

    def __init__(self, engine: Any, special: dict[str, int], pattern: re.Pattern[str]) -> None:
        from tokenizers import AddedToken

        self._engine, self._pattern = _copy_of(engine), pattern
        self._engine.encode_special_tokens = True
        added = engine.get_added_tokens_decoder()
        # Noncharacters, and a number that no row can know.
        nonce = secrets.token_hex(8)
        self._stand_ins = {text: f"\ufdd0{nonce}{text}\ufdd1" for text in special}
        tokens = []
        for text, number in special.items():
            original = added[number]
            tokens.append(
                AddedToken(
                    self._stand_ins[text],
                    single_word=original.single_word,
                    lstrip=original.lstrip,
                    rstrip=original.rstrip,
                    normalized=False,
                    special=False,
                )
            )
        self._engine.add_tokens(tokens)
        self._original = {
            self._engine.token_to_id(self._stand_ins[text]): number
            for text, number in special.items()
        }

    def mark(self, text: str) -> str:
        """Put the stand-ins in the place of the special tokens in a text."""
        return self._pattern.sub(lambda match: self._stand_ins[match[0]], text)

    def encode(self, text: str) -> "Encoded":
        """Tokenize a text whose special tokens are marked."""
        encoding = self._engine.encode(text, add_special_tokens=False)
        ids = [self._original.get(number, number) for number in encoding.ids]
        return Encoded(ids, encoding.offsets)


class Encoded(NamedTuple):
    """Hold token ids and the (start, end) of each token's characters."""

    ids: list[int]
    offsets: list[Span]


def _copy_of(engine: Any) -> Any:
    """Copy an engine without its post-processor, which may change offsets."""
    from tokenizers import Tokenizer

    settings = json.loads(engine.to_str())
    settings["post_processor"] = None
    return Tokenizer.from_str(json.dumps(settings))


def _border(offsets: Sequence[Span], length: int) -> int:
    """Count the tokens before the first that holds a character behind `length`."""
    for number, (start, end) in enumerate(offsets):
        if end > length or start >= length:
            return number
    return len(offsets)


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
