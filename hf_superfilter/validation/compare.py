"""Rank recipes by what students learn from their selections."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import scorer_name
from ..errors import SuperfilterError
from ..recipes.recipe import Recipe
from ..runs.distributed import this_process
from ..runs.store import Store
from .answers import measured_of, sizes_of
from .arms import RANDOM_ARMS, SELECTED, UNTRAINED, words_of
from .differences import LEVEL, Difference, compare_arms, difference, holm
from .figures import PRIMARY, Measured, Runs, figures_of
from .material import Material, material_of
from .students import StudentSettings
from .tables import aligned
from .trial import TARGET, Design, Trial
from .verdict import Size, secondary, verdict_of

if TYPE_CHECKING:
    from datasets import Dataset

RANKING = "ranking.json"
ARMS = (SELECTED, "random", "random-tokens")
SAME_PARTS = (
    *("dataset", "config", "split", "revision", "format", "columns"),
    *("template", "tokenizer", "template_kwargs", "reasoning"),
)
# Of pairs of data that a small model ranks, the share that a model of the target size ranks alike:
# DataDecide, arXiv 2504.11393, abstract (150 million against 1 billion parameters, pretraining).
TRANSFER = 0.80


@dataclass(frozen=True)
class Place:
    """Hold one recipe's place.

    Attributes:
        recipe: its name.
        rows: rows that it selects.
        loss: the primary figure, in nats per token.
        behind: the difference to the best recipe, corrected over the recipes; None for the best
            itself.
        chance: that the best one is better than this one with this student, and with a target of
            another size; None for the best itself.
        verdict: against random rows, in words.
        stopped: whether it was left out after its first run, clearly behind.
    """

    recipe: str
    rows: int
    loss: float
    behind: Difference | None
    chance: tuple[float, float] | None
    verdict: str
    stopped: bool


@dataclass(frozen=True, repr=False, eq=False)
class RecipeRanking:
    """Hold recipes, the best first.

    Attributes:
        places: one a recipe.
        ranked_on: the set whose primary figure ranks them.
        student: the model's name.
        notes: what qualifies all of it, such as rows that are trained on as well.
    """

    places: tuple[Place, ...]
    ranked_on: str
    student: str
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """Return the name of the first recipe."""
        return self.places[0].recipe

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, as `ranking.json` in the run folder has it."""
        return asdict(self)

    def __repr__(self) -> str:
        names = " > ".join(place.recipe for place in self.places)
        return f"RecipeRanking({names}, student {self.student!r})"

    def __str__(self) -> str:
        """Return the ranks as a table of text."""
        table = [["recipe", "rows", "loss", "behind the best", "best is better", "at another size"]]
        lines = []
        for place in self.places:
            row = [place.recipe, f"{place.rows:,}", f"{place.loss:.4f}", "", "", ""]
            if place.behind is not None and place.chance is not None:
                half = (place.behind.high - place.behind.low) / 2
                row[3] = f"{place.behind.value:+.4f} ± {half:.4f}"
                row[4:] = [f"{chance:.0%}" for chance in place.chance]
            table.append(row)
            stopped = " (left out after one run: clearly behind)" if place.stopped else ""
            lines.append(f"{place.recipe}: {place.verdict}{stopped}")
        notes = [
            *(f"- {note}" for note in self.notes),
            f"by {PRIMARY} on {self.ranked_on}, student {self.student}",
            f"'at another size' takes {TRANSFER:.0%} of pairs to rank alike with a model of that "
            "size (DataDecide, arXiv 2504.11393, for pretraining data: not measured for yours)",
        ]
        return "\n".join([*aligned(table), "", *lines, "", *notes]) + "\n"


