"""Draw the plots of reports and cards."""

import io
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .words import format_number, score_format

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..selection.funnel import Selection

# About as far from white as from the dark of the Hub and of the report.
KEPT, DROPPED, LINE = "#0d9488", "#94949e", "#dc2626"
INK = "#7d7d86"
MIN_BARS, MAX_BARS = 12, 40
MAX_DRAWN = 1e300  # ±1e308 have no axis: its ends overflow
MIN_WIDTH = 1e-12  # of an axis, as a share of its numbers


class Plot(NamedTuple):
    """Hold a PNG and its alternative text."""

    png: bytes
    alt: str

    def __repr__(self) -> str:
        return f"Plot({self.alt!r})"

    def _repr_png_(self) -> bytes:
        return self.png


def selection_plots(selection: "Selection") -> dict[str, Plot]:
    """Draw a selection's plots, by the name of the file."""
    plots = {"scores.png": score_plot(selection), "lengths.png": length_plot(selection)}
    return {file: plot for file, plot in plots.items() if plot is not None}


def score_plot(selection: "Selection") -> Plot | None:
    """Draw the ranked column, kept against dropped rows.

    Drawn from the 1st to the 99th percentile; values beyond stand in the outermost bars. None
    where no column was selected by, or none of its values is finite.
    """
    from matplotlib.ticker import MaxNLocator

    by, values, kept = selection.ranked_by, selection.scores, selection.kept
    finite = np.isfinite(values)
    if by is None or not finite.any():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.percentile(values[finite], [1, 99]).tolist()
    size = max(abs(low), abs(high))
    if not np.isfinite([low, high]).all() or size > MAX_DRAWN:
        return None
    if high - low <= size * MIN_WIDTH:  # all equal, or as good as: low + 1 may be low again
        high = low + max(1.0, size * 0.01)
    bins = np.linspace(low, high, 50)
    parts = [np.clip(values[finite & part], low, bins[-1]) for part in (kept, ~kept)]
    labels = [f"kept ({kept.sum():,})", f"dropped ({(~kept).sum():,})"]
    figure, axes = _figure(by, "rows")
    axes.hist(parts, bins=bins.tolist(), stacked=True, label=labels, color=[KEPT, DROPPED])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    alt = f"Histogram of {by} over {finite.sum():,} rows from {low:.3g} to {high:.3g}"
    alt += f"; {kept.sum():,} kept"
    cut = selection.cut
    if cut is not None and np.isfinite(cut):
        last = format_number(cut, score_format(values))
        axes.axvline(cut, color=LINE, linewidth=1.6, linestyle="--", label=f"last kept: {last}")
        alt += f", the last at {last}"
    _legend(figure)
    return Plot(png_of(figure), alt + ".")


def length_plot(selection: "Selection") -> Plot | None:
    """Draw the response lengths, kept against dropped rows.

    Lengths beyond the 98th percentile stand in the last bar. None without a response column.
    """
    from matplotlib.ticker import PercentFormatter

    lengths, kept = selection.response_lengths, selection.kept
    if lengths is None:
        return None
    top = max(float(np.percentile(lengths, 98)), 10.0)
    # Few rows in many bars show their own number, not their lengths.
    bars = int(np.clip(np.sqrt(kept.sum()), MIN_BARS, MAX_BARS))
    bins = np.linspace(0, top, bars + 1).tolist()
    figure, axes = _figure("characters of the response", "of the kept, of the dropped rows")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    looks: dict[str, dict[str, Any]] = {
        "dropped": {"color": DROPPED},
        "kept": {"color": KEPT, "histtype": "step", "linewidth": 2.2},
    }
    medians = []
    for name, mask in (("dropped", ~kept), ("kept", kept)):
        part = lengths[mask]
        if not len(part):
            continue
        axes.hist(
            np.clip(part, 0, top),
            bins=bins,
            weights=np.full(len(part), 1 / len(part)),
            label=f"{name} ({len(part):,})",
            **looks[name],
        )
        medians.append(f"median {np.median(part):,.0f} characters over {len(part):,} rows {name}")
    _legend(figure)
    alt = f"Histogram of response lengths: {', '.join(reversed(medians))}."
    return Plot(png_of(figure), alt)


def loss_plots(losses: dict[str, list[dict[str, Any]]]) -> dict[str, Plot]:
    """Draw the loss of every training, by its scorer."""
    plots = {}
    for name, steps in losses.items():
        epochs = np.array([step["epoch"] for step in steps])
        values = np.array([step["loss"] for step in steps])
        figure, axes = _figure("epochs", "training loss, nats a token")
        marker = "." if len(steps) < 100 else ""
        axes.plot(epochs, values, color=KEPT, linewidth=1.2, marker=marker)
        first = values[np.ceil(epochs) == 1].mean()
        last = values[np.ceil(epochs) == ceil(epochs[-1])].mean()
        alt = (
            f"Training loss of {name} over {len(steps):,} steps: {first:.3f} in the first epoch, "
            f"{last:.3f} in the last."
        )
        plots[name] = Plot(png_of(figure), alt)
    return plots


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.2, 3.1)
) -> "tuple[Figure, Any]":
    """Make a figure with empty axes.

    No pyplot, so that several threads may draw at once.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=160)
    axes = figure.subplots(rows, columns)
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png_of(figure: "Figure") -> bytes:
    """Encode a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _figure(x: str, y: str) -> "tuple[Figure, Axes]":
    """Make a transparent figure that reads on white and black."""
    figure, axes = new_figure()
    # A column may be called $x$: it is no formula.
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.spines[["bottom", "left"]].set_color(INK)
    return figure, axes


def _legend(figure: "Figure") -> None:
    figure.legend(frameon=False, loc="outside upper right", ncols=3, labelcolor=INK)
