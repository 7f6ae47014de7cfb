"""What a selection looks like: the funnel, the best and the lowest rows, and a picture of the scores."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .runner import read_record
from .table import numbers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .funnel import Selection

SHOWN = 3


def write_summary(selection: "Selection", folder: str | Path) -> str:
    """Write `summary.txt` and, where a column was selected by, `summary.png` into a folder; made if need be.

    Returns:
        The text, as `summarise` gives it.
    """
    home = Path(folder)
    text = summarise(selection)
    home.mkdir(parents=True, exist_ok=True)
    (home / "summary.txt").write_text(text, encoding="utf-8")
    by = _ranked_by(selection)
    if by is not None:
        score_picture(selection, by).savefig(home / "summary.png")
    else:
        (home / "summary.png").unlink(missing_ok=True)  # that of an earlier selection
    return text


def summarise(selection: "Selection") -> str:
    """A selection as text.

    The funnel, the reasons of undefined scores, the best rows kept, the rows with the highest and the
    lowest scores, and what the scoring cost ("not recorded" where no run stands behind it).
    """
    parts = [repr(selection), _undefined(selection), _examples(selection), _cost(selection)]
    return "\n\n".join(part for part in parts if part) + "\n"


def score_picture(selection: "Selection", column: str) -> "Figure":
    """The distribution of a column, kept rows against dropped ones, from the 1st to the 99th percentile."""
    from matplotlib.figure import Figure

    values = numbers_of(selection.table, column)
    kept = np.zeros(len(values), dtype=bool)
    kept[selection.rows] = True
    defined = np.isfinite(values)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    if defined.any():
        low, high = np.percentile(values[defined], [1, 99])
        bins = np.linspace(low, high if high > low else low + 1, 60).tolist()
        parts = [np.clip(values[defined & kept], low, high), np.clip(values[defined & ~kept], low, high)]
        labels = [f"kept ({kept.sum():,})", f"dropped ({(~kept).sum():,})"]
        axes.hist(parts, bins=bins, stacked=True, label=labels, color=["#1b7837", "#c7c7c7"])
        axes.legend(frameon=False)
    axes.set(xlabel=column, ylabel="rows")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ranked_by(selection: "Selection") -> str | None:
    """The column selected by; a selector of somebody else may call something else `by`."""
    return selection.by if selection.by in selection.table.column_names else None


def _undefined(selection: "Selection") -> str:
    """How often each status occurs, of every scorer: `ifd_status` beside `ifd`."""
    lines = []
    for column in selection.table.column_names:
        if column.endswith("_status") and column.removesuffix("_status") in selection.table.column_names:
            counts = Counter(map(str, selection.table[column][:]))
            said = ", ".join(f"{status} {count:,}" for status, count in counts.most_common(10))
            lines.append(f"{column}: {said}")
    return "\n".join(lines)


def _examples(selection: "Selection") -> str:
    """The best rows kept and, where a column ranks, the rows with its highest and lowest scores."""
    by = _ranked_by(selection)
    values = np.full(len(selection.table), np.nan) if by is None else numbers_of(selection.table, by)
    rising = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    best = selection.rows[:SHOWN]
    parts = {"best rows kept": best}
    for title, rows in {"highest": rising[::-1][:SHOWN], "lowest": rising[:SHOWN]}.items():
        if set(values[rows]) != set(values[best]):  # else they are the best ones again
            parts[f"rows with the {title} {by}"] = rows
    lines = []
    for title, rows in parts.items():
        if len(rows):
            lines.append(f"{title}:")
            lines += [f"  {_line(selection.table[int(row)], values[row])}" for row in rows]
    return "\n".join(lines)


def _line(row: dict[str, Any], score: float) -> str:
    cells = [_short(row[column]) for column in ("prompt", "response") if column in row]
    return ("" if np.isnan(score) else f"{score:.3f}  ") + "  |  ".join(cells)


def _short(cell: Any, width: int = 70) -> str:
    """One line of at most `width` characters; a chat shows its last turn."""
    text = str((cell[-1] if cell else "") if isinstance(cell, list) else cell)
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _cost(selection: "Selection") -> str:
    if selection.run is None:
        return "cost of scoring: not recorded"
    lines = []
    for name, scorer in read_record(selection.run)["scorers"].items():
        if "seconds" not in scorer:  # begun and not finished
            continue
        made = "; ".join(f"{what} {value}" for what, value in scorer.get("made_with", {}).items())
        tokens = f", {scorer['tokens']:,} response tokens" if "tokens" in scorer else ""
        lines.append(
            f"{name}: {scorer['rows']:,} rows{tokens} in {scorer['seconds']:.1f} s" + (f"; {made}" if made else "")
        )
    return "\n".join(lines)
