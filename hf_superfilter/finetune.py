"""Fine-tune a causal language model on responses, one model folder per epoch; a killed training goes on.

folder/epoch-1/ ...                     the model after each epoch, in float32, with its tokenizer; put whole
folder/loss.jsonl                       one line per step: loss, learning rate, gradient norm, tokens, seconds
folder/training/<who>/checkpoint-16/    model, optimizer and schedule after a step; the file `whole` makes it count
"""

import json
import math
import random
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from .batching import batches_by_length
from .loading import is_out_of_memory, load_tokenizer, load_weights, pick_device, pick_dtype
from .processes import agreed, this_process
from .whole_files import whole_file
from .windows import Window, padded

LOSSES, WHOLE, TRAINING = "loss.jsonl", "whole", "training"
WARM_UP, MAX_GRAD_NORM = 0.03, 1.0
SAVE_SECONDS, SAVE_SHARE = 60.0, 0.05  # a state is saved at most so often, and saving takes at most this share of the time
MICRO_TOKENS = {"cpu": (2_048, 0.10), "cuda": (16_384, 0.50)}  # of a micro-batch, and how much of it may be padding
NOT_THE_MODEL = ("optimizer*", "scheduler*", "scaler*", "trainer_state.json", "training_args.bin", WHOLE)


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


def epoch_folders(folder: str | Path, epochs: int) -> list[Path]:
    """Where the models after each epoch are, or will be."""
    return [Path(folder) / f"epoch-{number}" for number in range(1, epochs + 1)]


def finetune(
    model: str,
    revision: str,
    rows: Sequence[Sequence[Window]],
    folder: str | Path,
    plan: Plan,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    batch_tokens: int | None = None,
) -> list[Path]:
    """Train on the scored tokens of the rows' windows, and put the model after each epoch into the folder.

    The loss of a step is the mean over all response tokens of its rows, as in transformers' Trainer. Rows are shuffled
    into steps by the seed; the rows of a step are cut into micro-batches of similar length, whose size changes nothing
    but speed and memory. Weights are float32; products are bfloat16 where `dtype` says so. Dropout is the
    model's own, seeded by the step, so that a training that was killed ends where one that was not does.

    All processes of a launch have to call it; each takes its share of every step.

    Args:
        model: a local folder or a Hub id.
        revision: its resolved revision.
        rows: n rows, each with the windows of its turns; windows without scored tokens are not trained on.
        folder: a local folder that all processes see.
        plan: what is done with the rows.
        device: `auto`, `cpu`, `cuda` or `mps`; the processes of a launch have one each.
        dtype: `auto` multiplies in bfloat16 on GPUs that do so natively, `bfloat16` everywhere; all else is float32.
            On a CPU bfloat16 is 1.3 times as fast (the embedded models, avx512_bf16), but its gradients are so
            coarse that the ranks of what is learned change: a Spearman correlation of 0.63 with float32.
        attn_implementation: as in transformers.
        batch_tokens: tokens of a micro-batch, halved when they do not fit into memory.

    Returns:
        The model folders, one for each epoch up to `plan.stop_after`.

    Raises:
        ValueError: no row has a token to train on, or a device that training cannot be given.
        MemoryError: not even a single row fits.
    """
    folders, process = epoch_folders(folder, plan.stop_after), this_process()
    batches = _Batches(rows, plan)
    work = Path(folder) / TRAINING
    _publish_epochs(work, folders, batches.steps, (model, revision), process.is_main)
    if agreed(not all(path.is_dir() for path in folders)):
        where = pick_device(device, process.local)
        if where.type == "cuda" and process.count == 1 and (where.index or 0) > 0:
            raise ValueError(f"device={device!r}: training takes the first GPU it sees; set CUDA_VISIBLE_DEVICES")
        if process.is_main and len(batches.rows) < plan.batch_rows:
            few = f"{len(batches.rows)} rows with something to learn are fewer than the {plan.batch_rows} of a batch"
            warnings.warn(f"{few}: each epoch is one step", stacklevel=2)
        start, own = agreed((_newest(work), work / uuid.uuid4().hex[:8]))
        with _own_randomness(where):
            weights: Any = load_weights(model, _on_hub(revision), torch.float32, where, attn_implementation)
            trainer = _Trainer(
                weights, _arguments(own, plan, batches, where), batches,
                publish=lambda: _publish_epochs(work, folders, batches.steps, (model, revision), process.is_main),
                losses=Path(folder) / LOSSES, bfloat16=_in_bfloat16(dtype, where),
                micro_tokens=batch_tokens,
            )  # fmt: skip
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        agreed(None)  # the main process has put the last epoch before any other looks for it
    if process.is_main:
        for left in (work, *Path(folder).glob("epoch-*.unfinished")):
            shutil.rmtree(left, ignore_errors=True)
    return folders


