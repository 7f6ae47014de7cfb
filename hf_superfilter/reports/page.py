"""A selection to look at: a summary in text, and one self-contained HTML page."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.columns import numbers_of
from ..recipes.recipe import recipe_of
from ..runs.store import atomic_write
from .jinja import render
from .plots import length_picture, loss_pictures, score_picture
from .summary import examples_of, facts_of, ranked_by

if TYPE_CHECKING:
    from ..selection.funnel import Selection

LONGEST_TEXT = 1_200  # characters of a prompt or response on the page


def write_report(selection: "Selection", path: str | Path) -> Path:
    """Write one HTML file that needs no network: funnel, scores, examples, baselines, cost, recipe.

    Data is escaped; a fact that is not known reads "not recorded". Numbers are those of `facts_of`.

    Args:
        selection: what `select` answers; its `run` tells cost and recipe.
        path: the file to write whole or not at all, `report.html` say; its folder is made if need be.

    Returns:
        The path.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, select, write_report
        >>> table = Dataset.from_dict({"ifd": [0.5, 0.9], "response": ["short", "longer"]})
        >>> write_report(select(table, [TopK("ifd", 1)]), "runs/docs/report.html").name
        'report.html'
    """
    pictures = [
        picture for picture in (score_picture(selection), length_picture(selection)) if picture
    ]
    pictures += loss_pictures(selection.run).values() if selection.run is not None else []
    facts = facts_of(selection)
    recipe = recipe_of(selection)
    page = render(
        "report.html.j2",
        **facts,
        cut=facts["score"] and facts["score"]["cut"],
        title=recipe.dataset if recipe else "A selection",
        recipe=recipe.to_yaml() if recipe else None,
        pictures=[
            {"alt": picture.alt, "data": base64.b64encode(picture.png).decode()}
            for picture in pictures
        ],
        examples=[
            {"title": title, "rows": _shown(selection, rows)}
            for title, rows in examples_of(selection).items()
        ],
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def _shown(selection: "Selection", rows: np.ndarray) -> list[dict[str, Any]]:
    """Rows as the page shows them."""
    scores = _scores(selection)
    shown = []
    for number in rows.tolist():
        row = selection.table[number]
        shown.append(
            {
                "number": number,
                "score": None if np.isnan(scores[number]) else float(scores[number]),
                "statuses": [
                    f"{name}: {value}"
                    for name, value in row.items()
                    if name.endswith("_status") and value not in ("ok", None)
                ],
                "prompt": _clipped(row.get("prompt")),
                "response": _clipped(row.get("response")),
            }
        )
    return shown


def _scores(selection: "Selection") -> np.ndarray:
    """(n,) values of the column that was selected by, nan where there is none."""
    by = ranked_by(selection)
    return numbers_of(selection.table, by) if by else np.full(len(selection.table), np.nan)


def _clipped(cell: Any) -> str:
    """At most `LONGEST_TEXT` characters; a chat shows its last turn."""
    text = str(
        (cell[-1] if cell else "") if isinstance(cell, list) else "" if cell is None else cell
    ).strip("\n")
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def summarise(selection: "Selection") -> str:
    """A selection as text for a terminal.

    The funnel, the reasons of undefined scores, the best rows kept, those just under the line, the
    worst (as far as `examples_of` tells them apart), and what the scoring cost ("not recorded" where no
    run stands behind it).
    """
    facts = facts_of(selection)
    statuses = [
        f"{column}: " + ", ".join(f"{status} {count:,}" for status, count in counts.items())
        for column, counts in facts["status"].items()
    ]
    statuses += [
        f"{column}, kept as they are: "
        + ", ".join(f"{words} {count:,}" for words, count in counts.items())
        for column, counts in facts["beyond"].items()
    ]
    examples = []
    scores = _scores(selection)
    for title, rows in examples_of(selection).items():
        if title in ("Kept", "Best kept", "Just under the line", "Worst"):
            examples.append(f"{title}:")
            examples += [
                f"  {_line(selection.table[number], scores[number])}"
                for number in rows[:3].tolist()
            ]
    cost = [_cost_line(entry) for entry in facts["cost"] or []] or ["cost of scoring: not recorded"]
    parts = [[str(selection)], statuses, examples, cost]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _line(row: dict[str, Any], score: float) -> str:
    cells = [
        " ".join(_clipped(row[column]).split())
        for column in ("prompt", "response")
        if column in row
    ]
    short = [cell if len(cell) <= 70 else cell[:69] + "…" for cell in cells]
    return ("" if np.isnan(score) else f"{score:.3f}  ") + "  |  ".join(short)


def _cost_line(entry: dict[str, Any]) -> str:
    tokens = f", {entry['tokens']:,} response tokens" if entry["tokens"] is not None else ""
    made = (
        f"; {entry['model']} at {entry['revision']}, {entry['device']}, {entry['dtype']}"
        if entry["model"]
        else ""
    )
    trained = (
        f" ({entry['training_seconds']:.1f} s of them training)"
        if entry["training_seconds"] is not None
        else ""
    )
    return f"{entry['name']}: {entry['rows']:,} rows{tokens} in {entry['seconds']:.1f} s{trained}{made}"
