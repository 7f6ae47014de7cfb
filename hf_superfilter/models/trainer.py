"""The Trainer of transformers with steps of many micro-batches. What becomes of the models stands in `finetune.py`."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from .batching import batches_by_length, is_out_of_memory
from .tokenization import Window, batch_of

WARM_UP, MAX_GRAD_NORM = 0.03, 1.0
SAVE_SECONDS, SAVE_SHARE = (
    60.0,
    0.05,
)  # a state is saved at most so often, and takes at most this share of the time
MICRO_TOKENS = {
    "cpu": (2_048, 0.10),
    "cuda": (16_384, 0.50),
}  # of a micro-batch, and how much of it may be padding


@dataclass(frozen=True)
class Plan:
    """What is done with the rows; the defaults are those of arXiv 2402.10430.

    AdamW without weight decay; the learning rate rises over 0.03 of the steps (rounded down, so that it is never all
    of a short first epoch), then falls along a cosine to zero at the end of the last epoch.

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


class Batches(Dataset):
    """The windows of each step, over all epochs; the rows are shuffled anew in each epoch.

    Attributes:
        rows: those that have something to train on, with the windows that do.
        steps: steps of an epoch.
    """

    def __init__(self, rows: Sequence[Sequence[Window]], plan: Plan) -> None:
        scored = ([window for window in windows if window.scored] for windows in rows)
        self.rows, self.plan = [windows for windows in scored if windows], plan
        if not self.rows:
            raise ValueError(
                f"none of the {len(rows)} rows has a response token to train on: they are empty, or their prompts "
                "fill max_length"
            )
        self.steps = math.ceil(len(self.rows) / plan.batch_rows)

    def __len__(self) -> int:
        return self.steps * self.plan.epochs

    def __getitem__(self, step: int) -> dict[str, list[Window]]:
        epoch, part = divmod(step, self.steps)
        order = np.random.default_rng([self.plan.seed, epoch]).permutation(len(self.rows))
        chosen = order[part * self.plan.batch_rows : (part + 1) * self.plan.batch_rows]
        return {"windows": [window for row in chosen.tolist() for window in self.rows[row]]}


