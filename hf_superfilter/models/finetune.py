"""Fine-tune a causal language model on responses, one model folder per epoch; a killed training goes on.

folder/epoch-1/ ...                     the model after each epoch, in float32, with its tokenizer; put whole
folder/loss.jsonl                       one line per step: loss, learning rate, tokens, seconds of all processes
folder/training/<who>/checkpoint-16/    model, optimizer and schedule after a step; the file `whole` makes it count
"""

import json
import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..runs.distributed import Process, broadcast, this_process
from ..runs.store import atomic_write
from .loading import load_tokenizer, load_weights, pick_device, pick_dtype
from .tokenization import Window
from .trainer import Batches, Plan, StepTrainer, arguments_of, own_randomness

LOSSES, WHOLE, TRAINING = "loss.jsonl", "whole", "training"
NOT_THE_MODEL = (
    "optimizer*",
    "scheduler*",
    "scaler*",
    "trainer_state.json",
    "training_args.bin",
    WHOLE,
)


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
            On a CPU bfloat16 is 1.3 times as fast (embedded:strong, avx512_bf16), but so coarse in the gradients that
            the ranks of what was learned change: a Spearman correlation of 0.57 with those of float32.
        attn_implementation: as in transformers.
        batch_tokens: tokens of a micro-batch, halved when they do not fit into memory.

    Returns:
        The model folders, one for each epoch up to `plan.stop_after`.

    Raises:
        ValueError: no row has a token to train on, or a device that training cannot be given.
        MemoryError: not even a single row fits.
    """
    folders, process, batches = (
        epoch_folders(folder, plan.stop_after),
        this_process(),
        Batches(rows, plan),
    )
    where, work = pick_device(device, process.local), Path(folder) / TRAINING
    if where.type == "cuda" and process.count == 1 and (where.index or 0) > 0:
        raise ValueError(
            f"device={device!r}: training takes the first GPU it sees; choose with CUDA_VISIBLE_DEVICES"
        )

    def saved(state: Path, steps: list[dict[str, Any]]) -> None:
        _write_losses(Path(folder) / LOSSES, steps)
        (state / WHOLE).touch()
        _publish(work, folders, batches.steps, model, revision)

    if process.is_main:
        _publish(work, folders, batches.steps, model, revision)
    if broadcast(not all(path.is_dir() for path in folders)):
        _warn_of_few(len(batches.rows), plan, process)
        start, own = broadcast((_newest(work), work / uuid.uuid4().hex[:8]))
        if process.is_main:
            _keep_only(work, [own] if start is None else [own, start.parent])
        with own_randomness(where):
            on_hub = None if revision.startswith("sha256:") else revision
            weights = (model, on_hub) if start is None else (str(start), None)
            trainer = StepTrainer(
                load_weights(*weights, torch.float32, where, attn_implementation),
                arguments_of(batches, own, where, process.count),
                batches,
                bfloat16=pick_dtype(dtype, where) == torch.bfloat16
                and (dtype == "bfloat16" or where.type == "cuda"),
                micro_tokens=batch_tokens,
                saved=saved,
            )
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        broadcast(None)  # the main process has put the last epoch before any other looks for it
    if process.is_main:
        for left in (work, *Path(folder).glob("epoch-*.unfinished")):
            shutil.rmtree(left, ignore_errors=True)
    return folders


def _warn_of_few(rows: int, plan: Plan, process: Process) -> None:
    if process.is_main and rows < plan.batch_rows:
        few = f"the {rows} rows to train on are fewer than the {plan.batch_rows} of a batch"
        warnings.warn(
            f"{few}: each epoch is one step; a smaller batch_rows makes more", stacklevel=4
        )


def _write_losses(path: Path, steps: list[dict[str, Any]]) -> None:
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds")
    with atomic_write(path) as unfinished:
        unfinished.write_text(
            "".join(json.dumps({key: entry[key] for key in kept}) + "\n" for entry in steps)
        )


def _states(work: Path) -> dict[int, Path]:
    """The saved states that count, by step.

    Whoever trains has a folder of its own: a process that was only frozen, and whose place another one has taken,
    does no harm when it wakes up.
    """
    found = sorted(work.glob(f"*/checkpoint-*/{WHOLE}"))
    return {int(path.parent.name.removeprefix("checkpoint-")): path.parent for path in found}


def _newest(work: Path) -> Path | None:
    states = _states(work)
    return states[max(states)] if states else None


def _keep_only(work: Path, wanted: list[Path]) -> None:
    """Remove what killed trainings left, but for the state to go on from: states are large, and kills may be many."""
    for other in work.glob("*"):
        if other not in wanted:
            shutil.rmtree(other, ignore_errors=True)


def _publish(work: Path, folders: list[Path], steps: int, model: str, revision: str) -> None:
    """Put the model of every epoch whose last state is saved, unless it is there."""
    states = _states(work)
    for number, target in enumerate(folders, start=1):
        state = states.get(number * steps)
        if state is None or target.is_dir():
            continue
        unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.unfinished")
        shutil.copytree(state, unfinished, ignore=shutil.ignore_patterns(*NOT_THE_MODEL))
        load_tokenizer(model, revision).save_pretrained(unfinished)
        try:
            unfinished.rename(target)
        except OSError:  # another process has put it this very moment
            shutil.rmtree(unfinished)
            if not target.is_dir():
                raise
