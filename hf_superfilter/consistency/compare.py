"""Do models rank rows alike? Several models over one random sample, their agreement in figures, words and a table."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_count
from ..data.columns import numbers_of
from ..errors import did_you_mean
from ..metrics.rank_consistency.agreement import rank_consistency
from ..runs.manifest import read_manifest
from ..runs.runner import score
from ..scoring.ifd import IFD
from ..scoring.perplexity import Perplexity

if TYPE_CHECKING:
    from datasets import Dataset

KINDS: dict[str, Any] = {"ifd": IFD, "ppl": Perplexity}
LARGEST = {"ifd": True, "ppl": False}  # what is kept of each: the hardest, the most fluent
BELOW = {"ifd": 1.0, "ppl": None}


@dataclass(frozen=True)
class Comparison:
    """Several models' scores of the same rows, and how far they agree.

    Attributes:
        by: `ifd` or `ppl`.
        models: m names, the strongest last.
        table: the sampled rows with one score column a model.
        columns: model -> its column.
        agreements: (weaker, stronger) -> the figures of `rank_consistency`, for every pair in the order of `models`.
        seconds: model -> what it took.
        rows: rows that the sample was drawn from.
    """

    by: str
    models: tuple[str, ...]
    table: "Dataset"
    columns: dict[str, str]
    agreements: dict[tuple[str, str], dict[str, Any]]
    seconds: dict[str, float]
    rows: int

    def scores(self, model: str) -> np.ndarray:
        """(n,) scores of the sample by a model."""
        return numbers_of(self.table, self.columns[model])

    def matrix(self, figure: str = "spearman") -> np.ndarray:
        """(m, m) one figure for every pair of models, 1 on the diagonal: the paper's table 1 for any list of models."""
        size = len(self.models)
        values = np.eye(size)
        for i, weak in enumerate(self.models):
            for j in range(i + 1, size):
                values[i, j] = values[j, i] = self.agreements[weak, self.models[j]][figure]
        return values


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
    """Score a random sample with every model, and compare how they rank it.

    Scores stay in the run folder: a second call uses them again, and may add models.

    Args:
        rows: rows with `prompt` and `response`, as `format_pairs` makes them.
        models: at least two names of models, the strongest last.
        folder: the run folder.
        by: `ifd` or `ppl`.
        sample: rows drawn at random; None is all of them.
        resamples: of the bootstrap intervals.
        seed: of the draw and of the resamples.

    Raises:
        ValueError: fewer than two models, one twice, an unknown score, or a folder that holds another sample.

    Source:
        Superfiltering, arXiv 2402.00530, section 3 and table 1.
    """
    if by not in KINDS:
        raise ValueError(f"by={by!r}: {did_you_mean(by, KINDS)}")
    if isinstance(models, str) or len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(
            f"models={models!r}: give at least two different models, the strongest last"
        )
    if sample is not None and not is_count(sample, 2):
        raise ValueError(f"sample={sample!r}: give a number of rows, at least 2, or None for all")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample])
    names = {
        model: f"{by}_{re.sub(r'[^A-Za-z0-9]+', '_', model).strip('_').lower()}" for model in models
    }
    if len(set(names.values())) < len(names):
        names = {model: f"{name}_{number}" for number, (model, name) in enumerate(names.items())}
    scorers = [KINDS[by](model, name=names[model]) for model in models]
    sampled = rows.select(drawn)
    for scorer in scorers:  # loading a model is not what it costs a row
        scorer(sampled[:1])
    table = score(sampled, scorers, folder)
    if table is None:
        raise ValueError(
            "several processes were launched: compare models in one, or in the main one after score()"
        )
    taken = read_manifest(folder)["scorers"]
    options: dict[str, Any] = {
        "largest": LARGEST[by],
        "below": BELOW[by],
        "resamples": resamples,
        "seed": seed,
    }
    agreements = {}
    for i, weak in enumerate(models):
        for strong in models[i + 1 :]:
            pair = numbers_of(table, names[weak]), numbers_of(table, names[strong])
            agreements[weak, strong] = rank_consistency(*pair, **options)
    seconds = {model: taken[names[model]]["seconds"] for model in models}
    return Comparison(by, tuple(models), table, names, agreements, seconds, len(rows))


