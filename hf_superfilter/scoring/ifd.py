"""Instruction-following difficulty (IFD): how much a prompt helps to predict its response."""

from dataclasses import dataclass

import numpy as np

from ..base import Batch, Columns
from ..data.chats import flatten_turns
from ..errors import did_you_mean
from ._model import ModelSettings, default_name

VARIANTS = ("superfiltering", "bos", "aligned", "loss_ratio")


@dataclass(frozen=True, repr=False)
class IFD(ModelSettings):
    """Instruction-following difficulty, `PPL(response | prompt) / PPL(response) = exp(L_given - L_alone)`.

    L is the mean negative log-likelihood per response token, in nats. Above 1 the prompt misleads
    (a misaligned pair); near 0 the prompt gives the response away. Keep `ifd < 1`, then the HIGHEST:
    `Threshold("ifd", below=1.0)`, `TopK("ifd", k)`. Superfiltering, arXiv 2402.00530, section 2.

    Columns, all float64 but the last: `ifd`; `ifd_ppl` and `ifd_ppl_alone`, the two perplexities;
    `ifd_tokens`, the tokens scored given the prompt; `ifd_status`, `ok`, `truncated` (cut at
    `max_length`, scored for all that), or why the numbers are nan: `empty_response`, `too_short`
    (one token and no BOS: nothing to score alone), `prompt_too_long`, `not_finite`. A chat has one
    value: both means run over the assistant turns that can be scored in both passes.

    Args:
        variant: the tools of the field disagree on what IFD is:
            `superfiltering` - the authors' procedure (see `pair_of_windows`): without BOS the first
            response token counts in the pass with the prompt only;
            `bos` - BOS, or EOS where there is none, before both: both passes score every response token;
            `aligned` - both passes leave the first response token out;
            `loss_ratio` - `L_given / L_alone`, as in the ancestor, Cherry_LLM (arXiv 2308.12032).

    Example:
        >>> from hf_superfilter import IFD, embedded_model
        >>> ifd = IFD(embedded_model("weak"))
        >>> columns = ifd({"prompt": ["Say hello."] * 2, "response": ["Hello there, my friend.", ""]})
        >>> bool(abs(columns["ifd_ppl"][0] / columns["ifd_ppl_alone"][0] - columns["ifd"][0]) < 1e-12)
        True
        >>> columns["ifd_status"], float(columns["ifd"][1])
        (['ok', 'empty_response'], nan)
    """

    variant: str = "superfiltering"
    name: str = default_name("ifd")

    def __post_init__(self) -> None:
        """Check the variant as well as what every model scorer checks."""
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(
                f"variant={self.variant!r}: {did_you_mean(str(self.variant), VARIANTS)}"
            )

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows; both passes of all turns go through one queue."""
        lm = self.language_model(rank)
        turns = flatten_turns(batch, self.columns)
        pairs = lm.windows(
            turns.prompts,
            turns.responses,
            max_length=self.max_length,
            bos=self.variant == "bos",
            skip_first=self.variant == "aligned",
        )
        windows = [pair.given for pair in pairs] + [pair.alone for pair in pairs]
        nats, tokens = (both.reshape(2, -1) for both in lm.losses(windows, self.batch_tokens))
        used = (tokens[0] > 0) & (tokens[1] > 0)
        scored = np.stack([turns.total(np.where(used, n, 0)) for n in tokens])
        sums = np.stack(
            [turns.total(np.where(used, mean * n, 0)) for mean, n in zip(nats, tokens, strict=True)]
        )
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            given, alone = sums / scored
            ifd = given / alone if self.variant == "loss_ratio" else np.exp(given - alone)
            ppl, ppl_alone = np.exp(given), np.exp(alone)
        finite = np.isfinite(ifd) & np.isfinite(ppl) & np.isfinite(ppl_alone)
        by_turn = [_worse(pair.given.status, pair.alone.status) for pair in pairs]
        return {
            self.name: np.where(finite, ifd, np.nan),
            f"{self.name}_ppl": np.where(finite, ppl, np.nan),
            f"{self.name}_ppl_alone": np.where(finite, ppl_alone, np.nan),
            f"{self.name}_tokens": scored[0],
            f"{self.name}_status": turns.statuses(by_turn, used, finite),
        }


def _worse(given: str, alone: str) -> str:
    """What is the matter with a turn: an undefined pass first, then a cut one."""
    return alone if given == "ok" or (given == "truncated" and alone != "ok") else given
