"""Choose the cheapest first stage for a recall, and read rows behind it."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns, ScorerAdapter, as_scorer
from ..data.columns import holds_numbers, numbers_of
from ..errors import SuperfilterError, WrongTypeError
from ..runs.manifest import read_manifest
from ..runs.runner import score
from ..scoring._model import named_model
from ..scoring.ifd import IFD
from ..scoring.surrogate import Surrogate
from .recall import Reading, read_for_recall

if TYPE_CHECKING:
    from datasets import Dataset

ASKED, PLACE = "strong_asked", "strong_place"
NOT_ASKED = "not_asked"
FIT_ROWS = 1_000  # more take longer and rank no better
PASSES = 10  # of a surrogate over the rows, about: it is fitted again as rows are read
BLOCK_ROWS = 5_000  # predicted at once


@dataclass(frozen=True)
class Goal:
    """Say what is kept, and how sure its recall has to be.

    Attributes:
        keep: rows to keep.
        recall, confidence: see `read_for_recall`.
        below: rows that score as much or more are not kept; None is no limit.
        largest: whether large scores are kept.
    """

    keep: int
    recall: float
    confidence: float
    below: float | None
    largest: bool

    def goodness(self, scores: np.ndarray) -> np.ndarray:
        """Turn (n,) scores into what is to be large, -inf where a row may not be kept."""
        allowed = ~np.isnan(scores)
        if self.below is not None:
            allowed &= scores < self.below
        return np.where(allowed, scores if self.largest else -scores, -np.inf)


@dataclass(frozen=True)
class Candidate:
    """Hold what a first stage would cost, as the audit says.

    Attributes:
        name: what it reads.
        agreement: Spearman correlation with the strong score, on rows left out of the fit; nan
            where those scores are all equal.
        pool: share of the rows that the strong scorer would read for the recall, were it fitted on
            the audit alone and needed no check; an estimate from few rows.
        seconds: of the first stage for all rows and the strong scorer for that pool.
    """

    name: str
    agreement: float
    pool: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Chain:
    """Hold what the chosen chain read.

    Attributes:
        table: the rows with the columns of all stages.
        reading: which rows the strong scorer read, and what it may have missed.
        candidates: all of them, the chosen first.
        seconds_first, seconds_strong: what the stages took.
        seconds_for_all: what the strong scorer would take for all rows.
    """

    table: "Dataset"
    reading: Reading
    candidates: tuple[Candidate, ...]
    seconds_first: float
    seconds_strong: float
    seconds_for_all: float


class StrongReader:
    """Ask the strong scorer for rows, each once, in runs of their own."""

    def __init__(self, rows: "Dataset", scorer: Any, folder: str | Path, goal: Goal) -> None:
        self.rows, self.scorer, self.folder, self.goal = rows, scorer, folder, goal
        self.scores = np.full(len(rows), np.nan)
        self.place = np.full(len(rows), -1)
        self.parts: list[Dataset] = []
        self.seconds: list[float] = []
        self.tokens: list[float] = []

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return how good the rows are."""
        new = np.sort(numbers[self.place[numbers] < 0])
        if len(new):
            self._ask(new)
        return self.goal.goodness(self.scores[numbers])

    def _ask(self, numbers: np.ndarray) -> None:
        folder = f"{self.folder}/strong/{len(self.parts):03}"
        part = scored(self.rows.select(numbers), [self.scorer], folder)
        added = [name for name in part.column_names if name not in self.rows.column_names]
        self.place[numbers] = sum(map(len, self.parts)) + np.arange(len(numbers))
        self.parts.append(part.select_columns(added))
        self.scores[numbers] = numbers_of(part, self.main)
        facts = read_manifest(folder)["scorers"][self.scorer.name]
        self.seconds.append(facts["seconds"])
        self.tokens.append(facts.get("tokens") or len(numbers))

    @property
    def main(self) -> str:
        """The column of the strong score."""
        return str(self.scorer.main)

    @property
    def seconds_for_all(self) -> float:
        """What the scorer would take for all rows: by tokens, of which the audit knows the mean."""
        a_token = sum(self.seconds) / sum(self.tokens)
        return a_token * self.tokens[0] / len(self.parts[0]) * len(self.rows)


