"""Train one student per arm and run, each once, on as many processes as share the folder.

    <folder>/validation/<question>-<arm>-<run>-<digest>.parquet   what one student measured
    <folder>/validation/models/<question>-<arm>-<run>-<digest>/   its weights, where they are kept

The file states a digest of all that decides its numbers: student, rows in their order, steps, rate,
seed, and the rows measured. So a run that is finished is finished, also for another validation in
the same folder.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_switch, is_count, is_number, plain_numbers
from ..embedded import model_folder, portable_name
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from ..runs.bar import open_bar
from ..runs.chunks import Chunks
from ..runs.distributed import Process
from ..runs.scheduler import run_chunks
from ..runs.store import Store
from .figures import Runs
from .rows import Windows

if TYPE_CHECKING:
    from ..models.student import Student
    from ..models.tokenization import WindowReader

logger = logging.getLogger(__name__)
FOLDER = "validation"
VERSION = 1  # raise it when the same settings measure other numbers
MEASURES = ("nats", "tokens", "end_nats", "ends")
PROBED_ROWS = 16  # measured, and trained on in a step at most, for an estimate
RATE = "rate"  # the question of the runs that choose a learning rate, which may diverge


@dataclass(frozen=True)
class StudentSettings:
    """Name a student and how it is trained; every arm is trained alike.

    AdamW without weight decay; the rate rises over 0.03 of the steps and falls along a cosine to 0.

    Args:
        model: a Hub id, a local folder, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        learning_rate: the highest; None chooses it once, on random rows and measured on others.
        batch_rows: rows of a step.
        max_length: tokens read of a row; more of a response is cut, and how often is stated.
        lora: train adapters of this rank instead of all weights; needs peft.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        keep: keep the weights of every student.
    """

    model: str
    _: KW_ONLY
    revision: str | None = None
    learning_rate: float | None = None
    batch_rows: int = 16
    max_length: int = 512
    lora: int | None = None
    device: str = "auto"
    keep: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        if not isinstance(self.model, (str, os.PathLike)) or not str(self.model):
            raise SuperfilterError(
                f"student={self.model!r}: give a Hub id, a local folder or 'embedded:weak'"
            )
        object.__setattr__(self, "model", portable_name(str(self.model)))
        plain_numbers(self, "learning_rate", "batch_rows", "max_length", "lora")
        rate = self.learning_rate
        if rate is not None and (not is_number(rate) or rate <= 0):
            raise SuperfilterError(
                f"learning_rate={rate!r}: give a number above 0, such as 1e-3, or leave it out"
            )
        for name, least in (("batch_rows", 1), ("max_length", 2)):
            if not is_count(getattr(self, name), least):
                raise SuperfilterError(
                    f"{name}={getattr(self, name)!r}: give a whole number, at least {least}"
                )
        if self.lora is not None and not is_count(self.lora):
            raise SuperfilterError(f"lora={self.lora!r}: give a rank, at least 1, or leave it out")
        check_switch("keep", self.keep)

    def identity(self) -> dict[str, Any]:
        """Return what decides a student's numbers besides its rows.

        In bfloat16 other weights are learned than in float32: runs of both are never pooled.
        """
        from ..models.loading import pick_device
        from ..models.trainer import trains_in_bfloat16

        settings = asdict(self)
        for name in ("model", "device", "keep", "learning_rate", "revision"):
            settings.pop(name)
        folder = model_folder(self.model)
        revision = resolve_revision(folder, self.revision)
        precision = {"bfloat16": True} if trains_in_bfloat16(pick_device(self.device)) else {}
        return {**settings, **precision, "revision": revision, "version": VERSION}


@dataclass(frozen=True, eq=False)
class Run:
    """Describe the training of one student.

    Attributes:
        question: steps, epochs, tokens, or rate.
        arm: its name.
        number: of the order, or of the draw; also the seed.
        rows: row numbers to train on.
        steps: optimiser steps; 0 measures the untrained student.
        learning_rate: the highest.
    """

    question: str
    arm: str
    number: int
    rows: np.ndarray
    steps: int
    learning_rate: float


class RunFiles(Chunks):
    """Keep one file for every run; a chunk is a run.

    Args:
        store: the run folder.
        runs: what is trained.
        digests: of each run, all that decides its numbers.
        rows: rows that a run measures.
        keep: a run is done only where its weights are kept too.
    """

    verb = "Training"

    def __init__(
        self,
        store: Store,
        runs: Sequence[Run],
        digests: Sequence[str],
        rows: int,
        *,
        keep: bool = False,
    ) -> None:
        super().__init__(store, FOLDER, np.arange(len(runs) + 1, dtype=np.int64) * rows)
        self.runs, self.digests, self.keep = list(runs), list(digests), keep

    def stem(self, number: int) -> str:
        """Return question, arm, number and digest of a run."""
        run = self.runs[number]
        arm = re.sub(r"[^\w.-]+", "-", run.arm)[:40]
        return f"{run.question}-{arm}-{run.number}-{self.digests[number][:8]}"

    def numbers_of(self, arm: str, question: str) -> list[int]:
        """List the runs of an arm under a question."""
        return [
            number
            for number, run in enumerate(self.runs)
            if run.arm == arm and run.question == question
        ]

    def label(self, number: int) -> dict[str, Any]:
        """Return what the file of a run states."""
        return {**self.identity, "run": self.digests[number]}

    def model_folder(self, number: int) -> Path:
        """Return where the weights of a run are kept."""
        return self.store.path(f"{FOLDER}/models/{self.stem(number)}")

    def _is_whole(self, number: int) -> bool:
        is_kept = not self.keep or self.model_folder(number).is_dir()
        return is_kept and super()._is_whole(number)


class Bench:
    """Train students on rows of one table, and measure them on the same sets.

    Args:
        store: the run folder.
        settings: of the student.
        windows: of all rows that an arm may train on.
        process: this one.
    """

    def __init__(
        self, store: Store, settings: StudentSettings, windows: Windows, process: Process
    ) -> None:
        self.store, self.settings, self.windows = store, settings, windows
        self.process = process
        self._identity = settings.identity()

    @cached_property
    def student(self) -> "Student":
        """Load the student when a run is missing."""
        from ..models.student import Student

        settings = self.settings
        return Student(
            settings.model,
            revision=settings.revision,
            device=settings.device,
            rank=self.process.local,
            lora=settings.lora,
        )

    def run(self, runs: Sequence[Run], sets: Sequence[Windows]) -> RunFiles:
        """Train and measure what is missing; return when all is there.

        Args:
            runs: what to train.
            sets: rows to measure every student on.
        """
        files = self.files(runs, sets)
        costs = np.array([run.steps + 1 for run in runs], dtype=np.int64)
        with open_bar(files, costs, self.process) as bar:
            run_chunks(
                files,
                costs,
                lambda number: self._train(files, number, sets),
                self.process,
                bar,
                may_exit=False,
            )
        return files

    def files(self, runs: Sequence[Run], sets: Sequence[Windows]) -> RunFiles:
        """Name the files of runs."""
        measured = [part.digest() for part in sets]
        digests = [self._digest(run, measured) for run in runs]
        rows = sum(map(len, sets))
        return RunFiles(self.store, runs, digests, rows, keep=self.settings.keep)

    def _digest(self, run: Run, measured: list[str]) -> str:
        rows = [self.windows.digests[row] for row in run.rows.tolist()]
        # An untrained student is the same at any rate and in any order.
        decisive = [run.number, run.learning_rate] if run.steps else []
        facts = {
            **self._identity,
            "rows": hashlib.sha256("".join(rows).encode()).hexdigest(),
            "steps": run.steps,
            "order": decisive,
            "measured": measured,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _train(self, files: RunFiles, number: int, sets: Sequence[Windows]) -> dict[str, Any]:
        from ..models.trainer import Plan

        run, start = files.runs[number], time.perf_counter()
        facts: dict[str, Any] = {"tokens": 0.0, "epochs": 0.0, "loss": None}
        if run.steps:
            rows = self.windows.take(run.rows).rows
            plan = Plan(
                learning_rate=run.learning_rate,
                batch_rows=self.settings.batch_rows,
                seed=run.number,
            )
            log = self.student.train(rows, plan, run.steps).log
            facts["tokens"] = float(sum(entry["tokens"] for entry in log))
            facts["epochs"] = round(run.steps * plan.batch_rows / len(run.rows), 3)
            facts["loss"] = log[-1]["loss"]
        else:
            self.student.reset()
        measured = [self.student.measure(part.rows) for part in sets]
        columns = {name: np.concatenate([part[name] for part in measured]) for name in MEASURES}
        if run.question != RATE and not np.isfinite(columns["nats"]).all():
            raise SuperfilterError(_divergence(run))
        if self.settings.keep:
            self._keep(files.model_folder(number))
        facts["seconds"] = time.perf_counter() - start
        facts["process"] = f"{socket.gethostname()}:{os.getpid()}"
        files.write(number, columns, facts)
        logger.info(
            "%s, %s, run %d: %d steps in %.0f s", run.question, run.arm, run.number, run.steps,
            facts["seconds"],
        )  # fmt: skip
        return facts

    def _keep(self, folder: Path) -> None:
        """Write a student's weights, and rename the folder when all of them are there."""
        for abandoned in folder.parent.glob(f"{folder.name}.*.unfinished"):
            shutil.rmtree(abandoned, ignore_errors=True)  # of a process that was killed
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        try:
            self.student.save(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def estimate(self, runs: Sequence[Run], sets: Sequence[Windows], tuning: int = 0) -> str:
        """Time a few steps and rows, and say how long the missing runs will take.

        Args:
            runs: all of them.
            sets: what they are measured on.
            tuning: trainings before them, that choose the learning rate.
        """
        from ..models.trainer import Plan

        pending = [runs[number] for number in self.files(runs, sets).pending()]
        if not pending:
            return f"all {len(runs)} runs are finished already"
        longest = max(pending, key=lambda run: run.steps)
        batch_rows = min(self.settings.batch_rows, PROBED_ROWS)
        rows = self.windows.take(longest.rows[: 8 * batch_rows]).rows
        plan = Plan(learning_rate=1e-5, batch_rows=batch_rows)
        spread = np.linspace(0, len(sets[0]) - 1, PROBED_ROWS).astype(np.int64)
        step, row = self.student.seconds_of(rows, plan, sets[0].take(spread).rows)
        step *= self.settings.batch_rows / batch_rows
        measured = sum(map(len, sets))
        seconds = sum(run.steps * step + measured * row for run in pending)
        seconds += tuning * (longest.steps * step)
        return (
            f"{len(pending)} of {len(runs)} runs to do, {step:.2f} s a step and "
            f"{measured * row:.1f} s to measure {measured} rows: about {seconds / 60:.1f} minutes "
            "of one process"
        )


def _divergence(run: Run) -> str:
    if not run.steps:
        return "the student's losses are no numbers before any training: take another student"
    return (
        f"{run.arm}, run {run.number}: the student's losses are no numbers after {run.steps} steps "
        f"at learning rate {run.learning_rate:.2g}: give a lower learning_rate"
    )


def read_runs(files: RunFiles, arm: str, question: str, sets: Sequence[Windows]) -> list[Runs]:
    """Read what the runs of one arm measured, one entry per set."""
    tables = [files.table(number) for number in files.numbers_of(arm, question)]
    columns = {
        name: np.stack([table.column(name).to_numpy() for table in tables]) for name in MEASURES
    }
    borders = np.cumsum([len(part) for part in sets])[:-1]
    parts = {name: np.split(values, borders, axis=1) for name, values in columns.items()}
    return [
        Runs(
            parts["nats"][place],
            parts["end_nats"][place],
            parts["tokens"][place][0],
            parts["ends"][place][0],
        )
        for place in range(len(sets))
    ]


def window_reader(settings: StudentSettings) -> "WindowReader":
    """Load what cuts texts into windows, without the student's weights."""
    from ..models.loading import load_config, load_tokenizer, window_of
    from ..models.tokenization import WindowReader, limit_of

    folder = model_folder(settings.model)
    revision = resolve_revision(folder, settings.revision)
    window = window_of(load_config(folder, revision))
    limit_of(settings.max_length, window, settings.model)
    return WindowReader(folder, load_tokenizer(folder, revision), window)
