"""Score the reasoning and the answer of a response apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..base import Batch, Columns
from ..data.chats import Turns, flatten_turns
from ..data.messages import TAGGED_REASONING
from ..data.pairs import reasoning_column
from ..models.text_tokenizer import token_ids
from ..models.tokenization import Window, mean_by_window
from ._model import ModelSettings, default_name
from ._rows import as_counts, takes_rows


class Split(NamedTuple):
    """Hold a response in two.

    Attributes:
        reasoning: its beginning, with its tags and the blanks behind them; "" where there is none.
        answer: the rest.
    """

    reasoning: str
    answer: str


@dataclass(frozen=True, repr=False)
class Reasoning(ModelSettings):
    """Score the reasoning of a response, its answer, and what the one does for the other.

    For a response of reasoning z and answer a, L the mean negative log-likelihood per token in
    nats: `reasoning = exp(L(z | prompt))`; `reasoning_answer = exp(L(a | prompt, z))`; and
    `reasoning_gain = L(a | prompt) - L(a | prompt, z)`, above 0 where the reasoning leads to the
    answer. Two passes. Long traces of hard questions are worth training on after Select2Reason
    (arXiv 2505.17266): `Combine({"difficulty": 3, "reasoning_tokens": 1})`.

    The reasoning is what stands at the beginning of a response in tags (`think`, `thinking`,
    `thought`, `reasoning`, `seed:think`, `[THINK]`) or in gpt-oss's channel `analysis`, the opening
    mark perhaps in the prompt; or what `format_pairs(reasoning="split")`
    took from a field such as `reasoning_content` into the column `response_reasoning`. A token that
    holds a character of the answer belongs to the answer.

    Columns, float64, counts int64: the three; `reasoning_tokens` and `reasoning_answer_tokens`,
    the length of each part with its tags, also beyond `max_length`, 0 where there is none;
    `reasoning_status`, `ok`, `truncated`,
    or why `reasoning` is nan: `no_reasoning` (the answer is scored all the same),
    `empty_response`, `too_short`, `prompt_too_long`, `not_finite`, `unreadable`.
    `reasoning_answer` and `reasoning_gain` are nan where no answer fits into `max_length`. A chat
    has one value, over the tokens of all turns.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Example:
        >>> from hf_superfilter import Reasoning
        >>> row = {"prompt": ["1 + 1?\\n"], "response": ["<think>One and one.</think>\\nTwo."]}
        >>> columns = Reasoning("embedded:weak")(row)
        >>> columns["reasoning_status"], bool(columns["reasoning_tokens"][0] > 5)
        (['ok'], True)
    """

    arithmetic: ClassVar[int] = 2  # 2: more kinds of tags are reasoning

    name: str = default_name("reasoning")

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The column of reasoning, where the rows have one."""
        return (reasoning_column(self.columns[1]),)

    def columns_read(self, names: Sequence[str]) -> list[str]:
        """List the columns that it reads, the reasoning only where there is one."""
        return [*self.columns, *(name for name in self.more_columns if name in names)]

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        lm = self.language_model(rank)
        turns = flatten_turns(batch, self.columns)
        splits = self._splits(batch, turns)
        options: dict[str, Any] = {"max_length": self.max_length}
        prompts = turns.prompts
        answers = [split.answer for split in splits]
        led = [prompt + split.reasoning for prompt, split in zip(prompts, splits, strict=True)]
        wholes = [pair.given for pair in lm.windows(prompts, turns.responses, **options)]
        behind = [pair.given for pair in lm.windows(led, answers, **options)]
        plain = [pair.given for pair in lm.windows(prompts, answers, **options)]
        losses, counts = lm.token_losses([*wholes, *plain], self.batch_tokens)
        means, tokens = _by_part(losses, counts, list(map(_border, wholes, behind, splits)))
        alone = mean_by_window(losses, counts)[len(wholes) :]
        texts = [split.reasoning if _thinks(split) else "" for split in splits]
        lengths = [[len(ids) for ids in token_ids(lm.tokenizer, part)] for part in (texts, answers)]
        columns = self._scores(turns, wholes, means, tokens, alone)
        columns[f"{self.name}_tokens"] = as_counts(turns.total(np.array(lengths[0])))
        columns[f"{self.name}_answer_tokens"] = as_counts(turns.total(np.array(lengths[1])))
        return columns

    def _splits(self, batch: Batch, turns: Turns) -> list[Split]:
        """Split the response of each turn."""
        (column,) = self.more_columns
        reasonings = [""] * len(turns.responses)
        if column in batch:
            told = flatten_turns({**batch, self.columns[1]: batch[column]}, self.columns)
            if len(told.responses) == len(reasonings):
                reasonings = told.responses
        return list(map(split_response, turns.responses, reasonings))

    def _scores(
        self,
        turns: Turns,
        wholes: list[Window],
        means: np.ndarray,
        tokens: np.ndarray,
        alone: np.ndarray,
    ) -> Columns:
        """Join the turns to rows.

        Args:
            means: (2, turns) nats of reasoning and answer; tokens: how many of each.
            alone: (turns,) nats of the answer without the reasoning.
        """
        both = np.where((tokens[0] > 0) & np.isfinite(alone), tokens[1], 0)
        with np.errstate(over="ignore", invalid="ignore"):
            reasoning = np.exp(turns.mean(means[0], tokens[0]))
            answer = np.exp(turns.mean(means[1], tokens[1]))
            gain = turns.mean(alone - means[1], both)
        finite = np.isfinite(reasoning)
        statuses = turns.statuses([window.status for window in wholes], tokens[0] > 0, finite)
        answered = turns.total(tokens[1]) > 0
        for row in np.flatnonzero(answered & (turns.total(tokens[0]) == 0)):
            statuses[row] = "no_reasoning"
        return {
            self.name: np.where(finite, reasoning, np.nan),
            f"{self.name}_answer": np.where(np.isfinite(answer), answer, np.nan),
            f"{self.name}_gain": np.where(np.isfinite(gain), gain, np.nan),
            f"{self.name}_status": statuses,
        }