def read_behind_cheapest(
    rows: "Dataset",
    candidates: Sequence[Any],
    strong: Any,
    goal: Goal,
    *,
    folder: str | Path,
    audit: int,
    seed: int,
) -> Chain:
    """Audit the candidates, and read rows behind the cheapest.

    Args:
        rows: n rows with the columns that the scorers read.
        candidates: scorers, or models' names for `IFD`; a `Surrogate` reads words alone. Behind a
            scorer a surrogate learns from its numbers and from the words.
        strong: the strong scorer.
        folder: the run folder.
        audit: rows drawn at random, which all of them score.
        seed: of the draws.
    """
    started = time.perf_counter()
    as_scorer(strong)(rows[:1])  # loads the model, which is not what a row costs
    reader = StrongReader(rows, strong, folder, goal)
    sample = np.sort(np.random.default_rng(seed).permutation(len(rows))[:audit])
    reader(sample)
    audited = [_audit(candidate, reader, sample) for candidate in candidates]
    order = sorted(range(len(audited)), key=lambda number: audited[number][0].seconds)
    chosen, surrogate = candidates[order[0]], audited[order[0]][1]
    first = [] if isinstance(chosen, Surrogate) else [chosen]
    table = scored(rows, first, folder) if first else rows

    def predict(read: np.ndarray, unread: np.ndarray) -> np.ndarray:
        with TemporaryDirectory() as scratch:
            fitted = surrogate.prepare(_with_scores(table, reader, read), scratch)
            predicted = _predict(fitted, table, unread)
        return predicted if goal.largest else -predicted

    reading = read_for_recall(
        reader,
        predict,
        len(rows),
        goal.keep,
        recall=goal.recall,
        confidence=goal.confidence,
        sample=sample,
        seed=seed,
    )
    read = np.flatnonzero(reader.place >= 0)
    fitted = surrogate.prepare(_with_scores(table, reader, read), f"{folder}/surrogate-of-read")
    marked = rows.add_column(ASKED, (reader.place >= 0).tolist())
    marked = marked.add_column(PLACE, reader.place.tolist())
    recorded = RecordedRows(strong, reader.parts)
    table = scored(marked, [*first, fitted, recorded], folder).remove_columns(PLACE)
    took = time.perf_counter() - started
    seconds_strong = sum(reader.seconds)
    return Chain(
        table,
        reading,
        tuple(audited[number][0] for number in order),
        seconds_first=max(0.0, took - seconds_strong),
        seconds_strong=seconds_strong,
        seconds_for_all=reader.seconds_for_all,
    )


def _audit(candidate: Any, reader: StrongReader, sample: np.ndarray) -> tuple[Candidate, Surrogate]:
    """Measure what a candidate costs and how far it agrees, on the audited rows."""
    rows, goal = reader.rows.select(sample), reader.goal
    columns = getattr(reader.scorer, "columns", None) or ("prompt", "response")
    pair = (columns[0], columns[1])
    if isinstance(candidate, Surrogate):
        surrogate = replace(candidate, fitted=None, model=None, of=reader.main)
        surrogate = replace(surrogate, sample=max(surrogate.sample, FIT_ROWS))
        name, first, table = "words alone", [], rows
    else:
        candidate(rows[:1])  # loads the model, which is not what a row costs
        first = [candidate]
        table = scored(rows, first, f"{reader.folder}/candidates/{candidate.name}")
        added = [name for name in table.column_names if name not in rows.column_names]
        features = tuple(name for name in added if holds_numbers(table, name))
        surrogate = Surrogate(of=reader.main, columns=pair, features=features, sample=FIT_ROWS)
        name = f"{getattr(candidate, 'model', None) or candidate.name} and words"
    table = table.add_column(reader.main, reader.scores[sample].tolist())
    folder = f"{reader.folder}/candidates/{first[0].name if first else surrogate.name}"
    scored(table, [surrogate], f"{folder}-fit")
    facts = read_manifest(f"{folder}-fit")["scorers"][surrogate.name]
    seconds = PASSES * facts["seconds"]
    if first:
        seconds += read_manifest(folder)["scorers"][candidate.name]["seconds"]
    with TemporaryDirectory() as scratch:
        predicted, targets = surrogate.prepare(table, scratch).left_out()
    share = goal.keep / len(reader.rows)
    pool = pool_share(predicted if goal.largest else -predicted, goal, targets, share)
    a_row = seconds / len(rows) + pool * reader.seconds_for_all / len(reader.rows)
    agreement = facts["made_with"]["spearman"]
    agreement = np.nan if agreement is None else agreement
    return Candidate(name, agreement, pool, a_row * len(reader.rows)), surrogate


def pool_share(predicted: np.ndarray, goal: Goal, scores: np.ndarray, share: float) -> float:
    """Estimate the share of rows to read, best predicted first, for the recall.

    Args:
        predicted: (m,) predictions of rows drawn at random, large is good.
        scores: (m,) their strong scores.
        share: of rows to keep.
    """
    goodness = goal.goodness(scores)
    best = np.argsort(-goodness, kind="stable")[: max(1, round(share * len(scores)))]
    places = np.empty(len(scores))
    places[np.argsort(-predicted, kind="stable")] = np.arange(1, len(scores) + 1)
    needed = int(np.ceil(round(goal.recall * len(best), 6)))
    return float(np.sort(places[best])[needed - 1] / len(scores))


def _with_scores(table: "Dataset", reader: StrongReader, read: np.ndarray) -> "Dataset":
    return table.select(read).add_column(reader.main, reader.scores[read].tolist())


