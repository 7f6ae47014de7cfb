"""Define the commands that train students: does the selection train better than chance?"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from ..errors import SuperfilterError
from ._run_folders import (
    find_recipe,
    in_folder,
    name_option,
    named_selections,
    refuse_name,
    selection_folder,
    selection_in,
    show_nothing_written,
    show_scoring_ahead,
    write_run_page,
)
from ._terminal import show, show_end
from .runs import AllowEndpoint, parse_number

if TYPE_CHECKING:
    from datasets import Dataset

    from ..recipes.recipe import Recipe
    from ..selection.funnel import Selection

logger = logging.getLogger(__name__)
ARMS = "selected,random,random-tokens,random-lengths,longest,full,untrained"
StudentOption = Annotated[
    str, typer.Option(help="A Hub id, a folder, embedded:weak or embedded:strong.")
]
LearningRate = Annotated[
    float | None, typer.Option(help="The highest rate; without it one is chosen on random rows.")
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="Rows to measure on: a share such as 0.2, a number (without one 1500, at most a "
        "quarter), or a file of other rows. May be repeated."
    ),
]
Target = Annotated[
    str | None, typer.Option(help="A file of another source that the selection must not lose on.")
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="The same optimiser steps for every arm; by default those of two epochs of the "
        "selection, 20 at least."
    ),
]
Seeds = Annotated[int, typer.Option(help="Orders of each selection.")]
Draws = Annotated[int, typer.Option(help="Draws of each random arm.")]
BatchRows = Annotated[int, typer.Option(help="Rows of a step.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be trained and how long it takes, and write nothing."
    ),
]
MaxLength = Annotated[int, typer.Option(help="Tokens read of a row.")]


class _Options(TypedDict):
    """Hold the options that a comparison and its dry run share."""

    folder: str
    held_out: int | float | None
    target: "Dataset | None"
    steps: int | None
    seeds: int
    draws: int
    seed: int


def validate(
    run: Annotated[
        str,
        typer.Argument(help="A run folder in which rows were selected, or a recipe."),
    ],
    student: StudentOption,
    arms: Annotated[
        str,
        typer.Option(
            help="What to train on, separated by commas; also ppl-high, ppl-low, highest:COLUMN, "
            "lowest:COLUMN, where:COLUMN, and the run's other selections by their names."
        ),
    ] = ARMS,
    name: Annotated[
        str | None, typer.Option(help="Validate the run's selection of that name.")
    ] = None,
    seeds: Seeds = 3,
    draws: Draws = 5,
    steps: Steps = None,
    epochs: Annotated[
        float | None, typer.Option(help="The same epochs of its own rows for every arm.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="The same response tokens trained on for every arm.")
    ] = None,
    held_out: HeldOut = None,
    target: Target = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Where results go. Default: the run folder, or runs/RECIPE-validated."),
    ] = None,
    learning_rate: LearningRate = None,
    batch_rows: BatchRows = 16,
    max_length: MaxLength = 512,
    lora: Annotated[
        int | None, typer.Option(help="Train LoRA adapters of this rank; needs peft.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the weights of every student.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of rows held out and of draws.")] = 0,
    dry_run: DryRun = False,
    allow_endpoint: AllowEndpoint = False,
) -> None:
    """Train students on the selection and on random rows, and say which learns more.

    The same command resumes after a stop, and any number of processes may work on one folder.
    """
    from ..recipes.recipe import Recipe
    from ..reports.summary import VALIDATION
    from ..validation.arms import check_arms
    from ..validation.forecast import forecast_validation
    from ..validation.students import StudentSettings
    from ..validation.trial import TARGET, Design, check_sets
    from ..validation.validate import validate

    chosen, recipe, place = _selection_or_recipe(run, name, folder, allow_endpoint)
    arms, others = _other_selections(run, arms)
    share, sets = parse_held_out(held_out, recipe)
    settings = StudentSettings(
        student,
        learning_rate=learning_rate,
        batch_rows=batch_rows,
        max_length=max_length,
        lora=lora,
        keep=keep,
    )
    aim = None if target is None else rows_of_file(target, recipe)
    if dry_run:
        design = Design(check_arms(arms), seeds, draws, seed, steps, epochs, tokens)
        check_sets(sets)
        measured = sets if aim is None else {**sets, TARGET: aim}
        lines = forecast_validation(
            chosen, settings, design, folder=place, others=others, held_out=share, sets=measured
        )
        if isinstance(chosen, Recipe):
            show_scoring_ahead(chosen, place)
        show("\n".join(lines))
        show_nothing_written(place)
        return
    result = validate(
        chosen,
        settings,
        folder=place,
        arms=arms,
        others=others,
        held_out=share,
        sets=sets,
        target=aim,
        steps=steps,
        epochs=epochs,
        tokens=tokens,
        seeds=seeds,
        draws=draws,
        seed=seed,
    )
    if result is None:
        return  # of several processes that were launched, the main one goes on
    show(str(result).rstrip())
    results = f"results: {place.rstrip('/')}/{VALIDATION}"
    if _report_again(place, name):
        results += f", report: {in_folder(selection_folder(place, name), 'report.html')}"
    # The folder of a recipe holds the rows that were not held out, and selects of those alone.
    following = ["publish", run, "user/name", *name_option(name), "--dry-run"]
    if isinstance(chosen, Recipe):
        following = ["run", run, "--dry-run"]
    show_end(f"\nvalidated on {settings.model}", results, *following)


def compare(
    recipes: Annotated[list[str], typer.Argument(help="Two or more recipes, on the same rows.")],
    student: StudentOption,
    seeds: Seeds = 3,
    draws: Draws = 5,
    steps: Steps = None,
    held_out: Annotated[
        str | None, typer.Option(help="Rows to measure on: a share such as 0.2, or a number.")
    ] = None,
    target: Target = None,
    folder: Annotated[str, typer.Option(help="Where results go.")] = "runs/compare",
    learning_rate: LearningRate = None,
    batch_rows: BatchRows = 16,
    max_length: MaxLength = 512,
    seed: Annotated[int, typer.Option(help="Seed of rows held out and of draws.")] = 0,
    dry_run: DryRun = False,
    allow_endpoint: AllowEndpoint = False,
) -> None:
    """Rank recipes by what students learn from their selections."""
    from ..validation.compare import RANKING, compare_recipes
    from ..validation.forecast import forecast_comparison
    from ..validation.students import StudentSettings

    by_name = {
        Path(recipe).stem: find_recipe(recipe, allow_endpoint=allow_endpoint) for recipe in recipes
    }
    if len(by_name) < len(recipes):
        raise SuperfilterError(f"{', '.join(recipes)}: give recipes of different names")
    share = None if held_out is None else parse_number(held_out)
    if held_out is not None and share is None:
        raise SuperfilterError(
            f"--held-out {held_out}: give a share or a number of rows; a file of other rows is "
            "given as --target"
        )
    settings = StudentSettings(
        student, learning_rate=learning_rate, batch_rows=batch_rows, max_length=max_length
    )
    aim = None if target is None else rows_of_file(target, by_name[Path(recipes[0]).stem])
    options: _Options = {
        "folder": folder,
        "held_out": share,
        "target": aim,
        "steps": steps,
        "seeds": seeds,
        "draws": draws,
        "seed": seed,
    }
    if dry_run:
        lines = forecast_comparison(by_name, settings, **options)
        for name, recipe in by_name.items():
            show(f"{name}:")
            show_scoring_ahead(recipe, folder)
        show("\n".join(lines))
        show_nothing_written(folder)
        return
    ranking = compare_recipes(by_name, settings, **options)
    if ranking is None:
        return  # of several processes that were launched, the main one goes on
    show(str(ranking).rstrip())
    best = recipes[list(by_name).index(ranking.best)]
    following = ("run", best, "--dry-run")
    show_end(
        f"\ncompared {len(recipes)} recipes on {student}",
        f"results: {in_folder(folder, RANKING)}",
        *following,
    )


def _selection_or_recipe(
    run: str, name: str | None, folder: str | None, allow_endpoint: bool
) -> "tuple[Selection | Recipe, Recipe | None, str]":
    """Read a run folder or a recipe; return also the recipe, and where results go."""
    from ..recipes.recipe import recorded_recipe
    from ..runs.manifest import FILE
    from ..runs.store import Store

    if Store(run).has(FILE):
        return selection_in(run, name), recorded_recipe(run), folder or run
    refuse_name(name)
    recipe = find_recipe(run, allow_endpoint=allow_endpoint)
    return recipe, recipe, folder or f"runs/{Path(run).stem}-validated"


def _other_selections(run: str, arms: str) -> "tuple[str, dict[str, Selection]]":
    """Tell the arms of `arms` from names of the run's selections; an arm's own name is an arm."""
    from ..validation.arms import NAMES

    listed = [name.strip() for name in arms.split(",")]
    named = [name for name in named_selections(run) if name in listed and name not in NAMES]
    others = {name: selection_in(run, name) for name in named}
    return ",".join(name for name in listed if name not in others), others


def parse_held_out(
    texts: list[str] | None, recipe: "Recipe | None"
) -> "tuple[int | float | None, dict[str, Dataset]]":
    """Tell a share or number of rows from files of other rows."""
    share: int | float | None = None
    sets = {}
    for text in texts or []:
        number = parse_number(text)
        if number is None:
            name = Path(text).name
            if text in sets or (name in sets and text == name):
                raise SuperfilterError(f"--held-out {text} is given twice: give it once")
            sets[text if name in sets else name] = rows_of_file(text, recipe)
        elif share is None:
            share = number
        else:
            raise SuperfilterError(f"--held-out {share} and {text}: give one share or number")
    return share, sets


def rows_of_file(name: str, recipe: "Recipe | None") -> "Dataset":
    """Load rows of another file, read as the recipe reads the rows that the selection comes from.

    With its template, and with its format and columns where the file has them.
    """
    from ..data.pairs import format_pairs
    from ..data.sources import load_rows

    named = (recipe.columns if recipe else None) or {}
    rows = load_rows(name, text_columns=named.values())
    settings: dict[str, Any] = {}
    if recipe is not None:
        names = ("template", "tokenizer", "template_kwargs", "reasoning")
        settings = {setting: getattr(recipe, setting) for setting in names}
        if _is_read_alike(rows, recipe):
            settings |= {"format": recipe.format, "columns": recipe.columns}
    if "format" in settings or not {"prompt", "response"} <= set(rows.column_names):
        rows = format_pairs(rows, **settings)
    elif recipe is not None and recipe.template != "none":
        logger.warning(
            "%s holds prompt and response, which are read as they stand: without the template %r",
            name, recipe.template,
        )  # fmt: skip
    return rows.select_columns(["prompt", "response"])


def _is_read_alike(rows: "Dataset", recipe: "Recipe") -> bool:
    """Tell whether a file has the columns that a recipe names, or those of the format it names."""
    from ..data.formats import choose_columns

    columns = recipe.columns or {}
    if recipe.format == "auto":
        return bool(columns) and set(columns.values()) <= set(rows.column_names)
    try:
        choose_columns(rows.features, recipe.format, columns)
    except SuperfilterError:
        return False
    return True


def _report_again(folder: str, name: str | None) -> bool:
    """Write the report again, which then says whether the selection trains better.

    Returns:
        Whether there is one.
    """
    from ..recipes.recipe import recorded_recipe
    from ..reports.summary import Summary
    from ..runs.manifest import FILE
    from ..runs.store import Store

    if not Store(folder).has(FILE):
        return False
    if name is None:
        recipe = recorded_recipe(folder)
        if recipe is None or not recipe.select:
            return False
    elif name not in named_selections(folder):
        return False
    write_run_page(Summary(selection_in(folder, name)), selection_folder(folder, name))
    return True