def arguments_of(
    batches: Batches, output: Path, device: torch.device, processes: int
) -> TrainingArguments:
    """The Trainer's settings; saving, mixed precision and progress are decided here, not there."""
    plan = batches.plan
    arguments = TrainingArguments(
        output_dir=str(output), seed=plan.seed, max_steps=len(batches), per_device_train_batch_size=1,
        learning_rate=plan.learning_rate, lr_scheduler_type="cosine", warmup_steps=int(WARM_UP * len(batches)),
        weight_decay=0.0, max_grad_norm=MAX_GRAD_NORM, optim="adamw_torch", logging_steps=1, save_strategy="no",
        save_total_limit=2, logging_nan_inf_filter=False, disable_tqdm=True, report_to="none",
        use_cpu=device.type == "cpu", ddp_backend="gloo" if device.type == "cpu" and processes > 1 else None,
        dataloader_pin_memory=False,
    )  # fmt: skip
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # a process without a launcher would spread each batch over all GPUs
    return arguments


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """The Trainer seeds all generators of the process: give their states back."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


class StepTrainer(Trainer):
    """The Trainer, whose items are steps.

    A step's gradients are summed here over micro-batches and then over processes, so that processes may have
    different numbers of micro-batches, and one that runs out of memory can do its part again.

    Args:
        model: in float32; that of the state, where `train` is to go on from one.
        arguments: those of `arguments_of`.
        batches: the steps.
        bfloat16: multiply in bfloat16.
        micro_tokens: tokens of a micro-batch; None is the device's default.
        saved: called by the main process with the folder of each state that is saved, and the log.
    """

    model: Any

    def __init__(
        self, model: Any, arguments: TrainingArguments, batches: Batches, *,
        bfloat16: bool, micro_tokens: int | None, saved: Callable[[Path, list[dict]], None],
    ) -> None:  # fmt: skip
        super().__init__(
            model=model, args=arguments, train_dataset=batches, callbacks=[_Keeper(self, saved)]
        )
        self.remove_callback(PrinterCallback)
        budget, self.padding = MICRO_TOKENS.get(arguments.device.type, MICRO_TOKENS["cpu"])
        self.batches, self.bfloat16, self.budget = batches, bfloat16, micro_tokens or budget
        self.tokens, self.began = 0, time.monotonic()
        self.next_save, self.save_now = self.began + SAVE_SECONDS, False

    def get_train_dataloader(self) -> DataLoader:
        """One item a step; every process sees them all."""
        return DataLoader(self.batches, batch_size=1, collate_fn=itemgetter(0))

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The gradients of one step, summed over processes, and the mean loss of its tokens."""
        self.model.train()
        windows, number = inputs["windows"], self.args.process_index
        self.tokens = sum(window.scored for window in windows)
        by_length = sorted(windows, key=lambda window: len(window.ids))
        mine, nats = by_length[number :: self.args.world_size], None
        while nats is None:
            torch.manual_seed(self.args.seed + 1_000_003 * self.state.global_step + number)
            try:
                nats = self._backward(mine)
            except RuntimeError as error:
                self._lower_budget(mine, error)
            if (
                nats is None
            ):  # outside the handler, which keeps the tensors of the failed pass alive
                self.model.zero_grad()
        wish = float(time.monotonic() > self.next_save)  # of any process: all have to save together
        facts = torch.tensor([nats / self.tokens, wish], device=self.args.device)
        loss, wishes = self.accelerator.reduce(facts, "sum")
        if self.args.world_size > 1:
            for weight in self.model.parameters():
                own = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = self.accelerator.reduce(own, "sum")
        self.save_now = bool(wishes > 0)
        return loss

    def _backward(self, windows: list[Window]) -> float:
        """Add the gradients of some windows of the step; the sum of their nats."""
        device, sums = self.args.device, []
        lengths = [len(window.ids) for window in windows]
        for batch in batches_by_length(lengths, self.budget, self.padding):
            ids, positions = (
                torch.from_numpy(a).to(device)
                for a in batch_of([windows[i] for i in batch.tolist()])
            )
            products = torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16)
            with products, _head_only_at(self.model, positions - 1):
                logits = self.model(input_ids=ids, use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(
                logits.float(), ids.flatten()[positions], reduction="sum"
            )
            self.accelerator.backward(loss / self.tokens)
            sums.append(loss.detach())
        return float(torch.stack(sums).double().sum()) if sums else 0.0

    def _lower_budget(self, windows: list[Window], error: RuntimeError) -> None:
        if not is_out_of_memory(error):
            raise error
        longest = max(len(window.ids) for window in windows)
        if self.budget <= longest:
            raise MemoryError(
                f"training on a single row of {longest} tokens does not fit into the memory of {self.args.device}: "
                "lower max_length or take a smaller model"
            ) from error
        self.budget = max(self.budget // 2, longest)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add a step's epoch, tokens and seconds (of all processes together) to what is logged of it."""
        super().log(logs, start_time)
        if "loss" in logs:
            now = time.monotonic()
            seconds, self.began = round((now - self.began) * self.args.world_size, 3), now
            epoch = round(self.state.global_step / self.batches.steps, 4)
            self.state.log_history[-1].update(epoch=epoch, tokens=self.tokens, seconds=seconds)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the model was loaded from there; the Trainer would miss the weights of a tied head."""

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: every step seeds the generators itself."""


@contextmanager
def _head_only_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Let only some positions of a padded batch reach the vocabulary projection: logits are then (1, m, V)."""

    def choose(head: Any, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return given[0].flatten(0, 1)[positions][None]

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


class _Keeper(TrainerCallback):
    """When to save and to stop, and the progress bar."""

    def __init__(self, trainer: StepTrainer, saved: Callable[[Path, list[dict]], None]) -> None:
        self.trainer, self.saved, self.save_began = trainer, saved, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from datasets.utils import tqdm

        shown: Any = {
            "unit": "steps",
            "desc": "Training",
            "disable": None if args.should_save else True,
        }
        self.bar = tqdm(total=self._last, initial=state.global_step, **shown)

    @property
    def _last(self) -> int:
        return self.trainer.batches.steps * self.trainer.batches.plan.stop_after

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] = {}, **_: Any
    ) -> None:
        if "loss" in logs:
            self.bar.update(state.global_step - self.bar.n)
            speed = self.trainer.tokens / max(time.monotonic() - self.trainer.began, 1e-9)
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed:,.0f} response tokens/s")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, self.save_began = state.global_step, time.monotonic()
        control.should_save = step % self.trainer.batches.steps == 0 or self.trainer.save_now
        control.should_training_stop = step >= self._last

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            steps = [entry for entry in state.log_history if "loss" in entry]
            self.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}", steps)
        now = time.monotonic()
        self.trainer.next_save = now + max(SAVE_SECONDS, (now - self.save_began) / SAVE_SHARE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
