"""Texts as the windows that a causal language model scores; it takes a tokenizer, and no weights."""

from collections.abc import Sequence
from typing import Any

from .loading import token_ids
from .windows import Pair, pair_of_windows

DEFAULT_MAX_LENGTH = 1_024  # the Superfiltering authors' window


def limit_of(max_length: int | None, window: int, name: str) -> int:
    """The tokens that are read at most: `max_length`, else 1,024 or the model's window where that is shorter.

    Raises:
        ValueError: more than the window of the model of that name.
    """
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, window)
    if max_length > window:
        raise ValueError(f"max_length={max_length}, but {name} reads at most {window} tokens: lower it")
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
            raise ValueError(f"the tokenizer of {self.name} has no {wanted.upper()} token, which this setting needs")
        return token
