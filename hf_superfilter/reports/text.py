"""Summarize a selection as text for a terminal."""

from typing import Any

import numpy as np

from ..tables.media import read_row
from .summary import Summary
from .words import format_number

LONGEST_CELL = 70  # characters of a prompt or response in a line
SHOWN = ("Kept", "Best kept", "Just under the line", "Worst")
ROWS_SHOWN = 3


def summary_text(summary: Summary) -> str:
    """Describe funnel, statuses, example rows and cost as text.

    Of the examples the best rows kept, those just under the line and the worst, as far as a ranking
    tells them apart. What is not known reads "not recorded".
    """
    cost = [_cost_line(entry) for entry in summary.cost or []]
    parts = [
        [str(summary.selection)],
        _status_lines(summary),
        _example_lines(summary),
        cost or ["cost of scoring: not recorded"],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def last_turn(cell: Any) -> str:
    """Return a cell's text, of a chat the last turn."""
    if isinstance(cell, list):
        cell = cell[-1] if cell else ""
    return "" if cell is None else str(cell).strip("\n")


def clipped(text: str, longest: int) -> str:
    """Shorten a text to a number of characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _status_lines(summary: Summary) -> list[str]:
    statuses = [f"{column}: {_counts(counts)}" for column, counts in summary.statuses.items()]
    beyond = [
        f"{column}, kept as they are: {_counts(counts)}"
        for column, counts in summary.beyond.items()
    ]
    unreadable = [
        f"row {entry['row']} is unreadable: {entry['reason']}"
        for entry in summary.unreadable[:ROWS_SHOWN]
    ]
    return statuses + unreadable + beyond


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{words} {count:,}" for words, count in counts.items())


def _example_lines(summary: Summary) -> list[str]:
    lines = []
    scores = summary.selection.scores
    for title, rows in summary.examples.items():
        if title in SHOWN:
            lines.append(f"{title}:")
            for number in rows[:ROWS_SHOWN].tolist():
                lines.append(f"  {_row_line(read_row(summary.table, number), scores[number])}")
    return lines


def _row_line(row: dict[str, Any], score: float) -> str:
    columns = [column for column in ("prompt", "response") if column in row]
    cells = [" ".join(last_turn(row[column]).split()) for column in columns]
    line = "  |  ".join(clipped(cell, LONGEST_CELL) for cell in cells)
    return line if np.isnan(score) else f"{format_number(score, '{:.3f}')}  {line}"


def _cost_line(entry: dict[str, Any]) -> str:
    line = f"{entry['name']}: {entry['rows']:,} rows"
    if entry["tokens"] is not None:
        line += f", {entry['tokens']:,} response tokens"
    line += f" in {entry['seconds']:.1f} s"
    if entry["training_seconds"] is not None:
        line += f" ({entry['training_seconds']:.1f} s of them training)"
    if entry["model"]:
        line += f"; {entry['model']} at {entry['revision']}, {entry['device']}, {entry['dtype']}"
    return line
