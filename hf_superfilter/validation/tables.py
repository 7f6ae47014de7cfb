"""Show a validation as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import PRIMARY


def text_of(facts: Mapping[str, Any]) -> str:
    """Return verdict, arms, comparisons and notes of a validation as text."""
    student = facts["student"]
    parts = [
        f"student {student['model']} at {student['revision']}, learning rate "
        f"{student['learning_rate']:.2g}, {student['batch_rows']} rows a step, "
        f"{facts['rows']['selected']:,} of {facts['rows']['pool']:,} rows selected"
    ]
    if facts["rates"]:
        tried = ", ".join(
            f"{one['learning_rate']:.2g}: {one['loss']:.3f}" for one in facts["rates"]
        )
        parts[0] += f"\nlearning rates tried on random rows, with their loss on others: {tried}"
    for question in facts["questions"]:
        parts.append(_question_text(question, facts["plan"]))
    parts.append("\n".join(f"- {note}" for note in facts["notes"]))
    return "\n\n".join(parts) + "\n"


def _question_text(question: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    lines = [f"{question['words']} ({question['name']} {question['amount']:,})"]
    for verdict in question["verdicts"]:
        lines.append(f"verdict: {verdict['text']}")
        lines += [f"  {note}" for note in verdict["notes"]]
    lines += ["", *_arm_lines(question, plan), ""]
    lines += ["differences in nats per token with 95% intervals, negative is better", ""]
    lines += _difference_lines(question["comparisons"] + question["baselines"])
    return "\n".join(lines)


def _arm_lines(question: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    sets = [part["name"] for part in plan["sets"]]
    head = ["arm", "runs", "rows", "tokens", "epochs", "trained on"]
    table = [[*head, *(f"{name}: {PRIMARY}" for name in sets), "token mean", "row mean", "end"]]
    for arm in question["arms"]:
        first = arm["figures"][sets[0]]
        numbers = [f"{arm['figures'][name][PRIMARY]:.3f}" for name in sets]
        others = [
            f"{first[name]:.3f}" if name in first else "—"
            for name in ("token mean", "row mean", "end of text")
        ]
        row = [arm["name"], str(arm["runs"]), f"{arm['rows']:,.0f}", f"{arm['tokens']:,.0f}"]
        row += [f"{arm['epochs']:.1f}", f"{arm['trained_tokens']:,.0f}"]
        table.append(row + numbers + others)
    return aligned(table)


def _difference_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [["arm", "against", "rows", "difference", "p, corrected", "draws beaten", "verdict"]]
    for one in comparisons:
        half = (one["high"] - one["low"]) / 2
        table.append(
            [
                one["arm"],
                one["against"],
                one["rows_of"],
                f"{one['value']:+.4f} ± {half:.4f}",
                f"{one['p_corrected']:.3f}",
                f"{one['beaten']} of {one['draws']}",
                one["verdict"],
            ]
        )
    return aligned(table)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Align the cells of a table, whose first row is its head, in columns."""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
