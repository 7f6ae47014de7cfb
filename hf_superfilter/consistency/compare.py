"""Compare how models rank one random sample."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_type, is_count, plain_number
from ..data.columns import numbers_of
from ..errors import SuperfilterError, did_you_mean
from ..metrics.rank_consistency.agreement import rank_consistency
from ..runs.manifest import read_manifest
from ..runs.runner import score
from ..scoring._model import named_model
from ..scoring.ifd import IFD
from ..scoring.perplexity import Perplexity

if TYPE_CHECKING:
    from datasets import Dataset

SCORERS: dict[str, Any] = {"ifd": IFD, "ppl": Perplexity}
LARGEST = {"ifd": True, "ppl": False}  # what is kept of each: the hardest, the most fluent
BELOW = {"ifd": 1.0, "ppl": None}


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Hold several models' scores of the same rows.

    `print(comparison)` shows every weaker model against the strongest: the measures with intervals
    and chance, and a verdict in words.

    Attributes:
        by: `ifd` or `ppl`.
        models: m names, the strongest last.
        table: the sampled rows with one score column per model.
        columns: model -> its column.
        agreements: (weaker, stronger) -> the measures of `rank_consistency`, for every pair in the
            order of `models`.
        seconds: model -> what it took.
        rows: rows that the sample was drawn from.
        seed: of the draw.
    """

    by: str
    models: tuple[str, ...]
    table: "Dataset"
    columns: dict[str, str]
    agreements: dict[tuple[str, str], dict[str, Any]]
    seconds: dict[str, float]
    rows: int
    seed: int = 0

    def scores(self, model: str) -> np.ndarray:
        """Return the (n,) scores of the sample by a model."""
        return numbers_of(self.table, self.columns[model])

    def matrix(self, measure: str = "spearman") -> np.ndarray:
        """Return the (m, m) values of a measure, 1 on the diagonal.

        With `spearman` it is the paper's table 1 for any list of models.
        """
        values = np.eye(len(self.models))
        for (i, weak), (j, strong) in combinations(enumerate(self.models), 2):
            values[i, j] = values[j, i] = self.agreements[weak, strong][measure]
        return values

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return f"Comparison({models}, by {self.by!r}, {len(self.table):,} rows)"

    def __str__(self) -> str:
        """Return the measures and verdicts as text."""
        *weaker, strongest = self.models
        parts = [
            f"{len(self.table):,} of {self.rows:,} rows, drawn at random (seed {self.seed})",
        ]
        for weak in weaker:
            title = f"{weak} against {strongest}, by {self.by}:"
            parts.append(f"{title}\n{measures_table(self.agreements[weak, strongest])}")
            parts.append(verdict(self, weak, strongest))
        return "\n\n".join(parts) + "\n"


