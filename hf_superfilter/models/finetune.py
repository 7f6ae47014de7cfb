"""Fine-tune a causal language model, one model folder per epoch, resumable.

folder/epoch-1/ ...          the model after each epoch, in float32, with its tokenizer
folder/loss.jsonl            one line per step, see `Training.log`
folder/training/state.pt     weights, optimizer, step and log of the last state saved

Each is written beside and then renamed, so that a kill at any moment leaves whole ones. A training
that is resumed repeats the steps since its last state with the same rows and the same dropout.
"""

import json
import shutil
import time
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..runs.distributed import broadcast, this_process
from ..runs.store import atomic_write
from .loading import (
    hub_revision,
    load_tokenizer,
    load_weights,
    pick_device,
    save_model,
    use_fast_layers,
)
from .self_check import check_causal_lm
from .tokenization import Window
from .trainer import Plan, Steps, Training, trains_in_bfloat16

# A state is saved at most so often, takes at most this share of the time, and ends every epoch.
SAVE_SECONDS, SAVE_SHARE = 60.0, 0.05


def epoch_folders(folder: str | Path, epochs: int) -> list[Path]:
    """Name the folders of the models after each epoch."""
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
    """Train on the scored tokens of the rows' windows.

    The loss of a step is the mean over all response tokens of its rows, as in transformers'
    Trainer. Rows are shuffled into steps by the seed; the rows of a step are cut into micro-batches
    of similar length, whose size changes nothing but speed and memory. Weights are float32;
    products are bfloat16 where `dtype` says so. Dropout is the model's own, seeded by the step, so
    that a training that was killed ends where one that was not does.

    All processes of a launch have to call it; each takes its share of every step.

    Args:
        model: a local folder or a Hub id.
        revision: its resolved revision.
        rows: n rows, each with the windows of its turns; windows without scored tokens are left
            out.
        folder: a local folder that all processes see.
        plan: how long and how fast to train.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; the processes of a launch have one each.
        dtype: `auto` multiplies in bfloat16 on GPUs that do so natively, `bfloat16` everywhere; all
            else is float32. On a CPU bfloat16 is 1.3 times as fast (embedded:strong, avx512_bf16),
            but so coarse in the gradients that the ranks of what was learned change: a Spearman
            correlation of 0.57 with those of float32.
        attn_implementation: as in transformers.
        batch_tokens: tokens of a micro-batch, halved when they do not fit into memory.

    Returns:
        The model folders, one for each epoch up to `plan.stop_after`.

    Raises:
        ValueError: no row has a token to train on, or an unknown device.
        MemoryError: not even a single row fits.
    """
    process = this_process()
    folders = epoch_folders(folder, plan.stop_after)
    steps = Steps(rows, plan)
    if not broadcast(all(path.is_dir() for path in folders)):
        if process.is_main:
            _warn_of_few_rows(steps)
        location = pick_device(device, process.local)
        with torch.random.fork_rng([location] if location.type == "cuda" else []):
            loaded = load_weights(
                model, hub_revision(revision), torch.float32, location, attn_implementation
            )
            fast_paths = check_causal_lm(loaded, torch.float32, model, revision)
            if "layers" in fast_paths:
                use_fast_layers(loaded, torch.float32, model)
            training = Training(
                loaded,
                fast_paths,
                steps,
                process,
                bfloat16=trains_in_bfloat16(location, dtype),
                micro_tokens=batch_tokens,
            )
            saver = Saver(folder, folders, training, load_tokenizer(model, revision))
            _train(training, saver)
    if process.is_main:
        shutil.rmtree(Path(folder) / "training", ignore_errors=True)
        for unfinished in Path(folder).glob("epoch-*.unfinished"):
            shutil.rmtree(unfinished, ignore_errors=True)
    return folders


def _train(training: Training, saver: "Saver") -> None:
    """Run the steps that are missing, and save states and models on the way."""
    saver.resume()
    steps, is_main = training.steps, training.process.is_main
    last = steps.per_epoch * steps.plan.stop_after
    with _progress_bar(training, last) as bar:
        while training.step < last:
            training.run_step()
            epoch_ends = training.step % steps.per_epoch == 0
            if is_main and (epoch_ends or saver.is_due()):
                saver.save_state()
            if is_main and epoch_ends:
                saver.write_model()
            bar.update(training.step - bar.n)
            entry = training.log[-1]
            speed = entry["tokens"] / max(entry["seconds"] / training.process.count, 1e-3)
            bar.set_postfix_str(f"loss {entry['loss']:.3f}, {speed:,.0f} response tokens/s")
    broadcast(None)  # no other process looks for the last model before it is written


class Saver:
    """Write the states and the models of a training, and resume from what is there.

    Args:
        folder: of states, models and log.
        folders: of the model after each epoch.
        training: what is saved.
        tokenizer: saved with every model.
    """

    def __init__(
        self, folder: str | Path, folders: list[Path], training: Training, tokenizer: Any
    ) -> None:
        self.log_file = Path(folder) / "loss.jsonl"
        self.state_file = Path(folder) / "training" / "state.pt"
        self.folders, self.training, self.tokenizer = folders, training, tokenizer
        self.next_save = time.monotonic() + SAVE_SECONDS

    def resume(self) -> None:
        """Load the last state, if there is one, and write the model that a kill left out."""
        is_main = self.training.process.is_main
        if is_main and self.state_file.parent.is_dir():
            for file in self.state_file.parent.iterdir():
                if file != self.state_file:  # half a state, left by a kill
                    file.unlink(missing_ok=True)
        if not broadcast(self.state_file.is_file()):
            return
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        epochs, rest = divmod(state["step"], self.training.steps.per_epoch)
        earlier = self.folders[: epochs if rest else max(0, epochs - 1)]
        if not broadcast(all(path.is_dir() for path in earlier)):
            return  # a model that no later state can bring back was removed: train anew
        self.training.resume(state)
        if is_main and epochs and not rest:
            self.write_model()

    def is_due(self) -> bool:
        """Tell whether it is time for another state."""
        return time.monotonic() > self.next_save

    def save_state(self) -> None:
        """Save the state and the log."""
        start = time.monotonic()
        with atomic_write(self.log_file) as unfinished:
            lines = [json.dumps(entry) + "\n" for entry in self.training.log]
            unfinished.write_text("".join(lines))
        with atomic_write(self.state_file) as unfinished:
            torch.save(self.training.state(), unfinished)
        end = time.monotonic()
        self.next_save = end + max(SAVE_SECONDS, (end - start) / SAVE_SHARE)

    def write_model(self) -> None:
        """Write the model of the epoch that has just ended, unless it is there."""
        epochs = self.training.step // self.training.steps.per_epoch
        folder = self.folders[epochs - 1]
        if folder.is_dir():
            return
        unfinished = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.unfinished")
        save_model(self.training.model, self.tokenizer, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process wrote it at this very moment
            shutil.rmtree(unfinished)
            if not folder.is_dir():
                raise


def _warn_of_few_rows(steps: Steps) -> None:
    rows, batch_rows = len(steps.rows), steps.plan.batch_rows
    if rows < batch_rows:
        warnings.warn(
            f"the {rows} rows to train on are fewer than the {batch_rows} of a batch: each epoch "
            "is one step; a smaller batch_rows makes more",
            stacklevel=2,
        )


def _progress_bar(training: Training, last: int) -> Any:
    """Make a progress bar, shown by the main process on a terminal."""
    from datasets.utils import tqdm

    hidden = None if training.process.is_main else True  # None: hidden where there is no terminal
    return tqdm(total=last, initial=training.step, unit="steps", desc="Training", disable=hidden)
