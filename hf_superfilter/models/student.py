"""Train a small model again and again from the same start, and measure what it learned.

windows   a row's turns, each with its end of text as the last token
train     a fixed number of full steps, whatever the number of rows
measure   per row: nats of the response tokens, and apart from them of the end of text
"""

import contextlib
import copy
import ctypes
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..embedded import model_folder
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from ..runs.distributed import Process
from .loading import (
    check_trainable,
    hub_revision,
    load_tokenizer,
    load_weights,
    pick_device,
    save_model,
    use_fast_layers,
    window_of,
)
from .self_check import CheckResult, check_causal_lm
from .tokenization import Window, WindowReader, batch_of
from .trainer import Plan, Steps, Training, trains_in_bfloat16

TRIM_EVERY = 8  # steps after which freed memory goes back to the system
PROBED_STEPS = 2  # timed before the training, after one that warms up
LORA_ALPHA = 2  # times the rank


class FixedSteps(Steps):
    """Deal rows out to a fixed number of full steps; an epoch may end inside one.

    Args:
        rows: n rows, each with the windows of its turns.
        plan: rows of a step and seed; its epochs are not read.
        count: steps.

    Raises:
        ValueError: no row has a token to train on.
    """

    def __init__(self, rows: Sequence[Sequence[Window]], plan: Plan, count: int) -> None:
        super().__init__(rows, plan)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> list[Window]:
        first, total = step * self.plan.batch_rows, len(self.rows)
        windows: list[Window] = []
        for place in range(first, first + self.plan.batch_rows):
            epoch, position = divmod(place, total)
            windows += self.rows[self._order(epoch)[position]]
        return windows

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.plan.seed, epoch]).permutation(len(self.rows))


