"""Compare a row's own prompt with prompts of other rows: does the response belong to it?"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Batch, Columns
from ..checks import is_count, plain_numbers
from ..data.chats import Turns, flatten_turns
from ..errors import SuperfilterError
from ..models.tokenization import Pair, Window
from ._model import ServedSettings, default_name
from ._prepared import read_prepared, write_once
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "prompts.json"
SAMPLED_ROWS = 1_000  # whose prompts are looked at
KEPT_PROMPTS = 64
LONGEST = 0.9  # quantile of the prompts' lengths up to which they are kept: the rest cost most
MOST_OTHERS = 16
TELLING = 32  # characters of a response that no prompt of another row holds by chance


@dataclass(frozen=True, repr=False)
class PromptMatch(ServedSettings):
    """Score whether a response belongs to its own prompt rather than to another row's.

    `prompt_match = min_j L(r | q_j) - L(r | p)`, L the mean negative log-likelihood per token of
    the response r, in nats; p is the row's prompt and q_j are `others` prompts of other rows. Above
    0 the own prompt predicts the response better than all of the others; at or below 0 it does no
    better than a stranger's, as where prompts and responses were shifted or joined wrongly. IFD
    alone is near 1 on such rows, which puts them at the top of a selection: keep
    `Threshold("prompt_match", above=0.0)` before the best by IFD. The contrast is that of InfoNCE
    (arXiv 1807.03748, section 2.3) with the prompts as negatives; none of the papers on IFD has it.

    `score` draws the prompts (`prepare`) by itself: 64 different ones of 1,000 rows, the longest
    tenth left out, kept as `prompts.json` in the run folder; with `map` call `prepare(rows,
    folder)` before. A row is compared with the same prompts whatever rows are around it, and with
    earlier or later prompts of its own chat, and such as hold its response, only where there are
    not enough others.

    Columns, float64, counts int64: `prompt_match`; `prompt_match_tokens`, the response tokens
    compared, those of the shortest comparison where a window was cut; `prompt_match_status`, `ok`,
    `truncated`, or why it is nan: `empty_response`, `no_prompt`, `too_short`, `prompt_too_long`,
    `not_finite`, `unreadable`. A chat has one value, over the tokens of all its assistant turns
    that have a prompt.

    The other arguments say which model is run and how, as in `ModelSettings` (`revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`) and, where it
    stands behind a server, in `ServedSettings` (`endpoint`, `tokenizer`).

    Args:
        others: prompts to compare with, each a further pass. A response that fits none of them is
            above 0 by chance, once in `others + 1` rows, so that one alone is not enough.
        prompts: the file of prompts drawn before, to compare with those.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import PromptMatch, score
        >>> prompts = ["Say red, red and red.\\n", "Count: one, two.\\n"]
        >>> rows = Dataset.from_dict({"prompt": prompts, "response": ["Red, red.", "One, two."]})
        >>> table = score(rows, [PromptMatch("embedded:weak", others=1)], "runs/match")
        >>> table["prompt_match_status"][:]
        ['ok', 'ok']
    """

    arithmetic: ClassVar[int] = 2  # 2: no prompts of the row's own chat

    others: int = 3
    prompts: str | None = None
    name: str = default_name("prompt_match")

    def __post_init__(self) -> None:
        """Check the number of other prompts too."""
        super().__post_init__()
        plain_numbers(self, "others")
        if not is_count(self.others) or self.others > MOST_OTHERS:
            raise SuperfilterError(
                f"others={self.others!r}: give a number of prompts to compare with, from 1 to "
                f"{MOST_OTHERS}"
            )
        if self.prompts is not None:
            object.__setattr__(self, "prompts", str(self.prompts))

    def identity(self) -> dict[str, Any]:
        """Return the model's revision, and a digest of the prompts once they are drawn."""
        identity = super().identity()
        if self.prompts is not None:
            identity["prompts"] = _read(self.prompts)[1]
        return identity

    def prepare(self, rows: "Dataset", folder: str) -> "PromptMatch":
        """Draw prompts of the rows into a file of the folder.

        Called again it only names the file.

        Raises:
            SuperfilterError: no such column, or fewer different prompts than are compared.
        """
        if self.prompts is not None:
            return self
        file = write_once(folder, FILE, lambda: json.dumps(self._draw_prompts(rows)).encode())
        return dataclasses.replace(self, prompts=file)

    def _draw_prompts(self, rows: "Dataset") -> list[str]:
        rng = np.random.default_rng(0)
        drawn = np.sort(rng.choice(len(rows), min(len(rows), SAMPLED_ROWS), replace=False))
        turns = flatten_turns(rows.with_format(None).select(drawn)[:], self.columns)
        different = sorted({prompt for prompt in turns.prompts if prompt.strip()})
        if len(different) <= self.others:
            raise SuperfilterError(
                f"others={self.others}: the {len(drawn):,} rows that were looked at have "
                f"{len(different)} different prompts, and a row is compared with "
                f"{self.others} that are not its own: lower others, or leave PromptMatch out"
            )
        lengths = np.array([len(prompt) for prompt in different])
        limit = np.quantile(lengths, LONGEST)
        short = [prompt for prompt in different if len(prompt) <= limit]
        if len(short) <= self.others:
            short = different
        count = min(len(short), KEPT_PROMPTS)
        return [short[place] for place in rng.choice(len(short), count, replace=False)]

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows.

        Raises:
            SuperfilterError: `prepare` was not called, or a column is missing.
        """
        if self.prompts is None:
            raise SuperfilterError(
                "PromptMatch has to see all rows before it scores the first: use score(rows, "
                "[PromptMatch(model)], folder), or PromptMatch(model).prepare(rows, folder), which "
                "returns a scorer for map"
            )
        pool = _read(self.prompts)[0]
        if len(pool) <= self.others:
            raise SuperfilterError(
                f"others={self.others}: {self.prompts!r} holds {len(pool)} prompts, and a row is "
                f"compared with {self.others} that are not its own"
            )
        lm = self.losses_by(rank)
        turns = flatten_turns(batch, self.columns)
        # Turns without a prompt cost nothing.
        responses = [
            response if prompt.strip() else ""
            for prompt, response in zip(turns.prompts, turns.responses, strict=True)
        ]
        strangers = [
            _prompts_of_others(pool, prompt, response, self.others)
            for prompt, response in zip(turns.prompts, turns.responses, strict=True)
        ]
        prompts = [*turns.prompts]
        for place in range(self.others):
            prompts += [of_turn[place] for of_turn in strangers]
        pairs = lm.windows(prompts, responses * (1 + self.others), max_length=self.max_length)
        windows = [pair.given for pair in pairs]
        losses, counts = lm.token_losses(windows, self.batch_tokens)
        by_window = np.split(losses, np.cumsum(counts)[:-1])
        own, count = windows[: len(responses)], len(responses)
        gains, tokens = np.zeros((self.others, count)), np.zeros((self.others, count), np.int64)
        for other in range(self.others):
            first = (1 + other) * count
            for turn in range(count):
                of_turn = _gains(
                    own[turn], windows[first + turn], by_window[turn], by_window[first + turn]
                )
                tokens[other, turn] = len(of_turn)
                gains[other, turn] = of_turn.mean() if len(of_turn) else 0.0
        return self._columns(turns, own, gains, tokens)

    def _columns(
        self, turns: Turns, own: Sequence[Window], gains: np.ndarray, tokens: np.ndarray
    ) -> Columns:
        """Build the columns from the (others, turns) mean gains over (others, turns) tokens.

        A prompt that leaves a response no room is not compared with.
        """
        lowest = np.full(turns.count, np.inf)
        for of_other, count in zip(gains, tokens, strict=True):
            is_compared = turns.total(count) > 0
            lowest = np.where(is_compared, np.minimum(lowest, turns.mean(of_other, count)), lowest)
        finite = np.isfinite(lowest)
        used = tokens.sum(axis=0) > 0
        statuses = []
        for turn, window in enumerate(own):
            status = window.status
            if not turns.prompts[turn].strip() and turns.responses[turn].strip():
                status = "no_prompt"
            elif window.scored and not used[turn]:
                status = "prompt_too_long"
            statuses.append(status)
        shortest = np.where(tokens > 0, tokens, np.iinfo(np.int64).max).min(axis=0)
        return {
            self.name: np.where(finite, lowest, np.nan),
            f"{self.name}_tokens": as_counts(turns.total(np.where(used, shortest, 0))),
            f"{self.name}_status": turns.statuses(statuses, used, finite),
        }


def _prompts_of_others(pool: Sequence[str], prompt: str, response: str, count: int) -> list[str]:
    """Pick prompts that are not the row's own, by its texts alone."""
    digest = hashlib.sha256(f"{prompt}\0{response}".encode(errors="surrogatepass")).digest()
    first = int.from_bytes(digest[:8], "big") % len(pool)
    turned = [other for other in [*pool[first:], *pool[:first]] if other != prompt]
    strangers = [other for other in turned if not _is_related(other, prompt, response)]
    if len(strangers) < count:
        strangers += [other for other in turned if other not in strangers]
    return strangers[:count]


def _is_related(other: str, prompt: str, response: str) -> bool:
    """Tell whether a prompt is of the same chat, or gives the response away."""
    own, text = prompt.strip(), response.strip()
    if own and (other.startswith(own) or own.startswith(other.strip())):
        return True
    return len(text) >= TELLING and text in other


def _gains(
    own: Window, other: Window, own_losses: np.ndarray, other_losses: np.ndarray
) -> np.ndarray:
    """Subtract the losses of the tokens that both windows score, other - own, in nats."""
    own_part, other_part = Pair(own, other).common
    gains: np.ndarray = other_losses[other_part] - own_losses[own_part]
    return gains


def _read(file: str) -> tuple[tuple[str, ...], str]:
    """Read a file of prompts and its digest, again when it changed."""
    missing = f"no prompts {file!r}: draw them with PromptMatch(model).prepare(rows, folder)"
    data, digest = read_prepared(file, missing)
    return _parse(data), digest


@lru_cache(maxsize=2)
def _parse(data: bytes) -> tuple[str, ...]:
    return tuple(json.loads(data))
