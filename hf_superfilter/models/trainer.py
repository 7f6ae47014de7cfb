"""Train on response tokens, step by step, with micro-batches and processes.

The gradients of a step are summed over micro-batches and then over processes. So its result does
not depend on the size of the micro-batches, processes may have different numbers of them, and one
that runs out of memory can do its part again with smaller ones.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce

from ..errors import NotEnoughMemoryError, SuperfilterError
from ..runs.distributed import Process
from .batching import batches_by_length, is_out_of_memory, split_at
from .lm_head import SplitModel
from .loading import length_border, pick_dtype
from .self_check import CheckResult
from .tokenization import Window, batch_of

WARM_UP = 0.03  # of the steps
MAX_GRAD_NORM = 1.0

# Tokens of a micro-batch, and how much of it may be padding.
MICRO_BATCHES = {"cpu": (2_048, 0.10), "cuda": (16_384, 0.50)}


@dataclass(frozen=True)
class Plan:
    """Set how long and how fast to train; the defaults are those of arXiv 2402.10430.

    AdamW without weight decay; the learning rate rises over 0.03 of the steps (rounded down, so
    that it never takes all of a short first epoch), then falls along a cosine to zero at the end of
    the last epoch.

    Attributes:
        epochs: passes over the rows, for which the schedule is made.
        stop_after: the last epoch that is really trained.
        learning_rate: its highest value.
        batch_rows: rows of a step, however many processes share them.
        seed: of the order of the rows and of dropout.
    """

    epochs: int = 3
    stop_after: int = 3
    learning_rate: float = 2e-5
    batch_rows: int = 128
    seed: int = 42

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step 0, 1 ... of `steps`.

        Example:
            >>> [Plan(learning_rate=1.0).rate_at(step, 100) for step in (0, 1, 3)]
            [0.0, 0.3333333333333333, 1.0]
        """
        warm_up = int(WARM_UP * steps)
        if step < warm_up:
            return self.learning_rate * step / warm_up
        progress = (step - warm_up) / max(1, steps - warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def trains_in_bfloat16(device: torch.device, dtype: str = "auto") -> bool:
    """Tell whether a training multiplies in bfloat16: where the dtype says so.

    `auto` does on GPUs that multiply it natively, and on no CPU.
    """
    if device.type != "cuda" and dtype != "bfloat16":
        return False
    return pick_dtype(dtype, device) == torch.bfloat16


class Steps:
    """Deal rows out to the steps of all epochs, shuffled anew in each epoch.

    Args:
        rows: n rows, each with the windows of its turns.
        plan: epochs, rows of a step, seed.

    Attributes:
        rows: those that have a token to train on, with the windows that do.
        per_epoch: steps of an epoch.

    Raises:
        ValueError: no row has a token to train on.
    """

    def __init__(self, rows: Sequence[Sequence[Window]], plan: Plan) -> None:
        self.plan = plan
        self.rows: list[list[Window]] = []
        for windows in rows:
            scored = [window for window in windows if window.scored]
            if scored:
                self.rows.append(scored)
        if not self.rows:
            raise SuperfilterError(
                f"none of the {len(rows)} rows has a response token to train on: they are empty, "
                "or their prompts fill max_length"
            )
        self.per_epoch = math.ceil(len(self.rows) / plan.batch_rows)

    def __len__(self) -> int:
        return self.per_epoch * self.plan.epochs

    def __getitem__(self, step: int) -> list[Window]:
        epoch, part = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.plan.seed, epoch]).permutation(len(self.rows))
        start = part * self.plan.batch_rows
        rows = order[start : start + self.plan.batch_rows].tolist()
        return [window for row in rows for window in self.rows[row]]