def _predict(fitted: Surrogate, table: "Dataset", rows: np.ndarray) -> np.ndarray:
    """Predict rows block by block: the n-grams of all of them need not fit into memory."""
    needed = [*fitted.columns, *fitted.more_columns]
    plain = table.select_columns(needed).with_format(None)
    blocks = [np.zeros(0)]
    for start in range(0, len(rows), BLOCK_ROWS):
        batch = plain.select(rows[start : start + BLOCK_ROWS])[:]
        blocks.append(np.asarray(fitted(batch)[fitted.main]))
    return np.concatenate(blocks)


class MarkedRows(ScorerAdapter):
    """Score only the rows that a column marks.

    The others are nan, or `not_asked`.
    """

    marks: tuple[str, ...] = (ASKED,)

    def __init__(self, scorer: Any) -> None:
        super().__init__(as_scorer(scorer))
        if self.columns is not None:
            self.columns = (*self.columns, *self.marks)

    def identity(self) -> dict[str, Any]:
        """Return that of the scorer."""
        return dict(self.scorer.identity())

    def entry(self) -> Any:
        """Return that of the scorer."""
        return self.scorer.entry()

    def score_part(self, part: Batch, rank: int | None) -> Columns:
        """Score marked rows."""
        columns: Columns = super().__call__(part, rank)
        return columns

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score the marked rows and fill the others in."""
        asked = np.flatnonzero(np.asarray(batch[ASKED], dtype=bool)).tolist()
        part = {name: [values[i] for i in asked] for name, values in batch.items()}
        columns: Columns = {}
        for name, values in self.score_part(part, rank).items():
            # Of no rows, text and numbers are both float.
            numeric = np.asarray(values).dtype.kind in "fi" and not name.endswith("_status")
            if numeric:
                column = np.full(len(batch[ASKED]), np.nan)
            else:
                column = np.full(len(batch[ASKED]), NOT_ASKED, dtype=object)
            column[asked] = values
            columns[name] = column if numeric else column.tolist()
        return columns


class RecordedRows(MarkedRows):
    """Take what a scorer has said of marked rows from its earlier runs.

    Args:
        scorer: the strong one.
        parts: its columns, run by run; a row's place in them stands in the column `strong_place`.
    """

    marks = (ASKED, PLACE)

    def __init__(self, scorer: Any, parts: "list[Dataset]") -> None:
        super().__init__(scorer)
        from datasets import concatenate_datasets

        self.recorded = concatenate_datasets(parts).with_format(None)

    def score_part(self, part: Batch, rank: int | None) -> Columns:
        """Look the rows up."""
        columns: Columns = dict(self.recorded[list(part[PLACE])])
        for name, values in columns.items():
            if holds_numbers(self.recorded, name):
                columns[name] = np.array(values, dtype=float)
        return columns


def with_names(candidates: Sequence[Any], strong: Any) -> tuple[list[Any], Any]:
    """Return scorers with different names; a model's name is its IFD."""
    firsts = [_as_ifd(candidate) for candidate in candidates]
    second = _as_ifd(strong)
    names = [first.name for first in firsts]
    renamed = []
    for number, first in enumerate(firsts):
        name = first.name
        if name == second.name or names.count(name) > 1:
            name = f"{name}_weak" if len(firsts) == 1 else f"{name}_{_letters(first, number)}"
        renamed.append(first if name == first.name else _renamed(first, name))
    if second.name in names:
        second = _renamed(second, f"{second.name}_strong")
    return renamed, second


def _renamed(scorer: Any, name: str) -> Any:
    taken = scorer.name
    if is_dataclass(scorer) and not isinstance(scorer, type):
        return replace(scorer, name=name)
    raise SuperfilterError(f"two scorers are called {taken!r}: give one of them another name")


def _as_ifd(scorer: Any) -> Any:
    if isinstance(scorer, str):
        return IFD(**named_model(scorer))
    if isinstance(scorer, type) or not callable(scorer):
        raise WrongTypeError(
            f"{scorer!r} is not a scorer: give a model's name, or an instance such as "
            "IFD('openai-community/gpt2')"
        )
    adapted = as_scorer(scorer)
    if not adapted.main:
        raise SuperfilterError(
            f"the scorer {adapted.name!r} does not say which of its columns ranks rows: name it, "
            f"{adapted.name}.main = 'column'"
        )
    return adapted


def _letters(scorer: Any, number: int) -> str:
    model = str(getattr(scorer, "model", "") or "").rsplit("/", 1)[-1]
    letters = re.sub(r"[^A-Za-z0-9]+", "_", model).strip("_").lower()
    return f"weak{number + 1}_{letters}".rstrip("_")


def scored(rows: "Dataset", scorers: list[Any], folder: str | Path) -> "Dataset":
    """Score rows in this process alone."""
    table = score(rows, scorers, folder)
    if table is None:
        raise SuperfilterError(
            "several processes were launched: each model of a cascade waits for the other, so use "
            "one"
        )
    return table