class Student:
    """Hold a model that goes back to its start before every training.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        rank: with `auto`, the number of the GPU.
        lora: train adapters of this rank instead of all weights; needs peft.

    Attributes:
        revision: the resolved one.
        tokenizer: the model's.
        window: tokens that it reads at most.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a quantised or an encoder-decoder model, or LoRA without peft.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        rank: int | None = None,
        lora: int | None = None,
    ) -> None:
        self.name = model_folder(str(model))
        self.revision = resolve_revision(self.name, revision)
        known = hub_revision(self.revision)
        check_trainable(self.name, known)
        self.device = pick_device(device, rank)
        self.model: Any = load_weights(self.name, known, torch.float32, self.device, None)
        self.tokenizer = load_tokenizer(self.name, self.revision)
        self.window = window_of(self.model.config)
        self.fast_paths: CheckResult = check_causal_lm(
            self.model, torch.float32, self.name, self.revision
        )
        self._adapters = None if lora is None else _add_adapters(self.model, lora)
        if lora is None and "layers" in self.fast_paths:
            use_fast_layers(self.model, torch.float32, self.name)
        self._start = {
            name: weight.detach().cpu().clone()
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }
        self._bfloat16 = trains_in_bfloat16(self.device)

    def reader(self) -> WindowReader:
        """Return what turns texts into windows for this model."""
        return WindowReader(self.name, self.tokenizer, self.window)

    def train(self, rows: Sequence[Sequence[Window]], plan: Plan, steps: int) -> Training:
        """Train from the start for a number of steps; 0 leaves the model untrained.

        The same rows, plan and steps give the same weights, whatever was trained before.

        Args:
            rows: n rows, each with the windows of its turns.
            plan: rows of a step, highest learning rate and seed.
            steps: optimiser steps, for which the schedule is made.

        Returns:
            The training; its `log` tells loss and tokens of every step.
        """
        self.reset()
        training = self._training(FixedSteps(rows, plan, steps))
        with torch.random.fork_rng(self._devices()):
            while training.step < steps:
                training.run_step()
                if training.step % TRIM_EVERY == 0:
                    _return_memory()
        self.model.eval()
        _return_memory()
        return training

    def reset(self) -> None:
        """Go back to the start."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if name in self._start:
                    weight.copy_(self._start[name])
        self.model.zero_grad()
        self.model.eval()

    def measure(self, rows: Sequence[Sequence[Window]]) -> dict[str, np.ndarray]:
        """Measure the losses of rows.

        Args:
            rows: n rows, each with the windows of its turns, whose last token is the end of text
                unless they were cut.

        Returns:
            Four columns (n,): `nats` float64, the sum over the response tokens without the end of
            text; `tokens` int64, how many they are; `end_nats` float64, the sum over the ends of
            text; `ends` int64, how many they are.
        """
        scored: list[tuple[int, Window]] = []
        for row, windows in enumerate(rows):
            # Copies, so that each is known by its identity.
            scored += [(row, window._replace()) for window in windows if window.scored]
        columns = {name: np.zeros(len(rows)) for name in ("nats", "tokens", "end_nats", "ends")}
        training = self._training(None)
        numbers = {id(window): row for row, window in scored}
        with torch.inference_mode():
            for batch in training.micro_batches([window for _, window in scored]):
                losses = _token_losses(training, batch)
                for window, part in zip(batch, losses, strict=True):
                    row = numbers[id(window)]
                    ends = int(window.status == "ok")
                    columns["nats"][row] += part[: len(part) - ends].sum()
                    columns["tokens"][row] += len(part) - ends
                    columns["end_nats"][row] += part[len(part) - ends :].sum()
                    columns["ends"][row] += ends
        for name in ("tokens", "ends"):
            columns[name] = columns[name].astype(np.int64)
        return columns

    def seconds_of(
        self, rows: Sequence[Sequence[Window]], plan: Plan, measured: Sequence[Sequence[Window]]
    ) -> tuple[float, float]:
        """Time a step and the measuring of a row, on a few of each.

        Args:
            rows: rows to train on; without any no step is timed, and it takes 0 seconds.
            plan: as in `train`.
            measured: rows to measure.

        Returns:
            Seconds of a step, and of measuring one row.
        """
        self.reset()
        step = 0.0
        if rows:
            training = self.train(rows, plan, PROBED_STEPS + 1)
            step = sum(entry["seconds"] for entry in training.log[1:]) / PROBED_STEPS
        start = time.monotonic()
        self.measure(measured)
        row = (time.monotonic() - start) / max(1, len(measured))
        self.reset()
        return step, row

    def save(self, folder: str | Path) -> None:
        """Write the model as it is now, adapters merged, with its tokenizer.

        Raises:
            OSError: the weights cannot be written, mostly because the disk is full.
        """
        model = self.model
        if self._adapters is not None:
            model = copy.deepcopy(self._adapters).merge_and_unload()
        save_model(model, self.tokenizer, folder)

    def _training(self, steps: FixedSteps | None) -> Training:
        return Training(
            self.model,
            self.fast_paths,
            steps,  # type: ignore[arg-type]  # measuring takes no step
            Process(),
            bfloat16=self._bfloat16,
            micro_tokens=None,
        )

    def _devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []


def _return_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    Batches of every length leave it in pieces: without this, 15 trainings took 5 GB.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _token_losses(training: Training, windows: list[Window]) -> list[np.ndarray]:
    """Return the losses of the scored tokens of each window."""
    ids, positions = (torch.from_numpy(array).to(training.device) for array in batch_of(windows))
    logits = training.logits_at(ids, positions - 1).float()
    losses = torch.nn.functional.cross_entropy(logits, ids.flatten()[positions], reduction="none")
    borders = np.cumsum([len(window.ids) - window.start for window in windows])[:-1]
    return np.split(losses.cpu().double().numpy(), borders)


def _add_adapters(model: Any, rank: int) -> Any:
    """Freeze a model and put LoRA adapters beside all its linear layers, in place.

    Returns:
        peft's view of the model, which can merge them.
    """
    try:
        import peft
    except ImportError as error:
        raise SuperfilterError(
            f"lora={rank}: adapters need peft: install it with pip install "
            "'hf-superfilter[train]', or leave lora out"
        ) from error
    config = peft.LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, target_modules="all-linear")
    with warnings.catch_warnings(), torch.random.fork_rng():
        # Of GPT-2's transposed layers, which peft sees by itself.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        torch.manual_seed(0)  # adapters start at random: the same ones in every process
        return peft.LoraModel(model, config, "default")
