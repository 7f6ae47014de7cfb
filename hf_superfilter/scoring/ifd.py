"""Compute instruction-following difficulty (IFD, arXiv 2402.00530)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import Batch, Columns, CountedColumns
from ..checks import is_number, plain_numbers
from ..data.chats import Turns, flatten_turns
from ..errors import SuperfilterError, did_you_mean
from ..models.tokenization import Pair, mean_by_window
from ._model import SidedSettings, default_name
from ._rows import as_counts

VARIANTS = ("superfiltering", "bos", "aligned", "loss_ratio", "selective")
SKIPPED = "rows whose first response tokens the authors' border leaves out"
KEPT_SHARE = 0.5  # of a row's tokens, for `selective`
COUNTED_VARIANTS = ("superfiltering", "loss_ratio")  # whose authors count the prompt's tokens


@dataclass(frozen=True, repr=False)
class IFD(SidedSettings):
    """Score how little the prompt helps to predict the response.

    `IFD = PPL(response | prompt) / PPL(response) = exp(L_given - L_alone)`, L the mean negative
    log-likelihood per response token, in nats. Above 1 the prompt misleads (a misaligned pair);
    near 0 the prompt gives the response away. Keep `ifd < 1`, then the HIGHEST:
    `Threshold("ifd", below=1.0)`, `TopK("ifd", k)`. Superfiltering, arXiv 2402.00530, section 2.

    Columns, float64, counts int64: `ifd`; `ifd_ppl` and `ifd_ppl_alone`, the two perplexities;
    `ifd_tokens`, the tokens scored given the prompt; `ifd_error`, the standard error of log IFD in
    nats: that of the mean of d, what the prompt changes in the loss of a token, `std(d) / sqrt(n)`
    over the n tokens scored in both passes. IFD lies within `ifd * exp(+-ifd_error)` two times in
    three where tokens are independent, which they are not quite; nan below two tokens and for
    `loss_ratio`, which is no mean of d; `ifd_status`, `ok`, `truncated` (cut at
    `max_length` and scored), or why the numbers are nan: `empty_response`, `no_prompt` (plain text,
    an opening assistant turn, an empty instruction), `too_short` (one token and none in front:
    nothing to score alone), `prompt_too_long`, `not_finite`. A chat has one value: both means run
    over the assistant turns that have a prompt and can be scored in both passes.

    The other arguments say which model is run and how, as in `ModelSettings` (`revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`) and, where it
    stands behind a server, in `ServedSettings` (`endpoint`, `tokenizer`).

    Args:
        variant: the tools of the field disagree on what IFD is:
            `superfiltering` - the authors' procedure (see `pair_of_windows`): without BOS the first
            response token counts in the pass with the prompt only;
            `bos` - BOS, or EOS where there is none, before both: both passes score every response
            token;
            `aligned` - both passes leave the first response token out;
            `loss_ratio` - `L_given / L_alone`, as in the ancestor, Cherry_LLM (arXiv 2308.12032);
            `selective` - `exp(mean d)` over the share `keep` of a row's tokens that the prompt
            affects most, those of largest |d|: S-IFD of T-SHIRT (arXiv 2506.01317, section 3). Its
            authors take the largest |d| of all rows together.
        keep: for `selective`, the share of tokens, above 0 and at most 1, 0.5 unless set (the
            authors: 0.5 and 0.75); at least one token counts.
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

    arithmetic: ClassVar[int] = 3  # 2: without a prompt there is no IFD; 3: `ifd_error`

    variant: str = "superfiltering"
    rejected: bool = False
    keep: float | None = None
    name: str = default_name("ifd")

    def __post_init__(self) -> None:
        """Check the variant too."""
        super().__post_init__()
        plain_numbers(self, "keep")
        if self.variant not in VARIANTS:
            suggestion = did_you_mean(str(self.variant), VARIANTS)
            raise SuperfilterError(f"variant={self.variant!r}: {suggestion}")
        if self.keep is None:
            return
        if not is_number(self.keep) or not 0 < self.keep <= 1:
            raise SuperfilterError(
                f"keep={self.keep!r}: give a share of the tokens, above 0 and at most 1"
            )
        if self.variant != "selective":
            raise SuperfilterError(
                f"keep={self.keep!r}: only variant='selective' leaves tokens out, and this is "
                f"{self.variant!r}"
            )

    def _score(self, batch: Batch, columns: tuple[str, str], rank: int | None) -> Columns:
        lm = self.losses_by(rank)
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
        losses, counts = lm.token_losses(windows, self.batch_tokens)
        means = mean_by_window(losses, counts)
        nats, tokens = means.reshape(2, -1), counts.reshape(2, -1)  # (2, turns): given, alone
        scored = (tokens[0] > 0) & (tokens[1] > 0)
        tokens = np.where(scored, tokens, 0)
        given, alone = turns.mean(nats[0], tokens[0]), turns.mean(nats[1], tokens[1])
        differences = _differences(turns, pairs, np.split(losses, np.cumsum(counts)[:-1]))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ppl, ppl_alone = np.exp(given), np.exp(alone)
            ifd = np.exp(given - alone)
            if self.variant == "loss_ratio":
                ifd = given / alone
            elif self.variant == "selective":
                keep = self.keep or KEPT_SHARE
                differences = [_largest(of_row, keep) for of_row in differences]
                ifd = np.exp([_mean(of_row) for of_row in differences])
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
            f"{self.name}_error": self._errors(differences, finite),
            f"{self.name}_status": turns.statuses(statuses, scored, finite),
        }
        return CountedColumns(values, {SKIPPED: int(np.count_nonzero(skipped))})

    def _errors(self, differences: Sequence[np.ndarray], finite: np.ndarray) -> np.ndarray:
        """Estimate the errors of log IFD; a ratio of losses is no mean difference."""
        if self.variant == "loss_ratio":
            return np.full(len(differences), np.nan)
        return np.where(finite, [_standard_error(of_row) for of_row in differences], np.nan)


def _differences(
    turns: Turns, pairs: Sequence[Pair], losses: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Collect by row what the prompt changes in the loss of each token, given - alone.

    Args:
        pairs: (turns,) windows.
        losses: (2 turns,) losses of the scored tokens, of all `given` and then of all `alone`.

    Returns:
        (rows,) arrays of nats, one value for each token that both passes score.
    """
    by_row: list[list[np.ndarray]] = [[np.zeros(0)] for _ in range(turns.count)]
    for turn, (row, pair) in enumerate(zip(turns.rows.tolist(), pairs, strict=True)):
        given, alone = pair.common
        by_row[row].append(losses[turn][given] - losses[len(pairs) + turn][alone])
    return [np.concatenate(parts) for parts in by_row]


def _largest(differences: np.ndarray, keep: float) -> np.ndarray:
    """Keep the share of largest size, at least one, ties to the earlier."""
    count = max(1, round(keep * len(differences)))
    largest: np.ndarray = differences[np.argsort(-np.abs(differences), kind="stable")[:count]]
    return largest


def _mean(differences: np.ndarray) -> float:
    return float(differences.mean()) if len(differences) else math.nan


def _standard_error(differences: np.ndarray) -> float:
    """Estimate the standard error of the mean, nan below two values."""
    if len(differences) < 2:
        return math.nan
    return float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _worse(given: str, alone: str) -> str:
    """Return the worse status: undefined, then truncated, then ok."""
    if given == "ok":
        return alone
    if given == "truncated" and alone != "ok":
        return alone
    return given