def compare_recipes(
    recipes: Mapping[str, Recipe],
    student: "str | StudentSettings",
    *,
    folder: str | Path,
    held_out: int | float | None = None,
    target: "Dataset | None" = None,
    steps: int | None = None,
    seeds: int = 3,
    draws: int = 5,
    seed: int = 0,
) -> RecipeRanking | None:
    """Rank recipes for one data set by what students learn from their selections.

    The same rows are held out for all, before anything is scored. Every recipe is trained once; one
    that is then clearly behind the best (p below 0.05, corrected) is left out, the others get all
    their orders.

    Args:
        recipes: name -> recipe; two or more, on the same rows in the same format.
        student: a model's name, or `StudentSettings`.
        folder: the run folder; recipes whose scorers agree share their scores in it.
        held_out: rows to measure on, a number or a share; None is 1,500, at most a quarter.
        target: rows of another source; they rank the recipes where they are given.
        steps: optimiser steps of every student; None is two epochs of the first selection.
        seeds: orders of a recipe that is not left out.
        draws: of the random arms, whose spread an interval needs.
        seed: of the rows held out and of the draws.

    Returns:
        The ranking, also written to `ranking.json`; None on all processes of a launch but the main
        one.

    Raises:
        SuperfilterError: fewer than two recipes, or recipes on different rows.
    """
    check_recipes(recipes)
    settings = student if isinstance(student, StudentSettings) else StudentSettings(student)
    process, names = this_process(), list(recipes)
    Store(folder).check_folder()
    places = _score_folders(recipes)
    design = Design(ARMS, seeds, draws, seed, steps, None, None)
    materials = {}
    for name, recipe in recipes.items():
        place = f"{folder}/scores-{places[name]}"
        try:
            materials[name] = material_of(recipe, place, held_out, design.seed)
        except SuperfilterError as error:
            raise type(error)(f"recipes[{name!r}]: {error}") from error
    first_name = f"of {names[0]}"
    trial = Trial(
        settings, materials[names[0]], design, Store(folder), process, selected=first_name
    )
    trial.add_sets({} if target is None else {TARGET: target})
    for name in names[1:]:
        trial.add_arm(name, materials[name].selected)
    ranked_on = trial.sets[-1].name
    first, first_sizes = _measured(trial, replace(design, seeds=1))
    behind = _clearly_behind(first[ranked_on], [SELECTED, *names[1:]])
    for name in behind - {SELECTED}:
        trial.others.pop(name)
    arms = tuple(arm for arm in ARMS if arm not in behind)
    later, later_sizes = _measured(trial, replace(design, arms=arms))
    if not process.is_main:
        return None
    measured = {part: {**first[part], **runs} for part, runs in later.items()}
    rows = {name: len(material.selected) for name, material in materials.items()}
    sizes = {_name(arm, names): size for arm, size in {**first_sizes, **later_sizes}.items()}
    stopped = {_name(arm, names) for arm in behind}
    ranking = _ranking(names, rows, sizes, measured, ranked_on, settings.model, stopped)
    ranking = replace(ranking, notes=(*_notes_of(materials), *trial.notes))
    text = json.dumps(ranking.facts(), indent=1, ensure_ascii=False, allow_nan=False)
    Store(folder).write(RANKING, text.encode())
    return ranking


def _notes_of(materials: Mapping[str, Material]) -> list[str]:
    """List what qualifies all recipes, and by its name what qualifies one of them."""
    listed = [note for material in materials.values() for note in material.notes]
    notes = []
    for name, material in materials.items():
        for note in material.notes:
            notes.append(note if listed.count(note) == len(materials) else f"{name}: {note}")
    return list(dict.fromkeys(notes))


def _score_folders(recipes: Mapping[str, Recipe]) -> dict[str, int]:
    """Number the folders that recipes score into; those without a conflict share one."""
    folders: list[dict[str, str]] = []
    numbers = {}
    for name, recipe in recipes.items():
        scorers = {scorer_name(scorer): repr(scorer) for scorer in recipe.score}
        for known in folders:
            if all(known.get(key, value) == value for key, value in scorers.items()):
                break
        else:
            known = {}
            folders.append(known)
        known.update(scorers)
        numbers[name] = next(i for i, other in enumerate(folders, 1) if other is known)
    return numbers


