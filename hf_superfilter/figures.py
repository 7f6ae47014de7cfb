"""The pictures of reports and cards, with the words that stand for them where they cannot be seen."""

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .facts import kept_mask, ranked_by, response_lengths
from .table import numbers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .funnel import Selection

KEPT, DROPPED, LINE = "#0f766e", "#d4d4d8", "#b91c1c"


class Picture(NamedTuple):
    """A PNG and its alternative text."""

    png: bytes
    alt: str


def score_picture(selection: "Selection") -> Picture | None:
    """How the column that was selected by is distributed, kept rows against dropped ones.

    Drawn from the 1st to the 99th percentile; values beyond stand in the outermost bars. None where no
    column was selected by, or none of its values is finite.
    """
    by = ranked_by(selection)
    if by is None:
        return None
    values = numbers_of(selection.table, by)
    finite, kept = np.isfinite(values), kept_mask(selection)
    if not finite.any():
        return None
    low, high = np.percentile(values[finite], [1, 99])
    bins = np.linspace(low, high if high > low else low + 1, 50)
    parts = [np.clip(values[finite & mine], low, bins[-1]) for mine in (kept, ~kept)]
    axes = _axes(by, "rows")
    labels = [f"kept ({kept.sum():,})", f"dropped ({(~kept).sum():,})"]
    axes.hist(parts, bins=bins.tolist(), stacked=True, label=labels, color=[KEPT, DROPPED])
    alt = f"Histogram of {by} over {finite.sum():,} rows from {low:.3g} to {high:.3g}; {kept.sum():,} kept"
    mine = values[selection.rows]
    if len(mine) and np.isfinite(mine[-1]):
        axes.axvline(float(mine[-1]), color=LINE, linewidth=1, linestyle="--", label=f"last kept: {mine[-1]:.3f}")
        alt += f", the last at {mine[-1]:.3f}"
    axes.legend(frameon=False)
    return Picture(_png(axes), alt + ".")


def length_picture(selection: "Selection") -> Picture | None:
    """Characters of the responses, kept rows against all, as shares of rows; None without a response column."""
    lengths = response_lengths(selection)
    if lengths is None or not len(selection.rows):
        return None
    mine = lengths[selection.rows]
    top = max(float(np.percentile(lengths, 98)), 10.0)
    bins = np.linspace(0, top, 40).tolist()
    axes = _axes("characters of the response", "share of rows")
    everything, few = np.full(len(lengths), 1 / len(lengths)), np.full(len(mine), 1 / len(mine))
    axes.hist(np.clip(lengths, 0, top), bins=bins, weights=everything, label="all rows", color=DROPPED)
    axes.hist(
        np.clip(mine, 0, top), bins=bins, weights=few, label="kept rows", color=KEPT, histtype="step", linewidth=1.8
    )
    axes.legend(frameon=False)
    medians = f"median {np.median(mine):,.0f} characters kept, {np.median(lengths):,.0f} over all rows"
    return Picture(_png(axes), f"Histogram of response lengths: {medians}.")


def _axes(x: str, y: str) -> "Axes":
    """Empty axes on a figure of their own; no pyplot, so that several threads may draw at once."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(5.2, 3.1), layout="constrained", dpi=160).subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _png(axes: "Axes") -> bytes:
    buffer = io.BytesIO()
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
