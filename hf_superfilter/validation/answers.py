"""Turn what the runs measured into comparisons, verdicts and tables of plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..reports.text import clipped, last_turn
from .arms import (
    RANDOM_ARMS,
    SELECTED,
    UNTRAINED,
    Arm,
    Pool,
    draws_as_many,
    is_baseline,
    perplexity_columns,
)
from .differences import as_facts, compare_arms
from .figures import PRIMARY, Runs, figures_of
from .material import Material
from .plan import WORDS, Question
from .rows import Windows
from .students import RunFiles, read_runs
from .verdict import Size, Verdict, secondary, verdict_of

SHOWN_ROWS = 5  # on which selection and random rows differ most, each way
MOST_SHARED = 0.5  # of random rows of equal lengths, that are selected too
LONGEST_TEXT = 400  # characters of a prompt or response in the file


def measured_of(
    question: Question, arms: Sequence[Arm], files: RunFiles, sets: Sequence[Windows]
) -> dict[str, dict[str, Runs]]:
    """Read what the runs under one question measured: set -> arm -> runs."""
    measured: dict[str, dict[str, Runs]] = {part.name: {} for part in sets}
    for arm in arms:
        runs = read_runs(files, arm.name, question.name, sets)
        for part, own in zip(sets, runs, strict=True):
            measured[part.name][arm.name] = own
    return measured


def answer(
    question: Question,
    arms: Sequence[Arm],
    files: RunFiles,
    sets: Sequence[Windows],
    windows: Windows,
    target: str | None,
) -> dict[str, Any]:
    """Compare the arms under one question."""
    measured = measured_of(question, arms, files, sets)
    described = []
    for arm in arms:
        figures = {name: figures_of(runs[arm.name]) for name, runs in measured.items()}
        described.append(_describe(arm, question, files, windows, figures))
    held_out, names = sets[0].name, [arm.name for arm in arms]
    against = [name for name in RANDOM_ARMS if name in names]
    selections = [name for name in names if not is_baseline(name)]
    baselines = [name for name in names if is_baseline(name) and name != UNTRAINED]
    primary = compare_arms(selections, against, measured)
    sizes = sizes_of(arms, windows.tokens)
    verdicts, details = [], []
    for name in selections:
        others = secondary(name, against, measured)
        details += [as_facts(one) for one in others]
        verdicts.append(
            verdict_of(name, primary, others, held_out=held_out, target=target, sizes=sizes)
        )
    rest = compare_arms(baselines, against, measured)
    return {
        "name": question.name,
        "amount": question.amount,
        "words": WORDS[question.name],
        "verdict": _verdict_facts(verdicts[0]),
        "verdicts": [_verdict_facts(verdict) for verdict in verdicts],
        "arms": described,
        "comparisons": [as_facts(one) for one in primary],
        "baselines": [as_facts(one) for one in rest],
        "other_figures": details,
    }


def sizes_of(arms: Sequence[Arm], tokens: np.ndarray) -> dict[str, Size]:
    """Count rows and response tokens of every arm, the mean over its draws.

    Args:
        arms: all of them.
        tokens: (n,) response tokens of the rows that they name.
    """
    return {
        arm.name: Size(
            float(np.mean([len(rows) for rows in arm.draws])),
            float(np.mean([tokens[rows].sum() for rows in arm.draws])),
        )
        for arm in arms
    }


def _verdict_facts(verdict: Verdict) -> dict[str, Any]:
    return {**vars(verdict), "notes": list(verdict.notes)}


def _describe(
    arm: Arm,
    question: Question,
    files: RunFiles,
    windows: Windows,
    figures: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Describe the rows and the training of an arm; means over its runs."""
    facts, numbers = files.facts(), files.numbers_of(arm.name, question.name)
    own = [facts[number] for number in numbers]
    steps = [files.runs[number].steps for number in numbers]
    cut = [windows.is_cut[rows].mean() if len(rows) else 0.0 for rows in arm.draws]
    return {
        "name": arm.name,
        "runs": len(arm.draws),
        "rows": float(np.mean([len(rows) for rows in arm.draws])),
        "tokens": float(np.mean([windows.tokens[rows].sum() for rows in arm.draws])),
        "cut": float(np.mean(cut)),
        "steps": float(np.mean(steps)),
        "epochs": float(np.mean([fact["epochs"] for fact in own])),
        "trained_tokens": float(np.mean([fact["tokens"] for fact in own])),
        "seconds": float(np.mean([fact["seconds"] for fact in own])),
        "figures": figures,
    }