def figures_table(figures: dict[str, Any]) -> str:
    """The figures of one pair as lines of text: value, interval, chance."""
    lines = [f"{'figure':<16} {'value':>7}  {'interval':>16}  {'chance':>7}"]
    for name, value in figures.items():
        if f"{name}_low" not in figures:
            continue  # a chance level, or no figure
        interval = f"{figures[f'{name}_low']:.3f} to {figures[f'{name}_high']:.3f}"
        base, at, budget = name.partition("@")
        chance = figures.get(f"{base}_chance{at}{budget}")
        lines.append(
            f"{name:<16} {value:>7.3f}  {interval:>16}  {'' if chance is None else f'{chance:.3f}':>7}"
        )
    lines.append(
        f"pairs used: {figures['pairs']:,}; dropped (undefined in either): {figures['dropped']:,}"
    )
    return "\n".join(lines)


def verdict(comparison: Comparison, weak: str, strong: str, *, budget: float = 0.10) -> str:
    """One pair in plain words: what the weak model finds, how sure that is, what it costs, and how to be surer."""
    figures = comparison.agreements[weak, strong]
    name = f"overlap@{budget:.2f}"
    found, low, high = figures[name], figures[f"{name}_low"], figures[f"{name}_high"]
    if not np.isfinite(found):
        return f"How far {weak} and {strong} agree cannot be said: {' '.join(figures['notes'])}"
    half = 100 * (high - low) / 2
    ratio = (
        comparison.seconds[strong] / comparison.seconds[weak]
        if comparison.seconds[weak]
        else float("nan")
    )
    words = [
        f"{weak} finds {found:.0%} ± {half:.0f} of {strong}'s top {budget:.0%}; chance is "
        f"{figures[f'overlap_chance@{budget:.2f}']:.0%}.",
        f"Their ranks agree with a Spearman correlation of {figures['spearman']:.2f} "
        f"({figures['spearman_low']:.2f} to {figures['spearman_high']:.2f}) on {figures['pairs']:,} rows.",
        f"If {weak} passed on its top 30%, {figures['survival@0.30']:.0%} of {strong}'s top 5% would be among them.",
        f"{weak} took {comparison.seconds[weak]:.1f} s and {strong} {comparison.seconds[strong]:.1f} s, "
        f"{ratio:.1f} times as long.",
    ]
    if high > low:
        needed = rows_for_width(low, high, figures["pairs"], 0.10)
        words.append(
            f"For an interval of ± 5 points around the first figure, score about {needed:,} rows."
        )
    return " ".join(words)


def rows_for_width(low: float, high: float, pairs: int, width: float) -> int:
    """How many rows would give an interval of a width, after one interval was measured.

        rows = pairs ((high - low) / width)^2

    The width of every interval of `rank_consistency` falls as 1 over the square root of the rows, also of a
    share of a top, which grows with them. Near 0 and 1, and for few rows, it is an estimate only.

    Args:
        low, high: the interval measured on `pairs` rows.
        width: the width wanted, from low to high: 0.10 is plus or minus 5 points.

    Raises:
        ValueError: the interval is nan or turned round, or a number that must be positive is not.

    Example:
        >>> rows_for_width(0.51, 0.71, pairs=500, width=0.10)    # half the width, four times the rows
        2000
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(
            f"low={low!r}, high={high!r}: give the two ends of an interval that was measured, low first"
        )
    if pairs < 1:
        raise ValueError(
            f"pairs={pairs!r}: give the number of rows that the interval was measured on"
        )
    if not width > 0:
        raise ValueError(f"width={width!r}: give a width above 0, such as 0.10")
    return max(1, math.ceil(round(pairs * ((high - low) / width) ** 2, 6)))
