"""Write the notes: why a statistic is nan, and what to mind when reading one."""

from collections.abc import Iterable

import numpy as np

from .weighted import RankAgreement, Side

FEW = 10  # pairs, or rows of a top: an interval from fewer is rough


def label(share: float) -> str:
    """Format a share as in a key, with at least two decimals.

    Example:
        >>> label(0.1), label(0.005), label(1.0)
        ('0.10', '0.005', '1.00')
    """
    short = f"{share:.2f}"
    if float(short) == share:
        return short
    return f"{share}"


def notes_on_scores(scores: dict[str, np.ndarray], rows: int) -> list[str]:
    """Explain why a correlation is nan or rough.

    Args:
        scores: (m,) paired scores of each model, by its name.
        rows: all rows, with and without scores.
    """
    pairs = len(scores["weak"])
    notes = []
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
                f"{int((values <= 0).sum())} {name} scores are not above 0, the smallest "
                f"{values.min():g}: without their logarithm pearson_log is nan."
            )
    return notes


def notes_on_tops(
    agreement: RankAgreement,
    sides: dict[str, Side],
    budgets: dict[str, tuple[int, int]],
    rows: int,
) -> list[str]:
    """Explain empty budgets, tops that are not full, ties at the cut, rough intervals.

    Args:
        agreement: the statistics of the two sides.
        sides: the weak and the strong side, in this order.
        budgets: statistic -> (rows of the weak top, rows of the strong top).
        rows: all rows, with and without scores.
    """
    if not len(agreement.both):
        return []
    notes = []
    empty = [name for name, (_, strong) in budgets.items() if not strong]
    if empty:
        if not agreement.rank_biased:
            empty.append("rbo")
        notes.append(
            f"The budgets of these are less than one of {rows} rows, and they are nan: "
            f"{_list(empty)}."
        )
    for number, (model, side) in enumerate(sides.items()):
        notes += _notes_on_side(model, number, side, budgets)
    few = [name for name in agreement.tops if 0 < agreement.sizes(name)[1] < FEW]
    if few:
        notes.append(f"Shares of fewer than {FEW} rows have rough intervals: {_list(few)}.")
    return notes


def _notes_on_side(
    model: str, number: int, side: Side, budgets: dict[str, tuple[int, int]]
) -> list[str]:
    """Explain what one model cannot select, and where its cut falls into a tie."""
    notes = []
    allowed = int(side.allowed.sum())
    short = [name for name, counts in budgets.items() if counts[number] > allowed]
    if not allowed:
        undefined = ["rbo"]
        if model == "strong":
            undefined = [*budgets, "rbo"]
        notes.append(f"The {model} model can select no row: {_list(undefined)} cannot be told.")
    elif short:
        notes.append(
            f"The {model} model can select {allowed} rows only, fewer than the budget of "
            f"{_list(short)}."
        )
    split = [name for name, counts in budgets.items() if side.splits_a_tie(counts[number])]
    if split:
        notes.append(
            f"The {model} model's cut falls into a tie, of which the earlier rows are taken: "
            f"{_list(split)}."
        )
    return notes


def notes_on_resamples(draws: dict[str, np.ndarray], values: dict[str, float]) -> list[str]:
    """Explain intervals that leave resamples out or have no width.

    Args:
        draws: (r,) values of each statistic over resamples.
        values: each statistic of the data itself.
    """
    notes = []
    perfect = []
    for name, resampled in draws.items():
        undefined = np.isnan(resampled)
        if undefined.any() and not np.isnan(values[name]):
            notes.append(
                f"{name} is undefined in {int(undefined.sum())} of {len(resampled)} resamples, "
                "and they are left out."
            )
        defined = resampled[~undefined]
        is_perfect = len(defined) > 0 and bool((np.abs(defined) > 1 - 1e-12).all())
        if name in ("spearman", "pearson_log") and is_perfect:
            perfect.append(name)
    if perfect:
        notes.append(
            "Every resample agrees perfectly: the interval has no width and tells nothing for "
            f"{_list(perfect)}."
        )
    return notes


def _list(names: Iterable[str]) -> str:
    """Join the names of statistics; jaccard goes with overlap."""
    return ", ".join(name.replace("overlap", "overlap and jaccard", 1) for name in names)