class Training:
    """Hold a model in training, and all that a saved state needs to resume it.

    Args:
        model: in float32, on its device.
        fast_paths: those that it runs on.
        steps: the windows of every step.
        process: this one among those that share every step.
        bfloat16: whether to multiply in bfloat16.
        micro_tokens: tokens of a micro-batch; None is the device's default.

    Attributes:
        step: steps done.
        log: one entry a step: step, epoch, loss in nats per token, learning_rate, grad_norm before
            clipping, tokens, seconds of all processes together.
    """

    def __init__(
        self,
        model: Any,
        fast_paths: CheckResult,
        steps: Steps,
        process: Process,
        *,
        bfloat16: bool,
        micro_tokens: int | None,
    ) -> None:
        self.model, self.steps, self.process, self.bfloat16 = model, steps, process, bfloat16
        self.device: torch.device = model.device
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)
        default_tokens, self.padding = MICRO_BATCHES.get(self.device.type, MICRO_BATCHES["cpu"])
        self.micro_tokens = micro_tokens or default_tokens
        if "padding" not in fast_paths:
            self.micro_tokens = 1
        self._split = SplitModel(model) if "split" in fast_paths else None
        self._border = length_border(model.config)
        self.step = 0
        self.log: list[dict[str, float]] = []

    def state(self) -> dict[str, Any]:
        """Return what `resume` needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "log": self.log,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]

    def run_step(self) -> None:
        """Train on the rows of one step."""
        start = time.monotonic()
        windows = self.steps[self.step]
        tokens = sum(window.scored for window in windows)
        self.model.train()
        nats = self._add_gradients(windows, tokens)
        if self.process.count > 1:
            nats = self._sum_over_processes(nats)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        rate = self.steps.plan.rate_at(self.step, len(self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.log.append(
            {
                "step": self.step,
                "epoch": round(self.step / self.steps.per_epoch, 4),
                "loss": nats / tokens,
                "learning_rate": rate,
                "grad_norm": float(norm),
                "tokens": tokens,
                "seconds": round((time.monotonic() - start) * self.process.count, 3),
            }
        )

    def _add_gradients(self, windows: list[Window], tokens: int) -> float:
        """Add the gradients of this process's share of a step; return its sum of nats.

        Out of memory, it starts anew with smaller micro-batches.
        """
        by_length = sorted(windows, key=lambda window: len(window.ids))
        share = by_length[self.process.number :: self.process.count]
        while True:
            # Dropout depends on the step alone, so that a resumed training repeats it.
            seed = self.steps.plan.seed + 1_000_003 * self.step + self.process.number
            torch.manual_seed(seed % 2**63)  # torch takes 64 bits with a sign
            try:
                return self._backward(share, tokens)
            except RuntimeError as error:
                self.micro_tokens = self._smaller_micro_batch(share, error)
            # Outside the handler, which keeps the tensors of the failed pass alive.
            self.optimizer.zero_grad()

    def _backward(self, share: list[Window], tokens: int) -> float:
        losses = [torch.zeros((), device=self.device)]
        for windows in self.micro_batches(share):
            ids, positions = (
                torch.from_numpy(array).to(self.device) for array in batch_of(windows)
            )
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self._forward(ids, positions - 1)
            labels = ids.flatten()[positions]
            loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            torch.autograd.backward(loss / tokens)
            losses.append(loss.detach())
        return float(torch.stack(losses).cpu().double().sum())

    def micro_batches(self, share: list[Window]) -> Iterator[list[Window]]:
        """Cut windows into batches of similar length."""
        lengths = np.array([len(window.ids) for window in share], dtype=np.int64)
        for sizes in split_at(self._border, lengths):
            numbers = np.flatnonzero(sizes)
            lengths = sizes[numbers].tolist()
            for batch in batches_by_length(lengths, self.micro_tokens, self.padding):
                yield [share[number] for number in numbers[batch].tolist()]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the logits, or say what the model's own code does not take."""
        try:
            return self.logits_at(ids, positions)
        except (ValueError, NotImplementedError) as error:
            raise SuperfilterError(
                f"{type(self.model).__name__} cannot be trained on windows of {ids.shape[1]} "
                f"tokens ({' '.join(str(error).split())[:200]}): take another model"
            ) from error

    def logits_at(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the (m, V) logits at (m,) positions of (k, t) ids, counted through all rows."""
        if self._split is None:
            logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
            return logits.flatten(0, 1)[positions]
        return self._split.logits(self._split.states(input_ids=ids).flatten(0, 1)[positions])

    def _sum_over_processes(self, nats: float) -> float:
        """Sum the gradients, and the nats, of all processes."""
        for weight in self.parameters:
            if weight.grad is None:  # this process had no window
                weight.grad = torch.zeros_like(weight)
            weight.grad = reduce(weight.grad, "sum")
        total = torch.tensor(nats, dtype=torch.float64, device=self.device)
        return float(reduce(total, "sum"))

    def _smaller_micro_batch(self, share: list[Window], error: RuntimeError) -> int:
        """Return the tokens to try next after a micro-batch that did not fit into memory."""
        if not is_out_of_memory(error):
            raise error
        longest = max(len(window.ids) for window in share)
        if self.micro_tokens <= longest:
            raise NotEnoughMemoryError(
                f"training on a single row of {longest} tokens does not fit into the memory of "
                f"{self.device}: lower max_length or take a smaller model"
            ) from error
        return max(self.micro_tokens // 2, longest)