def _in_bfloat16(dtype: str, device: torch.device) -> bool:
    return pick_dtype(dtype, device) == torch.bfloat16 and (dtype == "bfloat16" or device.type == "cuda")


def _on_hub(revision: str) -> str | None:
    return None if revision.startswith("sha256:") else revision


def _arguments(own: Path, plan: Plan, batches: "_Batches", device: torch.device) -> TrainingArguments:
    """The Trainer's settings; steps, saving, mixed precision and progress are decided here, not there."""
    arguments = TrainingArguments(
        output_dir=str(own), seed=plan.seed, max_steps=len(batches), per_device_train_batch_size=1,
        learning_rate=plan.learning_rate, lr_scheduler_type="cosine", warmup_steps=int(WARM_UP * len(batches)),
        weight_decay=0.0, max_grad_norm=MAX_GRAD_NORM, optim="adamw_torch", logging_steps=1, save_strategy="no",
        save_total_limit=2, logging_nan_inf_filter=False, disable_tqdm=True, report_to="none",
        use_cpu=device.type == "cpu", ddp_backend="gloo" if device.type == "cpu" and this_process().count > 1 else None,
        dataloader_pin_memory=False,
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a process without a launcher would spread each batch over all GPUs
    return arguments


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The Trainer seeds all generators of the process: give their states back."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


class _Batches(Dataset):
    """The windows of each step, over all epochs; row numbers are shuffled anew in each epoch."""

    def __init__(self, rows: Sequence[Sequence[Window]], plan: Plan) -> None:
        scored = ([window for window in windows if window.scored] for windows in rows)
        self.rows, self.plan = [windows for windows in scored if windows], plan
        if not self.rows:
            raise ValueError(
                f"none of the {len(rows)} rows has a response token to train on: they are empty, or their prompts "
                "fill max_length"
            )
        self.steps = math.ceil(len(self.rows) / plan.batch_rows)  # of an epoch

    def __len__(self) -> int:
        return self.steps * self.plan.epochs

    def __getitem__(self, step: int) -> dict[str, list[Window]]:
        epoch, part = divmod(step, self.steps)
        order = np.random.default_rng([self.plan.seed, epoch]).permutation(len(self.rows))
        chosen = order[part * self.plan.batch_rows : (part + 1) * self.plan.batch_rows]
        return {"windows": [window for row in chosen.tolist() for window in self.rows[row]]}


class _Trainer(Trainer):
    """The Trainer with steps of many micro-batches.

    A step's gradients are summed here over micro-batches and then over processes, so that processes may have
    different numbers of micro-batches, and one that runs out of memory can do its part again.
    """

    def __init__(
        self, model: Any, arguments: TrainingArguments, batches: _Batches, *,
        publish: Any, losses: Path, bfloat16: bool, micro_tokens: int | None,
    ) -> None:  # fmt: skip
        super().__init__(model=model, args=arguments, train_dataset=batches, callbacks=[_Keeper(self)])
        self.remove_callback(PrinterCallback)
        budget, self.padding = MICRO_TOKENS.get(arguments.device.type, MICRO_TOKENS["cpu"])
        self.budget, self.bfloat16 = micro_tokens or budget, bfloat16
        self.batches, self.publish, self.losses = batches, publish, losses
        self.facts: dict[str, float] = {}
        self.began, self.next_save, self.save_now = time.monotonic(), time.monotonic() + SAVE_SECONDS, False

    def get_train_dataloader(self) -> DataLoader:
        """One item a step; every process sees them all."""
        return DataLoader(self.batches, batch_size=1, collate_fn=itemgetter(0))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradients of one step, summed over processes, and the mean loss of its tokens."""
        self.model.train()
        windows, number, count = inputs["windows"], self.args.process_index, self.args.world_size
        tokens = sum(window.scored for window in windows)
        by_length = sorted(windows, key=lambda window: len(window.ids))
        mine, nats = by_length[number::count], None
        while nats is None:
            torch.manual_seed(self.args.seed + 1_000_003 * self.state.global_step + number)
            try:
                nats = self._backward(mine, tokens)
            except RuntimeError as error:
                self._lower_budget(mine, error)
            if nats is None:  # outside the handler, which keeps the tensors of the failed pass alive
                self.model.zero_grad()
        wish = float(time.monotonic() > self.next_save)
        total = self.accelerator.reduce(torch.tensor([nats / tokens, wish], device=self.args.device), "sum")
        if count > 1:
            for weight in self.model.parameters():
                own = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = self.accelerator.reduce(own, "sum")
        self.save_now, self.facts["tokens"] = bool(total[1] > 0), float(tokens)
        return total[0]

    def _backward(self, windows: list[Window], tokens: int) -> float:
        """Add the gradients of some windows, whose loss is a mean over `tokens` tokens; the sum of their nats."""
        device, sums = self.args.device, []
        lengths = [len(window.ids) for window in windows]
        for batch in batches_by_length(lengths, self.budget, self.padding):
            ids, positions = (torch.from_numpy(a).to(device) for a in padded([windows[i] for i in batch.tolist()]))
            with _head_only_at(self.model, positions - 1), torch.autocast(
                device.type, torch.bfloat16, enabled=self.bfloat16
            ):  # fmt: skip
                logits = self.model(input_ids=ids, use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids.flatten()[positions], reduction="sum")
            self.accelerator.backward(loss / tokens)
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
        """Add the step's tokens and seconds to what is logged of it."""
        if "loss" in logs:
            now = time.monotonic()
            logs = logs | self.facts | {"seconds": round(now - self.began, 3)}
            self.began = now
        super().log(logs, start_time)

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
    """When to save and to stop, what else is written then, and the progress bar."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from datasets.utils import tqdm

        batches = self.trainer.batches
        steps = batches.steps * batches.plan.stop_after
        shown: Any = {"unit": "steps", "desc": "Training", "disable": None if args.should_save else True}
        self.bar = tqdm(total=steps, initial=state.global_step, **shown)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.bar.update(state.global_step - self.bar.n)
            speed = logs["tokens"] / max(logs["seconds"], 1e-9)
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed:,.0f} response tokens/s")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        batches, step = self.trainer.batches, state.global_step
        control.should_save = step % batches.steps == 0 or self.trainer.save_now
        control.should_training_stop = step >= batches.steps * batches.plan.stop_after
        self.save_began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            lines = [_line(entry, self.trainer.batches.steps) for entry in state.log_history if "loss" in entry]
            with whole_file(self.trainer.losses) as unfinished:
                unfinished.write_text("".join(f"{line}\n" for line in lines))
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()
            self.trainer.publish()
        now = time.monotonic()
        self.trainer.next_save = now + max(SAVE_SECONDS, (now - self.save_began) / SAVE_SHARE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()


def _line(entry: Mapping[str, Any], steps: int) -> str:
    kept = ("loss", "learning_rate", "grad_norm", "tokens", "seconds")
    return json.dumps({"step": entry["step"], "epoch": round(entry["step"] / steps, 4)} | {k: entry[k] for k in kept})


def _states(work: Path) -> dict[int, Path]:
    """The saved states that count, by step. Whoever trains has a folder of its own: one that was only frozen, and
    whose place another has taken, does no harm when it wakes up."""
    found = sorted(work.glob(f"*/checkpoint-*/{WHOLE}"))
    return {int(path.parent.name.removeprefix("checkpoint-")): path.parent for path in found}


def _newest(work: Path) -> Path | None:
    states = _states(work)
    return states[max(states)] if states else None


def _publish_epochs(work: Path, folders: list[Path], steps: int, model: tuple[str, str], is_main: bool) -> None:
    """Put the model of every epoch that a saved state has finished, unless it is there."""
    states = _states(work) if is_main else {}
    for number, target in enumerate(folders, start=1):
        state = states.get(number * steps)
        if state is None or target.is_dir():
            continue
        unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.unfinished")
        shutil.copytree(state, unfinished, ignore=shutil.ignore_patterns(*NOT_THE_MODEL))
        load_tokenizer(*model).save_pretrained(unfinished)
        try:
            unfinished.rename(target)
        except OSError:  # another process has put it this very moment
            shutil.rmtree(unfinished)
            if not target.is_dir():
                raise
