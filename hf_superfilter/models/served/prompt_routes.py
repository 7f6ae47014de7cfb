"""Ask for the log-probabilities of a prompt's tokens, and read the answer: the two ways there are.

    PromptLogprobs    vLLM's `prompt_logprobs`: for each place a mapping from token ids
    Echo              the `echo` of OpenAI's completions: for each place a number and a text

Each reads a choice of the server's answer as three lists with an entry for each of the n tokens
that were sent: log-probabilities (nan for the first), spellings, the likeliest token's
log-probability (for all but the first). What an answer lacks is a `LookupError`; what belongs to
other tokens than were sent is a `WrongAnswerError`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import SuperfilterError


class WrongAnswerError(SuperfilterError):
    """Report that a server's numbers do not belong to the tokens that were sent."""


class PromptRoute(Protocol):
    """Say how to ask a server for prompt log-probabilities, and read what it answers."""

    @property
    def name(self) -> str:
        """What the manifest records."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Parameters of the request."""

    def with_likeliest(self) -> "PromptRoute":
        """Return how to ask for the likeliest token in every place too."""

    def logprobs(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read the log-probability of each token, nan for the first."""

    def spellings(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[Any]:
        """List how the server spells the tokens, None for those it does not; [] for none."""

    def likeliest(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read the log-probability of the likeliest token in each place but the first, or nan."""


@dataclass(frozen=True)
class PromptLogprobs:
    """Ask for vLLM's `prompt_logprobs`.

    Attributes:
        top: of how many tokens it tells more than the prompt's own.
    """

    top: int = 0
    name = "prompt_logprobs"

    @property
    def options(self) -> Mapping[str, Any]:
        """Parameters of the request; at least one token has to be generated."""
        return {"max_tokens": 1, "extra_body": {"prompt_logprobs": self.top}}

    def with_likeliest(self) -> "PromptLogprobs":
        """Return how to ask for the likeliest token in every place too."""
        return PromptLogprobs(top=1)

    def logprobs(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read the log-probability of each token, nan for the first."""
        positions = choice.get("prompt_logprobs")
        if not positions or len(positions) == 1 < len(ids):  # null alone, as vllm-metal answers
            raise LookupError("the answer holds no prompt_logprobs")
        if len(positions) != len(ids):
            raise _other_number("positions", len(positions), len(ids))
        logprobs = [math.nan]
        for number, entries in zip(ids[1:], positions[1:], strict=True):
            if str(number) not in entries:
                raise WrongAnswerError(f"token {number} is not among {', '.join(entries)}")
            logprobs.append(float(entries[str(number)]["logprob"]))
        return logprobs

    def spellings(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[Any]:
        """List how the server spells the tokens, None for the first and where it does not."""
        entries = zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
        return [None, *(entry[str(number)].get("decoded_token") for number, entry in entries)]

    def likeliest(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read the log-probability of the token of rank 1 in each place but the first, or nan."""
        entries = [list(entry.values()) for entry in choice["prompt_logprobs"][1:]]
        return [
            _highest([one["logprob"] for one in entry if one.get("rank") == 1]) for entry in entries
        ]


@dataclass(frozen=True)
class Echo:
    """Ask for the `echo` of OpenAI's completions.

    Attributes:
        generated: tokens to generate; some servers take none with `echo`, others want one.
        top: of how many tokens it tells in each place.
    """

    generated: int
    top: int
    name = "echo"

    @property
    def options(self) -> Mapping[str, Any]:
        """Parameters of the request."""
        return {"max_tokens": self.generated, "echo": True, "logprobs": self.top}

    def with_likeliest(self) -> "Echo":
        """Return how to ask for the likeliest token in every place too."""
        return Echo(generated=1, top=1)

    def logprobs(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read one number a token, null for the first; one generated token may follow them."""
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        if not logprobs:
            raise LookupError("the answer holds no token_logprobs")
        if len(logprobs) == 1 < len(ids):
            raise LookupError("the answer is about the generated token alone")
        if len(logprobs) not in (len(ids), len(ids) + 1):
            raise _other_number("log-probabilities", len(logprobs), len(ids))
        if any(logprob is None for logprob in logprobs[1 : len(ids)]):
            raise LookupError("some tokens have no log-probability")
        return [math.nan, *map(float, logprobs[1 : len(ids)])]

    def spellings(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[Any]:
        """List how the server spells the tokens; [] where it does not."""
        spelled = choice["logprobs"].get("tokens")
        return spelled[: len(ids)] if isinstance(spelled, list) else []

    def likeliest(self, choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
        """Read the highest number of each place but the first; nan where none is listed."""
        listed = choice["logprobs"].get("top_logprobs") or []
        places = [*listed, *[None] * len(ids)][1 : len(ids)]
        return [_highest(list(top.values()) if isinstance(top, Mapping) else []) for top in places]


ROUTES: tuple[PromptRoute, ...] = (
    PromptLogprobs(),
    Echo(generated=0, top=0),
    Echo(generated=1, top=1),
)


def _highest(logprobs: Sequence[Any]) -> float:
    return max(map(float, logprobs), default=math.nan)


def _other_number(what: str, count: int, sent: int) -> WrongAnswerError:
    reason = f"{count:,} {what} for {sent:,} tokens"
    if count < sent - 1:
        reason += ", as where a server cuts a text to its window: lower max_length"
    return WrongAnswerError(reason)
