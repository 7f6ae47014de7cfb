"""Compute the perplexity of a response given its prompt."""

from dataclasses import dataclass

import numpy as np

from ..base import Batch, Columns
from ..checks import check_switch
from ..data.chats import flatten_turns
from ._model import SidedSettings, default_name
from ._rows import as_counts


@dataclass(frozen=True, repr=False)
class Perplexity(SidedSettings):
    """Score the response by its perplexity given the prompt.

    `PPL = exp(1/n sum_t -log p(r_t | prompt, r_<t))`, the mean over the n tokens that hold a
    character of the response, in nats; 1 to infinity. To keep fluent text, keep the LOW values
    (`TopK("ppl", k, largest=False)`); Superfiltering found the highest ones a poor selection.

    Columns, float64, counts int64: `ppl`; `ppl_tokens`, the scored tokens; `ppl_status`, `ok`,
    `truncated`, or why `ppl` is nan: `empty_response`, `too_short`, `prompt_too_long`,
    `not_finite`. A chat has one value, over the tokens of all its assistant turns. Rows without a
    prompt (plain text) are scored from their second token on, and from the first where the
    tokenizer puts a token in front.

    The other arguments say which model is run and how, as in `ModelSettings` (`revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`) and, where it
    stands behind a server, in `ServedSettings` (`endpoint`, `tokenizer`).

    Args:
        append_eos: score the end-of-text token as the response's last one, as arXiv 2402.10430
            does.
        rejected: score the response that a preference turns down, too: `ppl_rejected`,
            `ppl_rejected_status`, and `ppl_difference`, `ppl - ppl_rejected`.

    Example:
        >>> from hf_superfilter import Perplexity, embedded_model
        >>> columns = Perplexity(embedded_model("weak"))({"prompt": ["Hi.\\n"], "response": [""]})
        >>> columns["ppl"].tolist(), columns["ppl_status"]
        ([nan], ['empty_response'])
    """

    append_eos: bool = False
    rejected: bool = False
    name: str = default_name("ppl")

    def __post_init__(self) -> None:
        """Check the end of text too."""
        super().__post_init__()
        check_switch("append_eos", self.append_eos)

    def _score(self, batch: Batch, columns: tuple[str, str], rank: int | None) -> Columns:
        lm = self.losses_by(rank)
        turns = flatten_turns(batch, columns)
        pairs = lm.windows(
            turns.prompts,
            turns.responses,
            max_length=self.max_length,
            append_eos=self.append_eos,
        )
        windows = [pair.given for pair in pairs]
        nats, tokens = lm.losses(windows, self.batch_tokens)
        scored = tokens > 0
        with np.errstate(over="ignore"):
            ppl = np.exp(turns.mean(nats, tokens))
        finite = np.isfinite(ppl)
        statuses = [window.status for window in windows]
        return {
            self.name: np.where(finite, ppl, np.nan),
            f"{self.name}_tokens": as_counts(turns.total(tokens)),
            f"{self.name}_status": turns.statuses(statuses, scored, finite),
        }