def compare_models(
    rows: "Dataset",
    models: Sequence[str],
    folder: str | Path,
    *,
    by: str = "ifd",
    sample: int | None = 500,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare how models rank a random sample.

    Scores stay in the run folder: a second call uses them again, and may add models.

    Args:
        rows: rows with `prompt` and `response`, as `format_pairs` makes them.
        models: at least two names of models, the strongest last. One behind a server is
            `http://host:8000/v1`, or `MODEL@http://...` where the server has several.
        folder: the run folder.
        by: `ifd` or `ppl`.
        sample: rows drawn at random; None is all of them.
        resamples: of the bootstrap intervals.
        seed: of the draw and of the resamples.

    Returns:
        The scores and the agreement of every pair of models; `print` shows the verdict.

    Raises:
        SuperfilterError: fewer than two models, one twice, an unknown score, or a folder that holds
            another sample.

    Source:
        Superfiltering, arXiv 2402.00530, section 3 and table 1.
    """
    from datasets import Dataset

    if by not in SCORERS:
        raise SuperfilterError(f"by={by!r}: {did_you_mean(by, SCORERS)}")
    names = isinstance(models, list | tuple) and all(isinstance(model, str) for model in models)
    if not names or len(models) < 2 or len(set(models)) < len(models):
        raise SuperfilterError(
            f"models={models!r}: give the names of at least two different models, the strongest "
            "last"
        )
    sample, resamples, seed = map(plain_number, (sample, resamples, seed))
    if sample is not None and not is_count(sample, 2):
        raise SuperfilterError(
            f"sample={sample!r}: give a number of rows, at least 2, or None for all"
        )
    check_type("rows", rows, Dataset, "give rows as format_pairs makes them")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample])
    sampled = rows.select(drawn)
    columns = _column_names(by, models)
    scorers = [SCORERS[by](**named_model(model), name=columns[model]) for model in models]
    for scorer in scorers:
        scorer(sampled[:1])  # loads the model, which is not what a row costs
    table = score(sampled, scorers, folder)
    if table is None:
        raise SuperfilterError(
            "several processes were launched: compare models in one, or in the main one after "
            "score()"
        )
    agreements = {}
    for weak, strong in combinations(models, 2):
        agreements[weak, strong] = rank_consistency(
            numbers_of(table, columns[weak]),
            numbers_of(table, columns[strong]),
            largest=LARGEST[by],
            below=BELOW[by],
            resamples=resamples,
            seed=seed,
        )
    manifest = read_manifest(folder)["scorers"]
    seconds = {model: manifest[columns[model]]["seconds"] for model in models}
    return Comparison(by, tuple(models), table, columns, agreements, seconds, len(rows), seed)


def _column_names(by: str, models: Sequence[str]) -> dict[str, str]:
    """Name a column for each model."""
    names = {}
    for model in models:
        letters = re.sub(r"[^A-Za-z0-9]+", "_", model).strip("_").lower()
        names[model] = f"{by}_{letters}"
    if len(set(names.values())) < len(names):
        return {model: f"{name}_{number}" for number, (model, name) in enumerate(names.items())}
    return names


def measures_table(measures: dict[str, Any]) -> str:
    """Lay out one pair's measures as text."""
    lines = [f"{'measure':<16} {'value':>7}  {'interval':>16}  {'chance':>7}"]
    for name, value in measures.items():
        if f"{name}_low" not in measures:
            continue  # a level of chance, a count or a note
        interval = f"{measures[f'{name}_low']:.3f} to {measures[f'{name}_high']:.3f}"
        base, at, budget = name.partition("@")
        chance = measures.get(f"{base}_chance{at}{budget}")
        level = "" if chance is None else f"{chance:.3f}"
        lines.append(f"{name:<16} {value:>7.3f}  {interval:>16}  {level:>7}")
    lines.append(
        f"pairs used: {measures['pairs']:,}; dropped (undefined in either): {measures['dropped']:,}"
    )
    return "\n".join(lines)


def verdict(comparison: Comparison, weak: str, strong: str, *, budget: float = 0.10) -> str:
    """Say how much of a strong model's choice a weak one finds.

    And how sure that is, what each model took, and how many rows would make it surer.
    """
    measures = comparison.agreements[weak, strong]
    name = f"overlap@{budget:.2f}"
    overlap, low, high = measures[name], measures[f"{name}_low"], measures[f"{name}_high"]
    if not np.isfinite(overlap):
        notes = " ".join(measures["notes"])
        return f"How far {weak} and {strong} agree cannot be said: {notes}"
    chance = measures[f"overlap_chance@{budget:.2f}"]
    sentences = [
        f"{weak} finds {overlap:.0%} ± {50 * (high - low):.0f} of {strong}'s top {budget:.0%}; "
        f"chance is {chance:.0%}.",
        f"Their ranks agree with a Spearman correlation of {measures['spearman']:.2f} "
        f"({measures['spearman_low']:.2f} to {measures['spearman_high']:.2f}) on "
        f"{measures['pairs']:,} rows.",
        f"If {weak} passed on its top 30%, {measures['survival@0.30']:.0%} of {strong}'s top 5% "
        "would be among them.",
        _seconds_sentence(comparison, weak, strong),
    ]
    if high > low:
        needed = rows_for_width(low, high, measures["pairs"], 0.10)
        advice = (
            f"For an interval of ± 5 points around the first number, score about {needed:,} rows"
        )
        if needed > comparison.rows:
            there_are = f"there are {comparison.rows:,}"
            advice += f"; {there_are}, and scoring all of them says what holds for these very rows"
        sentences.append(f"{advice}.")
    return " ".join(sentences)


def _seconds_sentence(comparison: Comparison, weak: str, strong: str) -> str:
    weak_seconds, strong_seconds = comparison.seconds[weak], comparison.seconds[strong]
    sentence = f"{weak} took {weak_seconds:.1f} s and {strong} {strong_seconds:.1f} s"
    if weak_seconds:
        sentence += f", {strong_seconds / weak_seconds:.1f} times as long"
    return f"{sentence}."


def rows_for_width(low: float, high: float, pairs: int, width: float) -> int:
    """Estimate the rows for an interval of a width.

        rows = pairs ((high - low) / width)^2

    The width of every interval of `rank_consistency` falls as 1 over the square root of the rows,
    also of a share of a top, which grows with them. Near 0 and 1, and for few rows, it is an
    estimate only.

    Args:
        low, high: the interval measured on `pairs` rows.
        width: the width wanted, from low to high: 0.10 is plus or minus 5 points.

    Raises:
        SuperfilterError: the interval is nan or turned round, or a number that must be positive is
            not.

    Example:
        >>> rows_for_width(0.51, 0.71, pairs=500, width=0.10)  # half the width, four times the rows
        2000
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise SuperfilterError(
            f"low={low!r}, high={high!r}: give the two ends of an interval that was measured, low "
            "first"
        )
    if pairs < 1:
        raise SuperfilterError(
            f"pairs={pairs!r}: give the number of rows that the interval was measured on"
        )
    if not width > 0:
        raise SuperfilterError(f"width={width!r}: give a width above 0, such as 0.10")
    # Rounded first, so that 500 * 2.0000000000000004^2 is 2,000 rows.
    return max(1, math.ceil(round(pairs * ((high - low) / width) ** 2, 6)))
