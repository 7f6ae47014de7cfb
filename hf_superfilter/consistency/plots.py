"""The pictures of weak-strong agreement: rank against rank, overlap by budget, agreement by length; and the matrix."""

from typing import Any

import numpy as np

from ..metrics.rank_consistency.agreement import rank_consistency
from ..reports.plots import DROPPED, KEPT, LINE, Picture, new_figure, png_of
from .compare import BELOW, LARGEST, Comparison

BUDGETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def agreement_picture(comparison: Comparison, weak: str, strong: str) -> Picture:
    """One pair of models: rank against rank, overlap of the top shares with its band and chance, Spearman by length."""
    a, b = comparison.scores(weak), comparison.scores(strong)
    lengths = np.array([_length(cell) for cell in comparison.table["response"][:]])
    figure, (left, middle, right) = new_figure(1, 3, size=(13, 3.8))
    _ranks(left, a, b, weak, strong)
    curve = _overlaps(middle, a, b, comparison.by)
    quarters = _by_length(right, a, b, lengths)
    alt = (
        f"{weak} against {strong} on {len(a):,} rows, in three panels. Rank against rank. Overlap of the top shares: "
        + ", ".join(
            f"{value:.0%} at {budget:.0%}"
            for budget, value in curve.items()
            if budget in (0.05, 0.1, 0.3)
        )
        + ". Spearman correlation by quarter of response length, shortest first: "
        + ", ".join("undefined" if np.isnan(value) else f"{value:.2f}" for value in quarters)
        + "."
    )
    return Picture(png_of(figure), alt)


def matrix_picture(comparison: Comparison, figure: str = "spearman") -> Picture:
    """One figure of agreement for every pair of models, as a square of coloured cells."""
    values, names = comparison.matrix(figure), comparison.models
    size = max(4.0, 1.1 * len(names) + 2)
    canvas, axes = new_figure(1, 1, size=(size, size * 0.8))
    axes.imshow(values, cmap="YlGnBu", vmin=min(0.0, float(np.nanmin(values))), vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=30, ha="right")
    axes.set_yticks(ticks, names)
    axes.set_title(f"{figure} of {comparison.by}, {len(comparison.table):,} rows", fontsize=10)
    for i in ticks:
        for j in ticks:
            dark = values[i, j] > 0.6
            axes.text(
                j,
                i,
                f"{values[i, j]:.2f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
    pairs = [f"{names[i]} and {names[j]} {values[i, j]:.2f}" for i in ticks for j in ticks if i < j]
    return Picture(png_of(canvas), f"Matrix of {figure} between models: {'; '.join(pairs)}.")


def _ranks(axes: Any, a: np.ndarray, b: np.ndarray, weak: str, strong: str) -> None:
    defined = ~(np.isnan(a) | np.isnan(b))
    ranks = [
        np.argsort(np.argsort(values[defined])) / max(1, defined.sum() - 1) for values in (a, b)
    ]
    axes.hexbin(*ranks, gridsize=22, cmap="YlGnBu", mincnt=1, linewidths=0)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle="--")
    axes.set(
        xlabel=f"rank by {weak}", ylabel=f"rank by {strong}", title="rank against rank, as shares"
    )


def _overlaps(axes: Any, a: np.ndarray, b: np.ndarray, by: str) -> dict[float, float]:
    n = len(a)
    budgets = tuple(budget for budget in BUDGETS if budget * n >= 1)
    options: dict[str, Any] = {"largest": LARGEST[by], "below": BELOW[by], "resamples": 200}
    figures = rank_consistency(a, b, budgets=budgets, **options)
    values = {budget: figures[f"overlap@{budget:.2f}"] for budget in budgets}
    low = [figures[f"overlap@{budget:.2f}_low"] for budget in budgets]
    high = [figures[f"overlap@{budget:.2f}_high"] for budget in budgets]
    axes.fill_between(budgets, low, high, color=DROPPED, label="95% interval")
    axes.plot(
        budgets, list(values.values()), color=KEPT, marker="o", markersize=3, label="in common"
    )
    chance = [figures[f"overlap_chance@{budget:.2f}"] for budget in budgets]
    axes.plot(budgets, chance, color=LINE, linewidth=1, linestyle="--", label="chance")
    axes.set(
        xlabel="budget, share of all rows",
        ylabel="share in common",
        title="overlap of the top shares",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, loc="lower right")
    return values


def _by_length(axes: Any, a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> list[float]:
    quarters = np.array_split(np.argsort(lengths, kind="stable"), 4)
    values, low, high, labels = [], [], [], []
    for rows in quarters:
        figures = rank_consistency(a[rows], b[rows], budgets=(1.0,), resamples=200)
        values.append(figures["spearman"])
        low.append(figures["spearman_low"])
        high.append(figures["spearman_high"])
        labels.append(f"{lengths[rows].min():,}–{lengths[rows].max():,}")
    errors = np.clip([np.subtract(values, low), np.subtract(high, values)], 0, None)
    axes.bar(labels, values, color=KEPT, yerr=np.nan_to_num(errors), capsize=3)
    axes.set(
        xlabel="characters of the response, by quarter",
        ylabel="Spearman",
        title="agreement by length",
    )
    axes.tick_params(axis="x", labelsize=8)
    return values


def _length(cell: Any) -> int:
    return sum(len(part or "") for part in cell) if isinstance(cell, list) else len(cell or "")
