"""State before training what is compared with what, and how long each arm trains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import is_count, is_number
from ..errors import SuperfilterError
from .arms import Arm
from .figures import FIGURES, PRIMARY
from .rows import Windows
from .students import Run

DEFAULT_EPOCHS = 2  # of the selection, whose steps are then those of every arm
LEAST_STEPS = 20  # by default: fewer teach a student hardly anything
WORDS = {
    "steps": "the same optimiser steps for every arm",
    "epochs": "the same epochs of its own rows for every arm, as papers do",
    "tokens": "the same response tokens trained on for every arm",
}


@dataclass(frozen=True)
class Question:
    """Say what is held equal between arms.

    Attributes:
        name: steps, epochs or tokens.
        amount: how many.
    """

    name: str
    amount: int | float

    def steps_of(self, tokens: np.ndarray, batch_rows: int) -> int:
        """Return the optimiser steps of an arm.

        Args:
            tokens: (k,) response tokens of its rows.
            batch_rows: rows of a step.
        """
        if self.name == "steps":
            return int(self.amount)
        if self.name == "epochs":
            return max(1, math.ceil(self.amount * len(tokens) / batch_rows))
        return max(1, math.ceil(self.amount / (float(tokens.mean()) * batch_rows)))


def questions_of(
    steps: int | None, epochs: float | None, tokens: int | None, selected: int, batch_rows: int
) -> list[Question]:
    """List what is held equal; several make several tables.

    Without any, every arm takes the steps of two epochs of the selection, 20 at least.

    Raises:
        SuperfilterError: an amount that is not above 0.
    """
    amounts = {"steps": steps, "epochs": epochs, "tokens": tokens}
    for name, amount in amounts.items():
        valid = is_number(amount) if name == "epochs" else is_count(amount)
        if amount is not None and (not valid or amount <= 0):
            raise SuperfilterError(f"{name}={amount!r}: give a number above 0, or leave it out")
    questions = [Question(name, amount) for name, amount in amounts.items() if amount is not None]
    if questions:
        return questions
    return [Question("steps", max(LEAST_STEPS, math.ceil(DEFAULT_EPOCHS * selected / batch_rows)))]


def runs_of(
    questions: Sequence[Question],
    arms: Sequence[Arm],
    windows: Windows,
    batch_rows: int,
    learning_rate: float,
) -> list[Run]:
    """List one training for every question, arm and draw or order."""
    runs = []
    for question in questions:
        for arm in arms:
            for number, rows in enumerate(arm.draws, start=1):
                steps = 0
                if not arm.is_untrained:
                    steps = question.steps_of(windows.tokens[rows], batch_rows)
                runs.append(Run(question.name, arm.name, number, rows, steps, learning_rate))
    return runs


def statement(
    questions: Sequence[Question], arms: Sequence[Arm], sets: Sequence[Windows], target: str | None
) -> dict[str, Any]:
    """Write down, before any training, what will be looked at."""
    return {
        "primary": PRIMARY,
        "figures": FIGURES,
        "questions": [
            {"name": question.name, "amount": question.amount, "words": WORDS[question.name]}
            for question in questions
        ],
        "arms": [{"name": arm.name, "runs": len(arm.draws)} for arm in arms],
        "sets": [
            {
                "name": part.name,
                "rows": len(part),
                "tokens": int(part.tokens.sum()),
                "cut": float(part.is_cut.mean()),
                "digest": part.digest(),
            }
            for part in sets
        ],
        "target": target,
    }
