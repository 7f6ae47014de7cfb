"""Take rows out before anything is scored or selected, and select from the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_count, plain_number
from ..errors import NotFoundError, SuperfilterError, WrongTypeError
from ..recipes.entries import build
from ..recipes.recipe import FILE, SCORED, Recipe
from ..runs.chunks import read_parquet
from ..runs.distributed import broadcast
from ..runs.manifest import read_manifest, record_source
from ..runs.prepare import was_prepared
from ..runs.runner import score
from ..runs.store import Store
from ..selection._budget import count_of
from ..selection.funnel import Selection, select
from ..selection.random_sample import RandomSample
from .rows import Split, split_rows, text_of

if TYPE_CHECKING:
    from datasets import Dataset

MOST_HELD_OUT, HELD_OUT_PART = 1_500, 4  # rows by default: 1,500, at most a quarter of all
LARGER_PART = 1.1  # of the rows than of all, which a fixed number may take without a word
FEW_SHARED = 0.01  # of the rows held out, whose prompts others may have without a word
MOST_TUNING, TUNING_PART, LEAST_TUNING = 300, 10, 16


@dataclass(frozen=True, eq=False)
class Material:
    """Hold the rows of a validation.

    Attributes:
        table: scored rows that may be trained on.
        selected: (k,) row numbers in `table`.
        pool: (p,) row numbers of `table` in the source.
        held_out: rows to measure on, of the same source.
        tuning: rows that the learning rate is chosen on.
        numbers: (h,) row numbers of `held_out` in the source.
        notes: what the reader of the result has to know.
        selectors: the Python of each selector, by which a report knows the selection.
        in_table: whether the table of the run holds the rows held out too.
    """

    table: "Dataset"
    selected: np.ndarray
    pool: np.ndarray
    held_out: "Dataset"
    tuning: "Dataset"
    numbers: np.ndarray
    notes: tuple[str, ...]
    selectors: tuple[str, ...]
    in_table: bool


def material_of(
    selection: "Selection | Recipe", folder: str, held_out: int | float | None, seed: int
) -> Material:
    """Hold rows out of a selection's table, or of a recipe's rows before they are scored.

    All processes of a launch have to call it.

    Args:
        selection: what was selected, or a recipe that says how.
        folder: the run folder that a recipe scores into.
        held_out: a number of rows, or a share of all; None is 1,500, at most a quarter of all.
        seed: of the draw.

    Raises:
        SuperfilterError: too few rows, nothing selected, or rows without prompt and response.
    """
    if isinstance(selection, Recipe):
        return _of_recipe(selection, folder, held_out, seed)
    if isinstance(selection, Selection):
        return _of_selection(selection, held_out, seed)
    raise WrongTypeError(
        f"validate takes what select(...) returns or a Recipe, and got {type(selection).__name__}"
    )


def _of_recipe(recipe: Recipe, folder: str, held_out: int | float | None, seed: int) -> Material:
    if not recipe.select:
        raise SuperfilterError("the recipe selects nothing: it needs selectors to be validated")
    pairs, source = recipe.load_pairs()
    _check_pairs(pairs)
    split = split_rows(pairs, *_sizes(held_out, len(pairs)), seed)
    pool = pairs.select(split.pool)
    table = _scored(recipe, pool, source, folder)
    selection = select(table, recipe.select, run=folder, source_columns=source["columns"])
    notes = ["rows were held out before anything was scored or selected"]
    notes += _notes_on_budgets(selection, len(pool), len(pairs))
    return _material(selection, selection.rows, pairs, split, notes, in_table=False)


def stand_in_of(recipe: Recipe, held_out: int | float | None, seed: int) -> Material:
    """Hold rows out of a recipe's rows, with random rows for those that it will select.

    As many rows as its selectors keep at most: nothing is scored, so which ones is not known.
    """
    pairs, _ = recipe.load_pairs()
    _check_pairs(pairs)
    split = split_rows(pairs, *_sizes(held_out, len(pairs)), seed)
    pool = pairs.select(split.pool)
    budgets = [getattr(selector, "k", None) for selector in recipe.select]
    counts = [count_of(k, len(pool)) for k in budgets if k is not None]
    stand_in = select(pool, RandomSample(min([len(pool), *counts]), seed=seed))
    return _material(stand_in, stand_in.rows, pairs, split, [], in_table=False)


def _scored(recipe: Recipe, pool: "Dataset", source: dict[str, Any], folder: str) -> "Dataset":
    """Score rows into a run folder; every process of a launch returns the table."""
    from datasets import Dataset

    store = Store(folder)
    table = score(pool, recipe.score, folder, max_unreadable=recipe.max_unreadable)
    if table is not None:
        record_source(store, source)
        with store.file(SCORED) as unfinished:
            table.to_parquet(str(unfinished))
        store.write(FILE, recipe.to_yaml().encode())
    broadcast(None)  # the other processes read what the main one wrote
    if table is None:
        table = Dataset(read_parquet(store.read(SCORED)))
    broadcast(None)  # the main one may then score another recipe into the folder
    return table


def _of_selection(selection: Selection, held_out: int | float | None, seed: int) -> Material:
    table = selection.table.with_format(None)
    _check_pairs(table)
    split = split_rows(table, *_sizes(held_out, len(table)), seed)
    pool = table.select(split.pool)
    if can_select_again(selection):
        rows = select_again(selection, pool)
        notes = ["rows were held out before anything was selected"]
        notes += _notes_on_budgets(selection, len(pool), len(table))
    else:
        rows = places_in(split.pool, selection.rows, len(table))
        notes = [
            "the selection is the one that was made on all rows, without those held out: its "
            "selectors are functions that cannot be written down"
        ]
    notes += _notes_on_scorers(selection.run)
    return _material(replace(selection, table=pool), rows, table, split, notes, in_table=True)


def can_select_again(selection: Selection) -> bool:
    """Tell whether all selectors can be written down, and so applied to other rows."""
    return bool(selection.steps) and all(step.entry is not None for step in selection.steps)


def select_again(selection: Selection, table: "Dataset") -> np.ndarray:
    """Apply a selection's selectors to the rows that are not held out."""
    return select(table, [build(step.entry, "select") for step in selection.steps]).rows