def notes_on_rows(
    pool: Pool, windows: Windows, sets: Sequence[Windows], arms: Sequence[Arm]
) -> list[str]:
    """State how many responses are cut, what draws share with the selection, and short arms."""
    notes = [
        f"responses cut at the student's length: {windows.is_cut[pool.selected].mean():.1%} of the "
        f"selection, {windows.is_cut[pool.rows].mean():.1%} of all rows, "
        + ", ".join(f"{part.is_cut.mean():.1%} of {part.name}" for part in sets)
    ]
    shares = {
        arm.name: float(np.mean([np.isin(rows, pool.selected).mean() for rows in arm.draws]))
        for arm in arms
        if arm.is_random
    }
    listed = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
    notes.append(f"random rows are drawn from all rows: selected too are {listed}")
    if shares.get("random-lengths", 0.0) > MOST_SHARED:
        notes.append(
            "few rows but the selected ones are as long: random rows of equal lengths are mostly "
            "the selection itself, and cannot tell a score from a length"
        )
    by_perplexity = [arm.name for arm in arms if arm.name.startswith("ppl-")]
    columns = perplexity_columns(pool.table) if by_perplexity else []
    if len(columns) > 1:
        notes.append(
            f"{', '.join(by_perplexity)}: by the column {columns[0]!r}, the first of "
            f"{', '.join(columns)}; name another one as highest:COLUMN or lowest:COLUMN"
        )
    wanted = len(pool.selected)
    for arm in arms:
        if draws_as_many(arm.name) and len(arm.draws[0]) < wanted:
            notes.append(
                f"{arm.name} has {len(arm.draws[0])} rows and not {wanted}: the column holds no "
                "more numbers"
            )
    return notes


def notes_on_training(
    answers: Sequence[Mapping[str, Any]], rows_of: str, *, same_source: bool = True
) -> list[str]:
    """Say where students unlearn: untrained they do better than after random rows."""
    notes = []
    remedy = ": give a lower learning_rate or more steps" if same_source else " there"
    for answer_facts in answers:
        untrained, random, loss = _losses(answer_facts, rows_of)
        if untrained < loss:
            notes.append(
                f"{answer_facts['name']}: the untrained student is better on {rows_of} "
                f"({untrained:.3f}) than after {random} rows ({loss:.3f}), so "
                f"differences say which rows do less harm{remedy}"
            )
    return notes


def notes_on_scale(answers: Sequence[Mapping[str, Any]], rows_of: str) -> list[str]:
    """Say what training on random rows gains, beside which differences can be read."""
    notes = []
    for answer_facts in answers:
        untrained, random, loss = _losses(answer_facts, rows_of)
        if loss <= untrained < math.inf:
            notes.append(
                f"{answer_facts['name']}: for scale, {random} rows lower the untrained student's "
                f"loss on {rows_of} by {untrained - loss:.3f}"
            )
    return notes


def _losses(answer_facts: Mapping[str, Any], rows_of: str) -> tuple[float, str, float]:
    """Return the loss of the untrained student, inf without it, and a random arm with its loss."""
    losses = {arm["name"]: arm["figures"][rows_of][PRIMARY] for arm in answer_facts["arms"]}
    random = next(name for name in RANDOM_ARMS if name in losses)
    return losses.get(UNTRAINED, math.inf), random, losses[random]


def differences_by_row(
    files: RunFiles, question: Question, held_out: Windows, sets: Sequence[Windows]
) -> tuple[np.ndarray, str]:
    """Return per held-out row the loss per token of selected less random, and which random arm."""
    arms = {run.arm for run in files.runs}
    against = next(name for name in RANDOM_ARMS if name in arms)
    own = read_runs(files, SELECTED, question.name, sets)[0]
    random = read_runs(files, against, question.name, sets)[0]
    nats = own.nats.mean(axis=0) - random.nats.mean(axis=0)
    return nats / np.maximum(held_out.tokens, 1), against


def facts_of_rows(
    files: RunFiles, question: Question, sets: Sequence[Windows], material: Material
) -> dict[str, Any]:
    """Return the difference on every held-out row, and the rows on which it is largest, with text.

    Row numbers are those of the table that the selection was made of; a recipe's table holds no
    row that was held out, and then only the rows with text are returned.
    """
    held_out = sets[0]
    per_token, against = differences_by_row(files, question, held_out, sets)
    order = np.argsort(per_token, kind="stable")
    numbers = material.numbers[held_out.numbers]
    rows = []
    for place in dict.fromkeys([*order[:SHOWN_ROWS].tolist(), *order[-SHOWN_ROWS:].tolist()]):
        row = material.held_out[int(held_out.numbers[place])]
        rows.append(
            {
                "row": int(numbers[place]),
                "against": against,
                "difference": float(per_token[place]),
                "tokens": int(held_out.tokens[place]),
                "prompt": _clipped(row["prompt"]),
                "response": _clipped(row["response"]),
            }
        )
    differences = None
    if material.in_table:
        values = [round(value, 6) for value in per_token.tolist()]
        differences = {"rows": numbers.tolist(), "values": values}
    return {"rows_that_differ": rows, "differences": differences}


def _clipped(cell: Any) -> str:
    """Return a cell's text, of a chat the last turn, shortened."""
    return clipped(last_turn(cell), LONGEST_TEXT)
