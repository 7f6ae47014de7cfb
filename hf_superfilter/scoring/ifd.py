"""Compute instruction-following difficulty (IFD, arXiv 2402.00530)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import Batch, Columns, CountedColumns
from ..data.chats import flatten_turns
from ..errors import SuperfilterError, did_you_mean
from ._model import SidedSettings, default_name
from ._rows import as_counts

VARIANTS = ("superfiltering", "bos", "aligned", "loss_ratio")
SKIPPED = "rows whose first response tokens the authors' border leaves out"
COUNTED_VARIANTS = ("superfiltering", "loss_ratio")  # whose authors count the prompt's tokens


@dataclass(frozen=True, repr=False)
class IFD(SidedSettings):
    """Score how little the prompt helps to predict the response.

    `IFD = PPL(response | prompt) / PPL(response) = exp(L_given - L_alone)`, L the mean negative
    log-likelihood per response token, in nats. Above 1 the prompt misleads (a misaligned pair);
    near 0 the prompt gives the response away. Keep `ifd < 1`, then the HIGHEST:
    `Threshold("ifd", below=1.0)`, `TopK("ifd", k)`. Superfiltering, arXiv 2402.00530, section 2.

    Columns, float64, counts int64: `ifd`; `ifd_ppl` and `ifd_ppl_alone`, the two perplexities;
    `ifd_tokens`, the tokens scored given the prompt; `ifd_status`, `ok`, `truncated` (cut at
    `max_length` and scored), or why the numbers are nan: `empty_response`, `no_prompt` (plain text,
    an opening assistant turn, an empty instruction), `too_short` (one token and none in front:
    nothing to score alone), `prompt_too_long`, `not_finite`. A chat has one value: both means run
    over the assistant turns that have a prompt and can be scored in both passes.

    Args:
        variant: the tools of the field disagree on what IFD is:
            `superfiltering` - the authors' procedure (see `pair_of_windows`): without BOS the first
            response token counts in the pass with the prompt only;
            `bos` - BOS, or EOS where there is none, before both: both passes score every response
            token;
            `aligned` - both passes leave the first response token out;
            `loss_ratio` - `L_given / L_alone`, as in the ancestor, Cherry_LLM (arXiv 2308.12032).
        rejected: score the response that a preference turns down, too: `ifd_rejected`,
            `ifd_rejected_status`, and `ifd_difference`, `ifd - ifd_rejected`.

    Example:
        >>> from hf_superfilter import IFD, embedded_model
        >>> ifd = IFD(embedded_model("weak"))
        >>> columns = ifd({"prompt": ["Hi."] * 2, "response": ["Hello there, my friend.", ""]})
        >>> ratio = columns["ifd_ppl"][0] / columns["ifd_ppl_alone"][0]
        >>> bool(abs(ratio - columns["ifd"][0]) < 1e-12)
        True
        >>> columns["ifd_status"], float(columns["ifd"][1])
        (['ok', 'empty_response'], nan)
    """

    arithmetic: ClassVar[int] = 2  # 2: without a prompt there is no IFD

    variant: str = "superfiltering"
    rejected: bool = False
    name: str = default_name("ifd")

    def __post_init__(self) -> None:
        """Check the variant too."""
        super().__post_init__()
        if self.variant not in VARIANTS:
            suggestion = did_you_mean(str(self.variant), VARIANTS)
            raise SuperfilterError(f"variant={self.variant!r}: {suggestion}")

    def _score(self, batch: Batch, columns: tuple[str, str], rank: int | None) -> Columns:
        lm = self.language_model(rank)
        turns = flatten_turns(batch, columns)
        has_prompt = turns.has_prompt
        responses = list(turns.responses)
        for turn in np.flatnonzero(~has_prompt):
            responses[turn] = ""  # costs nothing
        pairs = lm.windows(
            turns.prompts,
            responses,
            max_length=self.max_length,
            bos=self.variant == "bos",
            skip_first=self.variant == "aligned",
            count_border=self.variant in COUNTED_VARIANTS,
        )
        # Both passes go through one queue: its batches are fuller.
        windows = [pair.given for pair in pairs] + [pair.alone for pair in pairs]
        means, counts = lm.losses(windows, self.batch_tokens)
        nats, tokens = means.reshape(2, -1), counts.reshape(2, -1)  # (2, turns): given, alone
        scored = (tokens[0] > 0) & (tokens[1] > 0)
        tokens = np.where(scored, tokens, 0)
        given, alone = turns.mean(nats[0], tokens[0]), turns.mean(nats[1], tokens[1])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ppl, ppl_alone = np.exp(given), np.exp(alone)
            ifd = np.exp(given - alone)
            if self.variant == "loss_ratio":
                ifd = given / alone
        finite = np.isfinite(ifd) & np.isfinite(ppl) & np.isfinite(ppl_alone)
        statuses = [_worse(pair.given.status, pair.alone.status) for pair in pairs]
        for turn in np.flatnonzero(~has_prompt):
            if turns.responses[turn].strip():
                statuses[turn] = "no_prompt"
        skipped = turns.total(np.array([pair.given.skipped > 0 for pair in pairs], dtype=float))
        values: Columns = {
            self.name: np.where(finite, ifd, np.nan),
            f"{self.name}_ppl": np.where(finite, ppl, np.nan),
            f"{self.name}_ppl_alone": np.where(finite, ppl_alone, np.nan),
            f"{self.name}_tokens": as_counts(turns.total(tokens[0])),
            f"{self.name}_status": turns.statuses(statuses, scored, finite),
        }
        return CountedColumns(values, {SKIPPED: int(np.count_nonzero(skipped))})


def _worse(given: str, alone: str) -> str:
    """Return the worse status: undefined, then truncated, then ok."""
    if given == "ok":
        return alone
    if given == "truncated" and alone != "ok":
        return alone
    return given