def check_recipes(recipes: Any) -> None:
    """Refuse what cannot be compared: one recipe, or recipes on different rows."""
    if not isinstance(recipes, Mapping) or len(recipes) < 2:
        raise SuperfilterError("recipes: give two or more by name, {'ifd': Recipe(...), ...}")
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        if not isinstance(name, str):
            raise SuperfilterError(f"recipes: {name!r} is no name: give a text")
        if not isinstance(recipe, Recipe):
            raise SuperfilterError(
                f"recipes[{name!r}] is no Recipe, but of type {type(recipe).__name__}: give one"
            )
        if name in (*RANDOM_ARMS, SELECTED, UNTRAINED) or not name or "/" in name:
            raise SuperfilterError(f"recipes[{name!r}]: give it another name, of a folder")
        for part in SAME_PARTS:
            if getattr(recipe, part) != getattr(first, part):
                raise SuperfilterError(
                    f"recipes[{name!r}] has {part} {getattr(recipe, part)!r}, and the first one "
                    f"{getattr(first, part)!r}: compare recipes on the same rows"
                )


def _measured(trial: Trial, design: Design) -> tuple[dict[str, Measured], dict[str, Size]]:
    """Train what is missing; return what was measured on every set, and how large arms are."""
    trained = trial.train(design)
    measured = measured_of(trained.questions[0], trained.arms, trained.files, trial.sets)
    return dict(measured), sizes_of(trained.arms, trial.windows.tokens)


def _clearly_behind(measured: Measured, arms: list[str]) -> set[str]:
    """Name the arms whose loss is higher than that of the best, beyond chance."""
    losses = {arm: figures_of(measured[arm])[PRIMARY] for arm in arms}
    best = min(losses, key=lambda arm: losses[arm])
    compared = [
        difference(arm, best, "", PRIMARY, measured, len(arms) - 1) for arm in arms if arm != best
    ]
    return {one.arm for one in holm(compared) if one.p_corrected < LEVEL}


def _ranking(
    names: list[str],
    rows: dict[str, int],
    sizes: Mapping[str, Size],
    measured: Mapping[str, Measured],
    ranked_on: str,
    student: str,
    stopped: set[str],
) -> RecipeRanking:
    own: dict[str, dict[str, Runs]] = {}
    for part, arms in measured.items():
        own[part] = {_name(arm, names): runs for arm, runs in arms.items()}
    losses = {name: figures_of(own[ranked_on][name])[PRIMARY] for name in names}
    order = sorted(names, key=lambda name: losses[name])
    against = [name for name in RANDOM_ARMS if name in own[ranked_on]]
    primary = compare_arms(names, against, own)
    held_out = next(iter(own))
    behinds = holm(
        [
            difference(name, order[0], ranked_on, PRIMARY, own[ranked_on], len(names) - 1)
            for name in order[1:]
        ]
    )
    places = []
    for name, behind in zip(order, [None, *behinds], strict=True):
        others = secondary(name, against, own)
        target = TARGET if TARGET in own else None
        # Random arms are drawn for the first recipe; another one may be of another size.
        verdict = verdict_of(name, primary, others, held_out=held_out, target=target, sizes=sizes)
        chance = None
        if behind is not None:
            here = 1 - behind.p / 2
            chance = (here, here * TRANSFER + (1 - here) * (1 - TRANSFER))
        text = verdict.text.removeprefix(f"{words_of(name)}: ")
        places.append(Place(name, rows[name], losses[name], behind, chance, text, name in stopped))
    return RecipeRanking(tuple(places), ranked_on, student)


def _name(arm: str, names: list[str]) -> str:
    return names[0] if arm == SELECTED else arm
