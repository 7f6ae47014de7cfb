"""Write the report of a selection as one HTML page."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_type
from ..runs.store import atomic_write
from ..tables.media import read_row
from .jinja import render
from .plots import Plot, loss_plots, selection_plots
from .summary import Summary
from .surface import measure_surface
from .text import clipped, last_turn
from .words import score_format, status_words, step_words, unit_of

if TYPE_CHECKING:
    from ..selection.funnel import Selection

LONGEST_TEXT = 1_200  # characters of a prompt or response on the page
LONGEST_GROUP = 200  # characters: a column with longer values holds texts, no groups


def write_report(selection: "Selection", path: str | Path) -> Path:
    """Write one HTML file: funnel, scores, examples, baselines, cost, recipe.

    It needs no network. Data is escaped; a fact that is not known reads "not recorded".

    Args:
        selection: what `select` returns; its `run` tells cost and recipe.
        path: the file, `report.html` say, written whole or not at all; its folder is made if need
            be.

    Returns:
        The path.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, select, write_report
        >>> table = Dataset.from_dict({"ifd": [0.5, 0.9], "response": ["short", "longer"]})
        >>> write_report(select(table, [TopK("ifd", 1)]), "runs/docs/report.html").name
        'report.html'
    """
    from ..selection.funnel import Selection

    check_type("selection", selection, Selection, "give what select(...) returns")
    check_type("path", path, (str, Path), "give the name of the file to write, report.html")
    return write_page(Summary(selection), selection_plots(selection), path)


def write_page(
    summary: Summary,
    plots: dict[str, Plot],
    path: str | Path,
    *,
    note: dict[str, Any] | None = None,
) -> Path:
    """Write the report of a summary and its plots.

    Args:
        summary, plots: of the selection.
        path: the file.
        note: what stands on top: `sentences`, and a table of texts, `head` and `rows`.
    """
    facts = summary.facts()
    facts["groups"] = {
        column: entries
        for column, entries in facts["groups"].items()
        if all(len(entry["value"]) <= LONGEST_GROUP for entry in entries)
    }
    pictures = [*plots.values(), *loss_plots(summary.losses).values()]
    page = render(
        "report.html.j2",
        **facts,
        note=note,
        step_names=[step_words(step) for step in summary.selection.steps],
        cut=summary.selection.cut,
        score_format=score_format(summary.selection.scores),
        unit=_unit(summary),
        remarks=_remarks(summary.statuses),
        surface=measure_surface(summary.selection),
        title=summary.recipe.dataset if summary.recipe else "A selection",
        recipe=summary.recipe.to_yaml() if summary.recipe else None,
        plots=[{"alt": plot.alt, "data": base64.b64encode(plot.png).decode()} for plot in pictures],
        examples=[
            {"title": title, "rows": [_shown_row(summary, row) for row in rows.tolist()]}
            for title, rows in summary.examples.items()
        ],
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def _shown_row(summary: Summary, number: int) -> dict[str, Any]:
    """Describe one row as the page shows it."""
    row, score = read_row(summary.table, number), summary.selection.scores[number]
    statuses = [
        f"{name}: {value}"
        for name, value in row.items()
        if name.endswith("_status") and value not in ("ok", None)
    ]
    return {
        "number": number,
        "score": None if np.isnan(score) else float(score),
        "statuses": statuses,
        "prompt": _shown_prompt(row.get("prompt")),
        "response": clipped(last_turn(row.get("response")), LONGEST_TEXT),
        "rejected": clipped(last_turn(row.get("response_rejected")), LONGEST_TEXT),
    }


def _shown_prompt(cell: Any) -> str:
    """Shorten a prompt; of a chat the end is kept, where the last question stands."""
    text = last_turn(cell)
    if not isinstance(cell, list) or len(text) <= LONGEST_TEXT:
        return clipped(text, LONGEST_TEXT)
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}"


def _unit(summary: Summary) -> str | None:
    """Return the unit of the column that ranks, where the run names its scorer."""
    for scorer in (summary.manifest or {}).get("scorers", {}).values():
        if scorer.get("main") == summary.selection.ranked_by:
            return unit_of(scorer)
    return None


def _remarks(statuses: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """List every status but `ok`, with the score that it belongs to and its words."""
    return [
        {
            "column": column,
            "score": column.removesuffix("_status"),
            "status": status,
            "words": status_words(status),
            "rows": rows,
        }
        for column, counts in statuses.items()
        for status, rows in counts.items()
        if status != "ok"
    ]
