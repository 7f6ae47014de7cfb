"""Say what a validation or a comparison would train, and how long that takes; write nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..recipes.recipe import Recipe
from ..runs.distributed import this_process
from ..runs.store import Store
from .arms import BY_COLUMN
from .compare import ARMS, check_recipes
from .material import material_of, stand_in_of
from .students import StudentSettings
from .trial import TARGET, Design, Trial

if TYPE_CHECKING:
    from datasets import Dataset

    from ..selection.funnel import Selection


def forecast_validation(
    selection: "Selection | Recipe",
    settings: StudentSettings,
    design: Design,
    *,
    folder: str,
    others: "Mapping[str, Selection] | None" = None,
    held_out: int | float | None = None,
    sets: "Mapping[str, Dataset] | None" = None,
) -> list[str]:
    """Say what `validate` would train, and how long it takes.

    Args:
        selection: a selection; or a recipe, for whose selection random rows stand in.
        settings: of the student.
        design: arms and how often each is trained.
        folder: the run folder, which is only read.
        others: more arms by name.
        held_out: rows to measure on, a number or a share.
        sets: more rows to measure on, the target among them.
    """
    lines = []
    Store(folder).check_folder(writable=False)
    if isinstance(selection, Recipe):
        material = stand_in_of(selection, held_out, design.seed)
        unknown = [name for name in design.arms if _needs_scores(name)]
        design = replace(design, arms=tuple(n for n in design.arms if n not in unknown))
        if unknown:
            lines = [f"not counted, since their rows are not scored yet: {', '.join(unknown)}"]
    else:
        material = material_of(selection, folder, held_out, design.seed)
    trial = Trial(settings, material, design, Store(folder), this_process())
    trial.add_arms(others or {}, selection)
    trial.add_sets(sets or {})
    return [*trial.forecast(), *lines]


def forecast_comparison(
    recipes: Mapping[str, Recipe],
    settings: StudentSettings,
    *,
    folder: str,
    held_out: int | float | None,
    target: "Dataset | None",
    steps: int | None,
    seeds: int,
    draws: int,
    seed: int,
) -> list[str]:
    """Say what `compare_recipes` would train at most, and how long it takes.

    Args are those of `compare_recipes`; random rows stand in for what the recipes select.
    """
    check_recipes(recipes)
    Store(folder).check_folder(writable=False)
    materials = {name: stand_in_of(recipe, held_out, seed) for name, recipe in recipes.items()}
    first, *others = recipes
    design = Design(ARMS, seeds, draws, seed, steps, None, None)
    trial = Trial(settings, materials[first], design, Store(folder), this_process())
    trial.add_sets({} if target is None else {TARGET: target})
    for name in others:
        trial.add_arm(name, np.sort(materials[name].selected))
    return [*trial.forecast(), f"'selected' is {first}; recipes clearly behind stop after one run"]


def _needs_scores(name: str) -> bool:
    return name.startswith("ppl-") or name.partition(":")[0] in BY_COLUMN
