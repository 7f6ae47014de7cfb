"""Plot how far models agree."""

from typing import Any

import numpy as np

from ..data.texts import text_lengths
from ..metrics.rank_consistency.agreement import rank_consistency
from ..reports.plots import DROPPED, KEPT, LINE, Plot, new_figure, png_of
from .compare import BELOW, LARGEST, Comparison

BUDGETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
BUDGETS_IN_WORDS = (0.05, 0.1, 0.3)
RESAMPLES = 200  # of each interval: many are drawn
DARK = 0.6  # a cell above it is dark, and its text white


def pair_plot(comparison: Comparison, weak: str, strong: str) -> Plot:
    """Plot one pair of models in three panels.

    Rank against rank; overlap of the top shares with its band and chance; Spearman correlation by
    response length.
    """
    a, b = comparison.scores(weak), comparison.scores(strong)
    lengths = text_lengths(comparison.table, "response")
    if lengths is None:
        lengths = np.zeros(len(a), dtype=np.int64)
    figure, (left, middle, right) = new_figure(1, 3, size=(13, 3.8))
    _plot_ranks(left, a, b, weak, strong)
    overlaps = _plot_overlaps(middle, a, b, comparison.by)
    quarters = _plot_by_length(right, a, b, lengths)
    overlap_words = [
        f"{overlaps[budget]:.0%} at {budget:.0%}"
        for budget in BUDGETS_IN_WORDS
        if budget in overlaps
    ]
    quarter_words = ["undefined" if np.isnan(value) else f"{value:.2f}" for value in quarters]
    alt = (
        f"{weak} against {strong} on {len(a):,} rows, in three panels. Rank against rank. Overlap "
        f"of the top shares: {', '.join(overlap_words)}. Spearman correlation by quarter of "
        f"response length, shortest first: {', '.join(quarter_words)}."
    )
    return Plot(png_of(figure), alt)


def matrix_plot(comparison: Comparison, measure: str = "spearman") -> Plot:
    """Plot one measure for every pair of models."""
    values, names = comparison.matrix(measure), comparison.models
    size = max(4.0, 1.1 * len(names) + 2)
    figure, axes = new_figure(1, 1, size=(size, size * 0.8))
    axes.imshow(values, cmap="YlGnBu", vmin=min(0.0, float(np.nanmin(values))), vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=30, ha="right")
    axes.set_yticks(ticks, names)
    axes.set_title(f"{measure} of {comparison.by}, {len(comparison.table):,} rows", fontsize=10)
    pairs = []
    for i in ticks:
        for j in ticks:
            color = "white" if values[i, j] > DARK else "black"
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color)
            if i < j:
                pairs.append(f"{names[i]} and {names[j]} {values[i, j]:.2f}")
    return Plot(png_of(figure), f"Matrix of {measure} between models: {'; '.join(pairs)}.")


def _plot_ranks(axes: Any, a: np.ndarray, b: np.ndarray, weak: str, strong: str) -> None:
    """Plot rank against rank, as shares."""
    defined = ~(np.isnan(a) | np.isnan(b))
    last = max(1, int(defined.sum()) - 1)
    ranks = [np.argsort(np.argsort(values[defined])) / last for values in (a, b)]
    axes.hexbin(*ranks, gridsize=22, cmap="YlGnBu", mincnt=1, linewidths=0)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle="--")
    title = "rank against rank, as shares"
    axes.set(xlabel=f"rank by {weak}", ylabel=f"rank by {strong}", title=title)


def _plot_overlaps(axes: Any, a: np.ndarray, b: np.ndarray, by: str) -> dict[float, float]:
    """Plot and return the overlap of the top shares."""
    budgets = tuple(budget for budget in BUDGETS if budget * len(a) >= 1)
    measures = rank_consistency(
        a, b, budgets=budgets, largest=LARGEST[by], below=BELOW[by], resamples=RESAMPLES
    )
    overlaps = {budget: float(measures[f"overlap@{budget:.2f}"]) for budget in budgets}
    low = [measures[f"overlap@{budget:.2f}_low"] for budget in budgets]
    high = [measures[f"overlap@{budget:.2f}_high"] for budget in budgets]
    chance = [measures[f"overlap_chance@{budget:.2f}"] for budget in budgets]
    axes.fill_between(budgets, low, high, color=DROPPED, alpha=0.5, label="95% interval")
    values = list(overlaps.values())
    axes.plot(budgets, values, color=KEPT, marker="o", markersize=3, label="in common")
    axes.plot(budgets, chance, color=LINE, linewidth=1, linestyle="--", label="chance")
    axes.set(
        xlabel="budget, share of all rows",
        ylabel="share in common",
        title="overlap of the top shares",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, loc="lower right")
    return overlaps


def _plot_by_length(axes: Any, a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> list[float]:
    """Plot and return the Spearman correlation by length."""
    values, low, high, labels = [], [], [], []
    for rows in np.array_split(np.argsort(lengths, kind="stable"), 4):
        measures = rank_consistency(a[rows], b[rows], budgets=(1.0,), resamples=RESAMPLES)
        values.append(float(measures["spearman"]))
        low.append(measures["spearman_low"])
        high.append(measures["spearman_high"])
        labels.append(f"{lengths[rows].min():,}–{lengths[rows].max():,}")
    errors = np.clip([np.subtract(values, low), np.subtract(high, values)], 0, None)
    axes.bar(labels, values, color=KEPT, yerr=np.nan_to_num(errors), capsize=3)
    axes.set(
        xlabel="characters of the response, by quarter",
        ylabel="Spearman",
        title="Spearman by length",
    )
    axes.tick_params(axis="x", labelsize=8)
    return values