def places_in(pool: np.ndarray, rows: np.ndarray, total: int) -> np.ndarray:
    """Translate row numbers of a whole table to places in a part of it.

    Args:
        pool: (p,) row numbers of the part.
        rows: (k,) row numbers.
        total: rows of the whole table.

    Returns:
        The places of those that are in the part, in their order.
    """
    place = np.full(total, -1, dtype=np.int64)
    place[pool] = np.arange(len(pool))
    places: np.ndarray = place[rows]
    return places[places >= 0]


def _notes_on_budgets(selection: Selection, rows: int, total: int) -> list[str]:
    """Say that a fixed number of rows or tokens is a larger part of the rows not held out."""
    if total <= LARGER_PART * rows:
        return []
    fixed = []
    for step in selection.steps:
        selector = None if step.entry is None else build(step.entry, "select")
        budgets = [getattr(selector, name, None) for name in ("k", "tokens")]
        if any(map(is_count, budgets)):
            fixed.append(step.selector)
    return [
        f"{selector}: its fixed number is {total / rows:.2f} times as large a part of the {rows:,} "
        f"rows that are not held out as of all {total:,}, so rows are trained on that would not be "
        "selected of all: give a share, or hold fewer rows out"
        for selector in fixed
    ]


def _notes_on_scorers(run: "Path | str | None") -> list[str]:
    """Name the scorers that looked at all rows before they scored the first."""
    if run is None:
        return []
    try:
        scorers = read_manifest(run)["scorers"]
    except NotFoundError:
        return []
    names = [name for name, entry in scorers.items() if was_prepared(run, name, entry)]
    if not names:
        return []
    return [
        f"{', '.join(names)} looked at the rows held out as well when it scored: validate the "
        "recipe to hold them out before"
    ]


def _material(
    selection: Selection,
    rows: np.ndarray,
    whole: "Dataset",
    split: Split,
    notes: Sequence[str],
    *,
    in_table: bool,
) -> Material:
    if not len(rows):
        raise SuperfilterError(
            "nothing was selected of the rows that are not held out: hold fewer out, or select more"
        )
    parts = list(notes)
    if split.repeated:
        parts.append(
            f"{split.repeated} rows are left out, because a row held out, or a turn of it, has the "
            "same prompt and response"
        )
    parts += _notes_on_prompts(whole, split)
    return Material(
        selection.table,
        np.asarray(rows, dtype=np.int64),
        split.pool,
        whole.select(split.held_out),
        whole.select(split.tuning),
        split.held_out,
        tuple(parts),
        tuple(step.selector for step in selection.steps),
        in_table,
    )


def _notes_on_prompts(whole: "Dataset", split: Split) -> list[str]:
    """Say how many rows held out have a prompt that is trained on with another response."""
    prompts = whole.select_columns(["prompt"]).with_format(None)
    trained = {text_of(row["prompt"]) for row in prompts.select(split.pool)} - {""}
    shared = sum(text_of(row["prompt"]) in trained for row in prompts.select(split.held_out))
    if shared <= FEW_SHARED * len(split.held_out):
        return []
    return [
        f"{shared} of the {len(split.held_out)} rows held out have the prompt of rows that "
        "students may be trained on, with another response: an arm that holds more of them looks "
        "better"
    ]


def _check_pairs(table: "Dataset") -> None:
    missing = [name for name in ("prompt", "response") if name not in table.column_names]
    if missing:
        raise SuperfilterError(
            f"the rows have no column {missing[0]!r}: a student trains on prompt and response; "
            "make them with format_pairs before they are scored"
        )


def _sizes(held_out: int | float | None, rows: int) -> tuple[int, int]:
    """Return how many rows are held out to measure on, and to tune on."""
    tuning = min(MOST_TUNING, max(LEAST_TUNING, rows // TUNING_PART))
    held_out = plain_number(held_out)
    if held_out is None:
        return min(MOST_HELD_OUT, rows // HELD_OUT_PART), tuning
    is_share = isinstance(held_out, float) and 0 < held_out < 1
    if not is_share and not is_count(held_out):
        raise SuperfilterError(
            f"held_out={held_out!r}: give a number of rows, or a share of all rows between 0 and 1"
        )
    return int(held_out * rows) if is_share else int(held_out), tuning