def split_response(response: str, reasoning: str = "") -> Split:
    """Split a response into its reasoning and its answer.

    Args:
        reasoning: what stands in front of the answer without tags, where that is known.

    Example:
        >>> split_response("<think>two and two</think>\\n4")
        Split(reasoning='<think>two and two</think>\\n', answer='4')
        >>> split_response("two and two\\n4", "two and two")
        Split(reasoning='two and two\\n', answer='4')
    """
    tagged = TAGGED_REASONING.match(response)
    end = 0
    if tagged is not None:
        end = tagged.end()
    elif reasoning and response.startswith(reasoning):
        end = len(reasoning)
        end += len(response[end:]) - len(response[end:].lstrip())
    return Split(response[:end], response[end:])


def _thinks(split: Split) -> bool:
    """Tell whether there is more to a reasoning than its tags."""
    tagged = TAGGED_REASONING.match(split.reasoning)
    text = split.reasoning if tagged is None else tagged.group(1)
    return bool(text.strip())


def _border(whole: Window, behind: Window, split: Split) -> int:
    """Count the scored tokens of a response that belong to its reasoning.

    Args:
        whole: the response behind its prompt.
        behind: its answer behind prompt and reasoning, the same text with a later border.
    """
    if not _thinks(split):
        return 0
    if not split.answer.strip():
        return whole.scored
    if list(whole.ids) == list(behind.ids):
        return max(0, min(behind.start, len(whole.ids)) - whole.start)
    # Special tokens in a response are text and in a prompt are not: count from the end.
    return max(0, whole.scored - behind.scored)


def _by_part(
    losses: np.ndarray, counts: np.ndarray, borders: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Average the losses of the first windows before and behind their borders.

    Returns:
        (2, n) nats and (2, n) tokens of the reasoning and of the answer.
    """
    means = np.full((2, len(borders)), np.nan)
    tokens = np.zeros((2, len(borders)), dtype=np.int64)
    for row, of_row in enumerate(np.split(losses, np.cumsum(counts)[:-1])[: len(borders)]):
        for part, values in enumerate((of_row[: borders[row]], of_row[borders[row] :])):
            tokens[part, row] = len(values)
            if len(values):
                means[part, row] = values.mean()
    return means, tokens
