"""Compute the implicit reward gap of preferences (DPO, arXiv 2305.18290)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns
from ..checks import is_number, plain_numbers
from ..data.chats import flatten_turns
from ..embedded import model_folder, portable_name
from ..errors import SuperfilterError
from ._model import ModelSettings, default_name, rejected_columns, revision_of
from ._rows import takes_rows

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


@dataclass(frozen=True, repr=False)
class ImplicitReward(ModelSettings):
    """Score a preference by what a policy likes better than its reference does.

    `r(y) = beta (log p_model(y | prompt) - log p_reference(y | prompt))`, in nats summed over the
    tokens of a response: the reward of which the policy is the optimum (DPO, arXiv 2305.18290,
    equation 5). `implicit_reward = r(chosen) - r(rejected)`: above 0 the policy has learned the
    preference already. Small gaps are hard pairs and worth training on after arXiv 2508.04149;
    large margins are clean pairs and worth it after arXiv 2502.14560. The two disagree: try both,
    `TopK("implicit_reward", k, largest=False)` or `TopK("implicit_reward", k)`.

    Columns, float64: `implicit_reward`; `implicit_reward_chosen`, `implicit_reward_rejected`;
    `implicit_reward_status`, `ok`, `truncated`, or why they are nan, as in `Perplexity`, of the
    chosen response first and then of the rejected one. A chat sums over its assistant turns. Rows
    come from `format_pairs` of a preference, with the column `response_rejected`.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Args:
        reference: the model that the policy was trained from: a Hub id or a local folder. Both may
            have tokenizers of their own.
        reference_revision: branch, tag or commit on the Hub.
        beta: of DPO, above 0.

    Example:
        >>> from hf_superfilter import ImplicitReward
        >>> reward = ImplicitReward("embedded:strong", reference="embedded:strong")
        >>> row = {"prompt": ["Hi."], "response": ["Hello!"], "response_rejected": ["Go away."]}
        >>> reward(row)["implicit_reward"].tolist()
        [0.0]
    """

    reference: str = ""
    reference_revision: str | None = None
    beta: float = 0.1
    name: str = default_name("implicit_reward")

    def __post_init__(self) -> None:
        """Check the settings too."""
        super().__post_init__()
        plain_numbers(self, "beta")
        if not str(self.reference):
            raise SuperfilterError(
                f"reference={self.reference!r}: name the model that the policy was trained from"
            )
        object.__setattr__(self, "reference", portable_name(str(self.reference)))
        if self.reference_revision is not None and not isinstance(self.reference_revision, str):
            raise SuperfilterError(f"reference_revision={self.reference_revision!r}: give text")
        if not is_number(self.beta) or self.beta <= 0:
            raise SuperfilterError(f"beta={self.beta!r}: give a number above 0")

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The rejected responses."""
        return rejected_columns(self.columns)[1:]

    def identity(self) -> dict[str, Any]:
        """Return the immutable revisions of both models."""
        reference = revision_of(self.reference, self.reference_revision)["revision"]
        return {**super().identity(), "reference_revision": reference}

    def reference_model(self, rank: int | None = None) -> "CausalLM":
        """Load the reference, once per process for all its scorers."""
        from ..models.causal_lm import load_causal_lm
        from ..revisions import resolve_revision

        _, _, *settings = self.resolved(rank)
        folder = model_folder(self.reference)
        revision = resolve_revision(folder, self.reference_revision)
        return load_causal_lm(folder, revision, *settings)

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        rewards, statuses = [], []
        for columns in (self.columns, rejected_columns(self.columns)):
            policy, status = self._log_likelihood(self.language_model(rank), batch, columns)
            reference, other = self._log_likelihood(self.reference_model(rank), batch, columns)
            rewards.append(self.beta * (policy - reference))
            statuses += [status, other]
        gap = rewards[0] - rewards[1]
        return {
            self.name: gap,
            f"{self.name}_chosen": rewards[0],
            f"{self.name}_rejected": rewards[1],
            f"{self.name}_status": [_first_fault(row) for row in zip(*statuses, strict=True)],
        }

    def _log_likelihood(
        self, lm: "CausalLM", batch: Batch, columns: tuple[str, str]
    ) -> tuple[np.ndarray, list[str]]:
        """Sum the log-likelihoods of each row's responses, in nats."""
        turns = flatten_turns(batch, columns)
        pairs = lm.windows(turns.prompts, turns.responses, max_length=self.max_length)
        windows = [pair.given for pair in pairs]
        means, tokens = lm.losses(windows, self.batch_tokens)
        scored = tokens > 0
        sums = -turns.total(np.where(scored, means * tokens, 0.0))
        defined = (turns.total(tokens) > 0) & np.isfinite(sums)
        status = turns.statuses([window.status for window in windows], scored, np.isfinite(sums))
        return np.where(defined, sums, np.nan), status


def _first_fault(statuses: tuple[str, ...]) -> str:
    """Return the first reason for nan, else whether anything was cut."""
    for status in statuses:
        if status not in ("ok", "truncated"):
            return status
    return "truncated" if "truncated" in statuses else "ok"
