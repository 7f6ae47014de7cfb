"""Train students on a selection and on random rows, and say which learns more."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SuperfilterError
from ..reports.summary import VALIDATION
from ..runs.distributed import this_process
from ..runs.store import Store
from .arms import DEFAULT_ARMS, check_arms
from .material import material_of
from .students import StudentSettings
from .tables import text_of
from .trial import TARGET, Design, Trial, check_sets

if TYPE_CHECKING:
    from datasets import Dataset

    from ..recipes.recipe import Recipe
    from ..selection.funnel import Selection


@dataclass(frozen=True, repr=False, eq=False)
class Validation:
    """Hold what a validation found.

    `print(validation)` shows verdict and tables. Differences are in nats per token, negative is
    better.

    Attributes:
        facts: all of it as plain values, as `validation.json` in the run folder has it.
    """

    facts: dict[str, Any]

    @property
    def verdict(self) -> str:
        """Return better, worse, no difference seen, or depends, of the selection's first table."""
        return str(self.facts["questions"][0]["verdict"]["word"])

    def comparisons(self, question: str | None = None) -> list[dict[str, Any]]:
        """List the pre-stated comparisons of one question, the first without a name."""
        for entry in self.facts["questions"]:
            if question in (None, entry["name"]):
                return list(entry["comparisons"])
        names = ", ".join(entry["name"] for entry in self.facts["questions"])
        raise SuperfilterError(f"question={question!r}: give one of {names}")

    def __repr__(self) -> str:
        return f"Validation({self.verdict!r}, student {self.facts['student']['model']!r})"

    def __str__(self) -> str:
        """Return verdict and tables as text."""
        return text_of(self.facts)


def validate(
    selection: "Selection | Recipe",
    student: "str | StudentSettings",
    *,
    folder: str | Path | None = None,
    arms: Sequence[str] | str = DEFAULT_ARMS,
    others: "Mapping[str, Selection | Dataset | Sequence[int]] | None" = None,
    held_out: int | float | None = None,
    sets: "Mapping[str, Dataset] | None" = None,
    target: "Dataset | None" = None,
    steps: int | None = None,
    epochs: float | None = None,
    tokens: int | None = None,
    seeds: int = 3,
    draws: int = 5,
    seed: int = 0,
) -> Validation | None:
    """Train a student on a selection and on random rows, and compare.

    Rows are held out first; the selection is made of the rest, as its selectors say. Every arm
    starts from the same student and takes the same steps (or epochs, or tokens). The primary figure
    is the held-out loss per response token, averaged over quartiles of response length, without
    the newline of a template and the end of text. Intervals count rows, orders and draws.

    A training that is finished stays finished: run again after a kill, it goes on. Any number of
    processes may share the folder, launched together or started by hand.

    Args:
        selection: what `select` returned, of rows with `prompt` and `response`; or a recipe, whose
            rows are then held out before they are scored.
        student: a model's name, or `StudentSettings`.
        folder: the run folder; None is that of the selection.
        arms: what to train on, listed or separated by commas, see `docs/validation.md`: selected,
            random, random-tokens, random-lengths, longest, ppl-high, ppl-low, full, untrained,
            highest:COLUMN, lowest:COLUMN, where:COLUMN.
        others: more arms by name: another selection of the same rows, which may have been scored
            apart; rows with prompt and response; or row numbers of the table.
        held_out: rows to measure on, a number or a share; None is 1,500, at most a quarter.
        sets: more rows to measure on, by name.
        target: rows of another source, which "better than random" must not lose on.
        steps, epochs, tokens: what is the same for every arm; several make several tables. Without
            any, the steps of two epochs of the selection, 20 at least.
        seeds: orders of the selection, and of every other arm whose rows are fixed.
        draws: of every random arm.
        seed: of the rows held out and of the draws.

    Returns:
        The result, also written to `validation.json`; None on all processes of a launch but the
        main one.

    Raises:
        SuperfilterError: an unknown arm, too few rows, nothing selected, or no folder.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, select, validate
        >>> table = Dataset.from_dict({"ifd": [0.5, 0.9]})
        >>> validate(select(table, TopK("ifd", 1)), "embedded:weak", folder="runs/no")
        Traceback (most recent call last):
        ...
        hf_superfilter.errors.SuperfilterError: the rows have no column 'prompt': a student ...
    """
    settings = student if isinstance(student, StudentSettings) else StudentSettings(student)
    check_sets(sets or {})
    design = Design(check_arms(arms), seeds, draws, seed, steps, epochs, tokens)
    place, process = _folder_of(selection, folder), this_process()
    Store(place).check_folder()
    material = material_of(selection, place, held_out, design.seed)
    trial = Trial(settings, material, design, Store(place), process)
    trial.add_arms(others or {}, selection)
    trial.add_sets({**(sets or {}), **({} if target is None else {TARGET: target})})
    answers = trial.run()
    if answers is None:
        return None
    facts = {"selectors": list(material.selectors), **answers}
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    Store(place).write(VALIDATION, text.encode())
    return Validation(facts)


def _folder_of(selection: Any, folder: str | Path | None) -> str:
    if folder is not None:
        return str(folder)
    run = getattr(selection, "run", None)
    if isinstance(run, (str, Path)):
        return str(run)
    raise SuperfilterError(
        "the selection has no run folder: name one, validate(..., folder='runs/validate')"
    )
