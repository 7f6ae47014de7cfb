"""Stand in for a strong scorer after a look at some of its scores."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import UNREADABLE_STATUS, Batch, Columns, Settings
from ..checks import (
    check_column,
    check_name,
    check_seed,
    is_count,
    pair_of_columns,
    plain_numbers,
)
from ..data.chats import flatten_turns
from ..data.columns import numbers_of
from ..embedded import portable_name
from ..errors import SuperfilterError, UnreadableFileError, did_you_mean
from ._model import default_name, revision_of
from ._ngrams import TextRanker
from ._prepared import read_prepared, write_once
from ._rows import takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "surrogate.json"
MIN_ROWS = 8
SCORERS = {"ifd": "IFD", "ppl": "Perplexity", "ask_llm": "AskLLM"}  # public names, by column


@dataclass(frozen=True, repr=False)
class Surrogate(Settings):
    """Predict how a strong scorer would rank a row, from its words.

    `surrogate = (2 t + r) / 3`, learned from the ranks (0 to 1) that the strong scorer gives to
    some rows: r a ridge on hashed n-grams of words and characters, t extremely randomised trees on
    lengths, variety and r. It orders rows as the strong score does, ascending: of a perplexity
    keep the lowest. It knows words and no language: read its agreement, `spearman` in the run's
    manifest, measured on rows left out, before you rely on it. `cascade` with `recall=` uses it as
    a first stage and measures what it loses.

    `score` fits it first (`prepare`) and keeps the texts and scores that it was fitted on in the
    run folder; with `map` call `prepare(rows, folder)` before.

    Columns: `surrogate`, float64, about 0 to 1; `surrogate_status`, `ok`, or why it is nan:
    `empty_response`, `unreadable`.

    Args:
        of: `ifd`, `ppl` or `ask_llm` of `model`; without a model, a numeric column of the rows in
            which some have the strong score (the others nan or null).
        model: the strong model, which scores `sample` rows drawn at random: a Hub id, a local
            folder, or `embedded:strong`. One behind a server scores a column first.
        sample: rows to fit on, at most; 250 to 1,000 are enough, and time grows with their cube.
        features: numeric columns to learn from beside the words, such as a weak model's score.
        seed: of the draw and of the trees.
        columns: the prompt and the response column.
        fitted: the file of rows and scores, as `prepare` names it.
        name: prefix of the columns.

    Example:
        >>> from hf_superfilter import Surrogate
        >>> Surrogate(of="ifd", model="embedded:strong", sample=250)
        Surrogate(model='embedded:strong', sample=250)
    """

    of: str = "ifd"
    model: str | None = None
    _: KW_ONLY
    sample: int = 500
    features: tuple[str, ...] = ()
    seed: int = 0
    columns: tuple[str, str] = ("prompt", "response")
    fitted: str | None = None
    name: str = default_name("surrogate")

    def __post_init__(self) -> None:
        """Check the settings."""
        plain_numbers(self, "sample", "seed")
        check_column(self.of)
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        if self.model is not None:
            object.__setattr__(self, "model", portable_name(str(self.model)))
            if self.of not in SCORERS:
                raise SuperfilterError(
                    f"of={self.of!r} with a model: {did_you_mean(self.of, SCORERS)}; a column of "
                    "scores needs no model"
                )
        if not is_count(self.sample, MIN_ROWS):
            raise SuperfilterError(
                f"sample={self.sample!r}: give a number of rows, at least {MIN_ROWS}"
            )
        is_list = isinstance(self.features, Sequence) and not isinstance(self.features, str)
        if not is_list or not all(isinstance(name, str) and name for name in self.features):
            raise SuperfilterError(
                f"features={self.features!r}: give a list of numeric columns, such as ['ifd_weak']"
            )
        object.__setattr__(self, "features", tuple(self.features))
        check_seed(self.seed)
        if self.fitted is not None:
            object.__setattr__(self, "fitted", str(self.fitted))
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The features, and the strong score where it is a column of the rows."""
        from_column = self.model is None and self.fitted is None
        return (*self.features, self.of) if from_column else self.features

    def identity(self) -> dict[str, str]:
        """Return a digest of what it was fitted on, or the strong model's revision."""
        if self.fitted is not None:
            return {"fitted": _read(self.fitted)[1]}
        return {} if self.model is None else revision_of(self.model, None)

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return the rows that it was fitted on, and how it ranks them when left out."""
        return {"model": self.model, **_fit(*self._fitted_file()).facts}

    def prepare(self, rows: "Dataset", folder: str) -> "Surrogate":
        """Score the sample with the strong model, and write it into the folder.

        Called again it only names the file.

        Raises:
            SuperfilterError: no such column, or fewer than 8 rows with a text and a finite score.
        """
        if self.fitted is not None:
            return self
        file = write_once(folder, FILE, lambda: json.dumps(self._examples(rows)).encode())
        return dataclasses.replace(self, fitted=file)

    def _examples(self, rows: "Dataset") -> dict[str, Any]:
        """Collect the texts, features and strong scores of the rows to fit on."""
        order = np.random.default_rng(self.seed).permutation(len(rows))
        if self.model is None:
            scores = numbers_of(rows, self.of)
            order = order[np.isfinite(scores[order])]
        drawn = np.sort(order[: self.sample])
        batch = rows.with_format(None).select(drawn)[:]
        if self.model is None:
            targets = scores[drawn]
        else:
            scorer = getattr(import_module("hf_superfilter"), SCORERS[self.of])
            strong = scorer(self.model, columns=self.columns)
            targets = np.asarray(strong(batch)[strong.main], dtype=float)
        prompts, responses, unreadable = self._texts(batch)
        has_text = np.array([bool(text) for text in responses], dtype=bool)
        usable = np.isfinite(targets) & ~unreadable & has_text
        if usable.sum() < MIN_ROWS:
            raise SuperfilterError(
                f"only {int(usable.sum())} of {len(drawn):,} rows have a text and a finite "
                f"{self.of!r}: a surrogate is fitted on at least {MIN_ROWS}, better 250 to 1,000"
            )
        kept = np.flatnonzero(usable).tolist()
        return {
            "prompts": [prompts[row] for row in kept],
            "responses": [responses[row] for row in kept],
            "numbers": _numbers(batch, self.features)[kept].tolist(),
            "targets": targets[kept].tolist(),
        }

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Predict the ranks of a batch of n rows.

        Raises:
            SuperfilterError: `prepare` was not called, or a column is missing.
        """
        ranker = _fit(*self._fitted_file()).ranker
        prompts, responses, unreadable = self._texts(batch)
        has_text = np.array([bool(text) for text in responses], dtype=bool)
        numbers = _numbers(batch, self.features)
        rows = np.flatnonzero(has_text)
        predicted = np.full(len(responses), np.nan)
        if len(rows):
            predicted[rows] = ranker.predict(
                [prompts[row] for row in rows], [responses[row] for row in rows], numbers[rows]
            )
        conditions = [unreadable, ~has_text]
        status = np.select(conditions, [UNREADABLE_STATUS, "empty_response"], "ok").tolist()
        return {self.name: predicted, f"{self.name}_status": status}

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (m,) predictions of the rows fitted on, each without that row, and scores."""
        fit = _fit(*self._fitted_file())
        return fit.ranker.left_out, fit.targets

    def _texts(self, batch: Batch) -> tuple[list[str], list[str], np.ndarray]:
        """Join the turns of each row: the last prompt, which holds all before it, all responses."""
        turns = flatten_turns(batch, self.columns)
        prompts, responses = [""] * turns.count, [""] * turns.count
        for turn, row in enumerate(turns.rows.tolist()):
            prompts[row] = turns.prompts[turn]
            responses[row] = f"{responses[row]}\n{turns.responses[turn]}".strip()
        return prompts, responses, turns.is_unreadable

    def _fitted_file(self) -> tuple[str, str, int]:
        if self.fitted is None:
            raise SuperfilterError(
                "Surrogate has to see all rows before it scores the first: use score(rows, "
                "[Surrogate(of, model)], folder), or Surrogate(of, model).prepare(rows, folder), "
                "which returns a scorer for map"
            )
        return self.fitted, _read(self.fitted)[1], self.seed


@dataclass(frozen=True)
class _Fit:
    """Hold a fitted ranker and what the manifest says of it."""

    ranker: TextRanker
    targets: np.ndarray
    facts: dict[str, Any]


def _numbers(batch: Batch, features: Sequence[str]) -> np.ndarray:
    """Stack numeric columns of n rows to (n, m) float64."""
    count = len(next(iter(batch.values()), ()))
    for name in features:
        if name not in batch:
            raise SuperfilterError(f"no column {name!r} in the rows: {did_you_mean(name, batch)}")
    columns = []
    for name in features:
        try:
            column = np.array(batch[name], dtype=float)  # None is nan
        except (ValueError, TypeError):
            column = np.zeros((0, 0))
        if column.shape != (count,):
            raise SuperfilterError(f"the feature {name!r} holds no numbers: name numeric columns")
        columns.append(column)
    return np.column_stack(columns) if columns else np.zeros((count, 0))


def _read(file: str) -> tuple[bytes, str]:
    """Read a file of examples and its digest."""
    missing = (
        f"no fitted surrogate {file!r}: make it with Surrogate(of, model).prepare(rows, folder)"
    )
    return read_prepared(file, missing)


@lru_cache(maxsize=2)
def _fit(file: str, digest: str, seed: int) -> _Fit:
    """Fit the examples of a file; `digest` is a part of the cache's key only."""
    from scipy.stats import spearmanr

    try:
        examples = json.loads(_read(file)[0])
        targets = np.array(examples["targets"], dtype=float)
        numbers = np.array(examples["numbers"], dtype=float).reshape(len(targets), -1)
        texts = examples["prompts"], examples["responses"]
    except (ValueError, LookupError, TypeError) as error:
        raise UnreadableFileError(
            f"{file} is no file of a fitted surrogate ({error!r}): make it again with "
            "Surrogate(of, model).prepare(rows, folder)"
        ) from error
    ranker = TextRanker(*texts, numbers, targets, seed=seed)
    agreement = None  # of scores that are all equal there is none
    if np.ptp(targets) > 0 and np.ptp(ranker.left_out) > 0:
        agreement = round(float(spearmanr(ranker.left_out, targets).statistic), 4)
    facts = {"fitted_rows": len(targets), "spearman": agreement}
    return _Fit(ranker, targets, facts)
