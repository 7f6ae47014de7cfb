"""Sentences beside the figures: why one is nan, and what to mind when reading one."""

from collections.abc import Iterable

import numpy as np

from .weighted import Comparison, Side

FEW = 10  # pairs, or rows of a top: an interval from fewer is rough


def label(share: float) -> str:
    """A share as it stands in a key: at least two decimals.

    Example:
        >>> label(0.1), label(0.005), label(1.0)
        ('0.10', '0.005', '1.00')
    """
    return f"{share:.2f}" if float(f"{share:.2f}") == share else f"{share}"


def on_scores(scores: dict[str, np.ndarray], rows: int) -> list[str]:
    """Why a correlation is nan, or rough, for the (m,) paired scores of each model, of n rows."""
    pairs, notes = len(scores["weak"]), []
    if pairs == 0:
        return [f"No pair of scores in {rows} rows: every figure is nan."]
    if pairs == 1:
        notes.append("One pair of scores has no order: spearman, kendall and pearson_log are nan.")
    elif pairs < FEW:
        notes.append(
            f"{pairs} pairs are few: their intervals are rough, and kendall has none below 3."
        )
    for name, values in scores.items():
        if pairs > 1 and (values == values[0]).all():
            notes.append(
                f"All {name} scores are {values[0]:g}: spearman, kendall and pearson_log are nan."
            )
        if (values <= 0).any():
            notes.append(
                f"{int((values <= 0).sum())} {name} scores are not above 0, the smallest {values.min():g}: "
                "without their logarithm pearson_log is nan."
            )
    return notes


def on_tops(
    comparison: Comparison, sides: dict[str, Side], wanted: dict[str, tuple[int, int]], rows: int
) -> list[str]:
    """What to mind about the tops: a budget of no row, too few rows to fill it, a tie at the cut, a rough interval."""
    if not len(comparison.both):
        return []
    notes = []
    empty = [figure for figure, (_, strong) in wanted.items() if not strong]
    if empty:
        missing = [] if comparison.rank_biased else ["rbo"]
        notes.append(
            f"The budgets of these are less than one of {rows} rows, and they are nan: {_list([*empty, *missing])}."
        )
    for number, (name, side) in enumerate(sides.items()):
        allowed = int(side.allowed.sum())
        short = [figure for figure, counts in wanted.items() if counts[number] > allowed]
        if not allowed:
            lost = "rbo" if name == "weak" else _list([*wanted, "rbo"])
            notes.append(f"The {name} model can select no row: {lost} cannot be told.")
        elif short:
            notes.append(
                f"The {name} model can select {allowed} rows only, fewer than the budget of {_list(short)}."
            )
        split = [figure for figure, counts in wanted.items() if side.splits_a_tie(counts[number])]
        if split:
            notes.append(
                f"The {name} model's cut falls into a tie, of which the earlier rows are taken: {_list(split)}."
            )
    few = [figure for figure in comparison.tops if 0 < comparison.sizes(figure)[1] < FEW]
    if few:
        notes.append(f"Shares of fewer than {FEW} rows have rough intervals: {_list(few)}.")
    return notes


def on_resamples(draws: dict[str, np.ndarray], values: dict[str, float]) -> list[str]:
    """What to mind about the intervals, for the (r,) values of each figure."""
    notes, sure = [], []
    for figure, drawn in draws.items():
        undefined = np.isnan(drawn)
        if undefined.any() and not np.isnan(values[figure]):
            notes.append(
                f"{figure} is undefined in {int(undefined.sum())} of {len(drawn)} resamples, and they are left out."
            )
        if (
            figure in ("spearman", "pearson_log")
            and not undefined.all()
            and (np.abs(drawn[~undefined]) > 1 - 1e-12).all()
        ):
            sure.append(figure)
    if sure:
        notes.append(
            f"Every resample agrees perfectly: the interval has no width and tells nothing for {_list(sure)}."
        )
    return notes


def _list(figures: Iterable[str]) -> str:
    """The names of figures; jaccard goes with overlap."""
    return ", ".join(name.replace("overlap", "overlap and jaccard", 1) for name in figures)
