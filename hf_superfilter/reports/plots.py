"""The pictures of reports and cards, with the words that stand for them where they cannot be seen."""

import io
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.columns import numbers_of
from .summary import cut_of, kept_mask, losses_of, ranked_by, response_lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..selection.funnel import Selection

KEPT, DROPPED, LINE = "#0f766e", "#d4d4d8", "#b91c1c"


class Picture(NamedTuple):
    """A PNG and its alternative text. A notebook shows the one, a terminal the other."""

    png: bytes
    alt: str

    def __repr__(self) -> str:
        return f"Picture({self.alt!r})"

    def _repr_png_(self) -> bytes:
        return self.png


def score_picture(selection: "Selection") -> Picture | None:
    """How the column that was selected by is distributed, kept rows against dropped ones, with the cut if there is one.

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
    figure, axes = _figure(by, "rows")
    labels = [f"kept ({kept.sum():,})", f"dropped ({(~kept).sum():,})"]
    axes.hist(parts, bins=bins.tolist(), stacked=True, label=labels, color=[KEPT, DROPPED])
    alt = f"Histogram of {by} over {finite.sum():,} rows from {low:.3g} to {high:.3g}; {kept.sum():,} kept"
    cut = cut_of(selection)
    if cut is not None and np.isfinite(cut):
        axes.axvline(cut, color=LINE, linewidth=1, linestyle="--", label=f"last kept: {cut:.3f}")
        alt += f", the last at {cut:.3f}"
    figure.legend(frameon=False, loc="outside upper right", ncols=3)
    return Picture(png_of(figure), alt + ".")


def length_picture(selection: "Selection") -> Picture | None:
    """Characters of the responses, kept rows against dropped ones, each as shares of their own number.

    Lengths beyond the 98th percentile stand in the last bar. None without a response column.
    """
    lengths, kept = response_lengths(selection), kept_mask(selection)
    if lengths is None:
        return None
    top = max(float(np.percentile(lengths, 98)), 10.0)
    bins = np.linspace(0, top, 40).tolist()
    figure, axes = _figure("characters of the response", "share of the kept or of the dropped")
    medians = []
    looks: dict[str, dict[str, Any]] = {
        "dropped": {"color": DROPPED},
        "kept": {"color": KEPT, "histtype": "step", "linewidth": 1.8},
    }
    for name, mask in (("dropped", ~kept), ("kept", kept)):
        mine = lengths[mask]
        if not len(mine):
            continue
        weights = np.full(len(mine), 1 / len(mine))
        axes.hist(
            np.clip(mine, 0, top),
            bins=bins,
            weights=weights,
            label=f"{name} ({len(mine):,})",
            **looks[name],
        )
        medians.append(f"median {np.median(mine):,.0f} characters over {len(mine):,} rows {name}")
    figure.legend(frameon=False, loc="outside upper right", ncols=3)
    return Picture(
        png_of(figure), f"Histogram of response lengths: {', '.join(reversed(medians))}."
    )


def loss_pictures(run: str | Path) -> dict[str, Picture]:
    """The loss of every training of a run, step by step, by the name of its scorer."""
    pictures = {}
    for name, steps in losses_of(run).items():
        at, loss = [step["epoch"] for step in steps], [step["loss"] for step in steps]
        figure, axes = _figure("epochs", "training loss, nats a token")
        axes.plot(at, loss, color=KEPT, linewidth=1.2, marker="." if len(at) < 100 else "")
        first, last = (
            np.mean([x for x, e in zip(loss, at, strict=True) if ceil(e) == n])
            for n in (1, ceil(at[-1]))
        )
        alt = f"Training loss of {name} over {len(at):,} steps: {first:.3f} in the first epoch, {last:.3f} in the last."
        pictures[name] = Picture(png_of(figure), alt)
    return pictures


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.2, 3.1)
) -> "tuple[Figure, Any]":
    """A figure with empty axes, or an array of them; no pyplot, so that several threads may draw at once."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=160)
    axes = figure.subplots(rows, columns)
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(x: str, y: str) -> "tuple[Figure, Axes]":
    figure, axes = new_figure()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def png_of(figure: "Figure") -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
