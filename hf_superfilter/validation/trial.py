"""Run one validation: arms and sets, the statement before training, the runs, the answers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_seed, is_count, plain_numbers
from ..errors import SuperfilterError, WrongTypeError
from ..recipes.recipe import Recipe
from ..runs.distributed import Process
from ..runs.store import Store
from ..selection.funnel import Selection
from .answers import answer, facts_of_rows, notes_on_rows, notes_on_scale, notes_on_training
from .arms import SELECTED, Arm, Pool, check_other_name, make_arms
from .figures import PRIMARY
from .material import Material, can_select_again, places_in, select_again
from .plan import Question, questions_of, runs_of, statement
from .rates import RATES, choose_rate
from .rows import COLUMNS, Windows, digests_of, turns_of, windows_of
from .students import FOLDER, Bench, RunFiles, StudentSettings, window_reader

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
HELD_OUT, TARGET, TUNING = "held-out", "target", "the rows to tune on"


@dataclass(frozen=True)
class Design:
    """Hold the settings of a validation that do not concern the student.

    Attributes:
        arms: names.
        seeds, draws: runs of an arm with fixed rows, and of a random one.
        seed: of rows held out and draws.
        steps, epochs, tokens: what is held equal.
    """

    arms: tuple[str, ...]
    seeds: int
    draws: int
    seed: int
    steps: int | None
    epochs: float | None
    tokens: int | None

    def __post_init__(self) -> None:
        """Check the counts."""
        plain_numbers(self, "seeds", "draws", "seed", "steps", "epochs", "tokens")
        for name, least in (("seeds", 1), ("draws", 2)):
            value = getattr(self, name)
            if not is_count(value, least):
                raise SuperfilterError(f"{name}={value!r}: give a whole number, at least {least}")
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Trained:
    """Hold what was stated before training, and the files that hold what was measured."""

    plan: dict[str, Any]
    questions: list[Question]
    arms: list[Arm]
    files: RunFiles
    rate: float
    tried: list[dict[str, float]]


class Trial:
    """Train and measure what a design asks for.

    Args:
        settings: of the student.
        material: rows to train, tune and measure on.
        design: arms and how often each is trained.
        store: the run folder.
        process: this one.
        selected: what notes call the rows that are selected.
    """

    def __init__(
        self,
        settings: StudentSettings,
        material: Material,
        design: Design,
        store: Store,
        process: Process,
        *,
        selected: str = SELECTED,
    ) -> None:
        self.settings, self.material, self.design = settings, material, design
        self.store, self.process = store, process
        if settings.keep and not store.exclusive:
            raise SuperfilterError(
                f"keep=True: models are kept in a local folder only, and {store.folder!r} is none"
            )
        self.reader = window_reader(settings)
        self.windows = self._read(material.table, "the table")
        self.others: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self.sets = [self._measurable(material.held_out, HELD_OUT)]
        self._trainable(material.selected, selected)

    def _read(self, table: "Dataset", name: str) -> Windows:
        return windows_of(table, self.reader, self.settings.max_length, name)

    def _measurable(self, table: "Dataset", name: str) -> Windows:
        """Cut rows to measure on; say how many have nothing to measure."""
        rows = self._read(table, name)
        kept = rows.measurable()
        if len(kept) < len(rows):
            self.notes.append(
                f"not measured: {len(rows) - len(kept)} of the {len(rows)} rows of {name} "
                f"({self._reasons(rows)})"
            )
        return kept

    def _trainable(self, numbers: np.ndarray, words: str) -> np.ndarray:
        """Leave rows out that have nothing to train on; say how many they are."""
        rows = self.windows.take(numbers)
        kept: np.ndarray = numbers[rows.tokens > 0]
        if len(kept) < len(rows):
            self.notes.append(
                f"not trained on: {len(rows) - len(kept)} of the {len(rows)} rows {words} "
                f"({self._reasons(rows)})"
            )
        return kept

    def _reasons(self, rows: Windows) -> str:
        """Say why some rows have no response token."""
        full = int(np.count_nonzero(rows.is_cut & (rows.tokens == 0)))
        empty = int(np.count_nonzero(rows.tokens == 0)) - full
        reasons = []
        if full:
            limit = self.settings.max_length
            reasons.append(
                f"prompts that fill the {limit} tokens read of a row, max_length: {full}"
            )
        if empty:
            reasons.append(f"no response: {empty}")
        return "; ".join(reasons)

    @cached_property
    def pool(self) -> Pool:
        """Hold what arms are drawn from."""
        count = len(self.material.table)
        tokens = self.windows.tokens[:count]
        selected = self.material.selected
        return Pool(
            self.material.table,
            np.arange(count, dtype=np.int64),
            tokens,
            selected[tokens[selected] > 0],
            self.design.seed,
        )

    def add_arms(self, others: Mapping[str, Any], selection: "Selection | Recipe") -> None:
        """Add arms by name: selections of the table, row numbers, or rows from elsewhere."""
        from datasets import Dataset

        _check_mapping("others", others)
        for name, other in others.items():
            check_other_name(name)
            if isinstance(other, Dataset):
                self._add_rows(name, other)
            else:
                self.add_arm(name, _rows_in_pool(name, other, selection, self.material))

    def add_arm(self, name: str, numbers: np.ndarray) -> None:
        """Add an arm of rows of the table, without those that have nothing to train on."""
        self.others[name] = self._trainable(numbers, f"of {name}")

    def _add_rows(self, name: str, rows: "Dataset") -> None:
        """Add an arm of rows from elsewhere, without those that are held out."""
        added, first = self._read(rows, name), len(self.windows)
        turns = turns_of(rows)
        held_out = set[str]().union(*turns_of(self.material.held_out))
        is_free = np.array([held_out.isdisjoint(digests) for digests in turns], dtype=bool)
        self.others[name] = first + np.flatnonzero((added.tokens > 0) & is_free)
        self.windows = self.windows.joined(added)
        self._trained_on.update(*(turns[row] for row in np.flatnonzero(is_free).tolist()))
        if not is_free.all():
            self.notes.append(
                f"{name}: {np.count_nonzero(~is_free)} of its {len(rows)} rows are left out, "
                "because a row held out, or a turn of it, has the same prompt and response"
            )

    @cached_property
    def _trained_on(self) -> set[str]:
        """Hold the digests of all rows that an arm may train on, and of their turns."""
        return set[str]().union(*turns_of(self.material.table))

    def add_sets(self, sets: "Mapping[str, Dataset]") -> None:
        """Add rows to measure on."""
        for name, rows in sets.items():
            part = self._measurable(rows, name)
            self.sets.append(part)
            turns = turns_of(rows.select(part.numbers))
            known = sum(not self._trained_on.isdisjoint(digests) for digests in turns)
            if known:
                self.notes.append(
                    f"{known} of the {len(part)} rows of {name} are rows that students may be "
                    "trained on as well, with the same prompt and response or those of a turn: an "
                    "arm that holds more of them looks better there"
                )

    @property
    def target(self) -> str | None:
        """Name the target set, if there is one."""
        names = [part.name for part in self.sets]
        return TARGET if TARGET in names else None

    def run(self) -> dict[str, Any] | None:
        """State the plan, train what is missing, and answer.

        Returns:
            The facts of the result; None on processes of a launch that are not the main one.
        """
        trained = self.train(self.design)
        if not self.process.is_main:
            return None
        identity = self.settings.identity()
        student = {"model": self.settings.model, **identity, "learning_rate": trained.rate}
        answers = [
            answer(question, trained.arms, trained.files, self.sets, self.windows, self.target)
            for question in trained.questions
        ]
        first = trained.questions[0]
        return {
            "student": student,
            "rates": trained.tried,
            "rows": {"pool": len(self.pool.rows), "selected": len(self.pool.selected)},
            "seed": self.design.seed,
            "plan": trained.plan,
            "questions": answers,
            "notes": [
                *self.material.notes,
                *self.notes,
                *notes_on_rows(self.pool, self.windows, self.sets, trained.arms),
                *notes_on_scale(answers, HELD_OUT),
                *notes_on_training(answers, HELD_OUT),
                *self._notes_elsewhere(answers),
            ],
            **facts_of_rows(trained.files, first, self.sets, self.material),
        }

    def _notes_elsewhere(self, answers: Sequence[Mapping[str, Any]]) -> list[str]:
        notes = []
        for part in self.sets[1:]:
            notes += notes_on_training(answers, part.name, same_source=False)
        return notes

    def train(self, design: Design) -> Trained:
        """Train and measure every student of a design that is missing."""
        arms, questions, plan = self._plan(design)
        if self.store.exclusive:
            self.store.path(FOLDER).mkdir(parents=True, exist_ok=True)
        bench = Bench(self.store, self.settings, self.windows, self.process)
        if self.process.is_main:
            for line in self._statement(plan, bench, arms, questions):
                logger.info("validation: %s", line)
        rate = self.settings.learning_rate
        tried: list[dict[str, float]] = []
        if rate is None:
            tuning = self._read(self.material.tuning, TUNING).measurable()
            rate, tried = choose_rate(bench, self.pool, questions[0], tuning)
        runs = runs_of(questions, arms, self.windows, self.settings.batch_rows, rate)
        return Trained(plan, questions, arms, bench.run(runs, self.sets), rate, tried)

    def forecast(self) -> list[str]:
        """Say what would be compared and how long it takes; nothing is written."""
        arms, questions, plan = self._plan(self.design)
        bench = Bench(self.store, self.settings, self.windows, self.process)
        return self._statement(plan, bench, arms, questions)

    def _plan(self, design: Design) -> tuple[list[Arm], list[Question], dict[str, Any]]:
        """Draw the arms, settle what is held equal, and state both."""
        arms = make_arms(
            design.arms, self.pool, seeds=design.seeds, draws=design.draws, others=self.others
        )
        selected, batch_rows = len(self.pool.selected), self.settings.batch_rows
        questions = questions_of(design.steps, design.epochs, design.tokens, selected, batch_rows)
        return arms, questions, statement(questions, arms, self.sets, self.target)

    def _statement(
        self,
        plan: Mapping[str, Any],
        bench: Bench,
        arms: Sequence[Arm],
        questions: Sequence[Question],
    ) -> list[str]:
        """Say before training what is compared, on which figure, and how long it will take."""
        listed = ", ".join(f"{arm['name']} ({arm['runs']})" for arm in plan["arms"])
        sets = ", ".join(f"{part['name']} ({part['rows']:,} rows)" for part in plan["sets"])
        rates = RATES if self.settings.learning_rate is None else [self.settings.learning_rate]
        batch_rows = self.settings.batch_rows
        lists = [runs_of(questions, arms, self.windows, batch_rows, rate) for rate in rates]
        # At the rate that an earlier call has chosen most runs are finished.
        pending = [len(bench.files(runs, self.sets).pending()) for runs in lists]
        tuning = 0 if len(rates) == 1 or min(pending) < max(pending) else len(rates)
        return [
            f"arms and runs: {listed}",
            f"primary figure: {plan['figures'][PRIMARY]}, on {sets}",
            bench.estimate(lists[int(np.argmin(pending))], self.sets, tuning),
        ]


def check_sets(sets: Any) -> None:
    """Refuse sets that are not named, or by a name that means another set."""
    _check_mapping("sets", sets)
    for name in sets:
        if not isinstance(name, str) or not name.strip():
            raise SuperfilterError(f"sets: {name!r} is no name of a set: give a text")
        if name == HELD_OUT:
            raise SuperfilterError(f"sets: {name!r} is the name of the rows held out: take another")
        if name == TARGET:
            raise SuperfilterError(
                f"sets: {name!r} is the name of the target, which counts in the verdict: give it "
                "as target, or take another name"
            )


def _check_mapping(setting: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise WrongTypeError(
            f"{setting} is of type {type(value).__name__}: give a mapping of names to rows"
        )


def _rows_in_pool(
    name: str, other: Any, selection: "Selection | Recipe", material: Material
) -> np.ndarray:
    """Translate row numbers of the whole table to those of the rows that are not held out."""
    if isinstance(selection, Recipe):
        raise WrongTypeError(
            f"others[{name!r}]: beside a recipe give rows with prompt and response, a Dataset"
        )
    total = len(selection.table)
    rows = np.asarray(other.rows if isinstance(other, Selection) else other)
    if isinstance(other, Selection):
        _check_same_rows(name, other, selection)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise SuperfilterError(f"others[{name!r}]: give row numbers, a selection or a Dataset")
    if rows.min() < 0 or rows.max() >= total:
        beyond = rows.min() if rows.min() < 0 else rows.max()
        raise SuperfilterError(
            f"others[{name!r}] names row {int(beyond)}, and the table has {total:,} rows"
        )
    if isinstance(other, Selection) and can_select_again(other):
        # Its own table: columns of one name may hold other scores.
        return select_again(other, other.table.with_format(None).select(material.pool))
    return places_in(material.pool, rows, total)


def _check_same_rows(name: str, other: Selection, selection: Selection) -> None:
    """Refuse a selection of other rows, by whose numbers and order it would mean other texts."""
    if other.table is selection.table:
        return
    remedy = "select both from one table, or give its rows as a Dataset with prompt and response"
    if len(other.table) != len(selection.table):
        raise SuperfilterError(
            f"others[{name!r}] was selected from {len(other.table):,} rows, and the selection from "
            f"{len(selection.table):,}: {remedy}"
        )
    missing = [column for column in COLUMNS if column not in other.table.column_names]
    if missing:
        raise SuperfilterError(
            f"others[{name!r}] was selected from another table, without a column {missing[0]!r} to "
            f"tell whether its rows are the same: {remedy}"
        )
    own, others = digests_of(selection.table), digests_of(other.table)
    for row, (digest, another) in enumerate(zip(own, others, strict=True)):
        if digest != another:
            raise SuperfilterError(
                f"others[{name!r}] was selected from another table, whose row {row} has another "
                f"prompt or response: {remedy}"
            )
