"""Turn texts into token ids as a model's tokenizer does, with borders and special tokens in hand.

    text with marked spans ──► token ids, of which those in the spans are plain text
    prompt + response      ──► token ids, and where the response begins

In a marked span the spelling of a special token, such as `<|im_end|>`, is characters; elsewhere it
is that token.
"""

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from ..errors import SuperfilterError
from .fork_safety import after_fork

Ids = Sequence[int]
Span = tuple[int, int]


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
