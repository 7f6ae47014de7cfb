"""Read, show and report run folders, for several commands.

A run folder is text here: a local path or an fsspec URL.
"""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NotFoundError, SuperfilterError, did_you_mean
from ._terminal import show, show_end, show_next

if TYPE_CHECKING:
    from datasets import Dataset

    from ..reports.summary import Summary
    from ..selection.funnel import Selection

SELECTIONS, SELECTORS = "selections", "select.yaml"  # a folder of a run, a file of a selection
NOTE = "note.json"  # what stands on top of a selection's page


def run_recipe(recipe: Any, folder: str, expect_processes: int | None = None) -> "Selection | None":
    """Run a recipe, show what came out, and write the report.

    Returns:
        The selection; None on all processes of a launch but the main one.
    """
    from ..reports.summary import Summary

    selection: Selection | None = recipe.run(folder, expect_processes=expect_processes)
    if selection is None:
        return None
    summary = Summary(selection)
    show_summary(summary, folder)
    report_losses(folder)
    write_run_page(summary, folder)
    fail_if_all_undefined(folder)
    return selection


def show_selection_end(
    selection: "Selection", run: str, name: str | None = None, *, selected: str | None = None
) -> None:
    """End a command that selected in a run: rows kept, files, and how to publish them.

    Where nothing is kept there is nothing to publish: the next command selects again.
    """
    folder = selection_folder(run, name)
    file = selected or in_folder(folder, "selected.parquet")
    option = name_option(name)
    following = ["publish", run, "user/name", *option, "--dry-run"]
    if not len(selection):
        by = ["--by", selection.ranked_by] if selection.ranked_by else []
        following = ["select", run, *by, "--k", "10%", *option]
    show_end(
        f"kept {len(selection.rows):,} of {len(selection.table):,} rows, best first",
        f"selected rows: {file}, report: {in_folder(folder, 'report.html')}",
        *following,
    )


def show_forecast(recipe: Any, folder: str) -> None:
    """Say what a recipe would do, from a few measured rows, and write nothing."""
    show_scoring_ahead(recipe, folder)
    show_nothing_written(folder)


def show_nothing_written(folder: str) -> None:
    """End a dry run."""
    show(f"nothing was written (--dry-run); the folder would be {folder}")


def show_scoring_ahead(recipe: Any, folder: str) -> None:
    """Say what a recipe would score and select, from a few measured rows."""
    from ..base import as_scorer
    from ..runs.forecast import forecast
    from ..runs.progress import rows_left

    pairs, _ = recipe.load_pairs()
    for scorer in map(as_scorer, recipe.score):
        left = rows_left(folder, scorer.name, len(pairs))
        if left is not None and not len(left):
            show(f"{scorer.name}: {len(pairs):,} rows, scored already")
        else:
            show(forecast(scorer, pairs, left=left, thorough=True))
    if recipe.select:
        show("then select: " + ", ".join(map(repr, recipe.select)))


def find_recipe(recipe: str, *, allow_endpoint: bool = False) -> Any:
    """Read a recipe file, or the recipe of a short name."""
    from ..hub.subsets import load_recipe
    from ..recipes.recipe import Recipe

    is_path = Path(recipe).name != recipe or recipe.endswith((".yaml", ".yml"))
    if is_path or Path(recipe).exists():
        return Recipe.read(recipe)
    return load_recipe(recipe, allow_endpoint=allow_endpoint)


def in_folder(folder: str, name: str) -> str:
    """Return the path of a file of a run folder."""
    return f"{folder.rstrip('/')}/{name}"


def scored_rows(run: str) -> "Dataset":
    """Load the scored rows of a run folder."""
    from datasets import Dataset

    from ..data.sources import load_rows
    from ..recipes.recipe import FILE, SCORED
    from ..runs.chunks import read_parquet
    from ..runs.manifest import read_manifest
    from ..runs.store import Store

    store = Store(run)
    if store.has(SCORED) and store.exclusive:
        return load_rows(store.path(SCORED))
    if store.has(SCORED):
        return Dataset(read_parquet(store.read(SCORED)))
    scorers = read_manifest(run)["scorers"].values()
    if store.has(FILE) or not all("seconds" in scorer for scorer in scorers):
        raise NotFoundError(
            f"{run!r} is a run, but holds no {SCORED} yet: finish it with score or run"
        )
    raise NotFoundError(
        f"{run!r} holds scores but not their rows (no {SCORED}), as score() in Python leaves it: "
        f"select there, with select(table, selectors, run={run!r}), or make the folder with "
        "hf-superfilter score or run"
    )


def selection_folder(run: str, name: str | None) -> str:
    """Return the folder of a named selection of a run; without a name the run's own."""
    return run if name is None else in_folder(run, f"{SELECTIONS}/{name}")


def name_option(name: str | None) -> list[str]:
    """Return the option that names a selection in a command to go on with."""
    return ["--name", name] if name else []


def refuse_name(name: str | None) -> None:
    """Refuse the name of a selection where there is no run folder to hold it."""
    if name is not None:
        raise SuperfilterError(f"--name {name}: only a run folder holds selections by name")


def named_selections(run: str) -> list[str]:
    """List the names of a run's named selections."""
    from ..runs.store import Store

    store = Store(run)
    return sorted(
        name for name in store.names(SELECTIONS) if store.has(f"{SELECTIONS}/{name}/{SELECTORS}")
    )


def selection_in(run: str, name: str | None = None) -> "Selection":
    """Select again as a run folder records: as its named selection, or as its own."""
    from ..recipes.recipe import recorded_recipe, recorded_source_columns
    from ..recipes.row_columns import select_in_run

    columns = recorded_source_columns(run)  # says so where the folder is no run
    if name is not None:
        selectors = _recorded_selectors(run, name)
        return select_in_run(scored_rows(run), selectors, run, source_columns=columns)
    table, recipe = scored_rows(run), recorded_recipe(run)
    if recipe is None or not recipe.select:
        call = shlex.join(["hf-superfilter", *_select_best(run)])
        raise SuperfilterError(
            f"nothing was selected in {run!r} yet{_list_names(run)}: call {call}"
        )
    return select_in_run(table, recipe.select, run, source_columns=columns)


def _list_names(run: str) -> str:
    names = named_selections(run)
    return f" without a name (named: {', '.join(names)})" if names else ""


def _recorded_selectors(run: str, name: str) -> tuple[Any, ...]:
    from ..recipes.entries import build_all
    from ..runs.store import Store
    from ..yaml_io import load_yaml

    names = named_selections(run)
    if name not in names:
        raise NotFoundError(f"{run!r} has no selection {name!r}: {did_you_mean(name, names)}")
    text = Store(run).read(f"{SELECTIONS}/{name}/{SELECTORS}").decode()
    return build_all(load_yaml(text, f"the selection {name!r}"), "select")


def record_selectors(run: str, selectors: list[Any], name: str | None = None) -> None:
    """Record the selectors of a selection, and say where they replace others.

    Without a name they stand in the run's recorded recipe, where it has one.
    """
    from ..recipes.entries import as_entry
    from ..recipes.recipe import FILE, recorded_recipe
    from ..runs.store import Store
    from ..yaml_io import dump_yaml

    if name is not None:
        if name in named_selections(run):
            _say_replaced(repr(name), _recorded_selectors(run, name), selectors)
        text = dump_yaml([as_entry(selector) for selector in selectors])
        Store(run).write(f"{SELECTIONS}/{name}/{SELECTORS}", text.encode())
        return
    recipe = recorded_recipe(run)
    if recipe is not None:
        if recipe.select:
            _say_replaced("without a name", recipe.select, selectors)
        Store(run).write(FILE, replace(recipe, select=tuple(selectors)).to_yaml().encode())


def _say_replaced(which: str, before: Any, after: Any) -> None:
    if tuple(before) != tuple(after):
        listed = ", ".join(map(repr, before))
        show(f"replaced the selection {which}, {listed}; --name NAME keeps several")


def show_summary(summary: "Summary", folder: str) -> None:
    """Show a selection's summary, and write it into the folder."""
    from ..reports.text import summary_text
    from ..runs.store import Store

    text = summary_text(summary)
    Store(folder).write("summary.txt", text.encode())
    show(text)


def write_run_page(summary: "Summary", folder: str) -> None:
    """Write `report.html`, with the note on top that was recorded for this selection."""
    from ..reports.page import write_page
    from ..reports.plots import selection_plots
    from ..runs.store import Store

    note = _recorded_note(summary.selection, folder)
    with Store(folder).file("report.html") as unfinished:
        write_page(summary, selection_plots(summary.selection), unfinished, note=note)


def record_note(selection: "Selection", folder: str, note: dict[str, Any]) -> None:
    """Record what every page about a selection says on top: sentences and a table."""
    from ..runs.store import Store

    facts = {"selectors": [step.selector for step in selection.steps], **note}
    Store(folder).write(NOTE, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _recorded_note(selection: "Selection", folder: str) -> dict[str, Any] | None:
    from ..runs.store import Store

    store = Store(folder)
    if not store.has(NOTE):
        return None
    try:
        facts: dict[str, Any] = json.loads(store.read(NOTE))
        recorded = facts["selectors"]
    except (ValueError, KeyError, TypeError):  # damaged: the page does without
        return None
    return facts if recorded == [step.selector for step in selection.steps] else None


def report_losses(folder: str) -> None:
    """Plot the training loss of scorers that were trained, beside their scores."""
    from ..reports.plots import loss_plots
    from ..reports.summary import training_losses
    from ..runs.manifest import read_manifest
    from ..runs.store import Store

    store = Store(folder)
    for name, plot in loss_plots(training_losses(store, read_manifest(folder))).items():
        store.write(f"{name}/loss.png", plot.png)
        show(f"training loss: {in_folder(folder, f'{name}/loss.png')}")


def show_manifest(folder: str) -> None:
    """Show a run's manifest as YAML, and in front of it how far an unfinished run is."""
    from ..runs.manifest import read_manifest
    from ..runs.progress import unfinished_scorers
    from ..yaml_io import dump_yaml

    for progress in unfinished_scorers(folder):
        show(f"# unfinished: {progress}; the same command goes on")
    show(dump_yaml(read_manifest(folder)).rstrip())
    show_next(*_select_best(folder))


def _select_best(run: str) -> list[str]:
    """Return the arguments that keep the best tenth of a run by its first scorer."""
    from ..runs.manifest import read_manifest

    scorers = read_manifest(run)["scorers"].values()
    mains = [str(scorer["main"]) for scorer in scorers if "main" in scorer]  # the finished ones
    by = ["--by", mains[0]] if mains else []
    return ["select", run, *by, "--k", "10%"]


def describe_scores(folder: str, name: str) -> tuple[str, str]:
    """Say in one line what a scorer of a run scored, by what model, and how long it took.

    Returns:
        The line, and the column to rank by.
    """
    from ..runs.manifest import read_manifest

    entry = read_manifest(folder)["scorers"][name]
    model = entry.get("made_with", {}).get("model")
    by = f" by {model}" if model else ""
    undefined = entry.get("undefined", 0)
    missing = f", {undefined:,} undefined" if undefined else ""
    line = f"{name}: {entry['rows']:,} rows scored{by} in {entry['seconds']:,.1f} s{missing}"
    return line, str(entry["main"])


def fail_if_all_undefined(folder: str) -> None:
    """Refuse a run in which some scorer has no value at all."""
    from ..runs.manifest import read_manifest

    for name, scorer in read_manifest(folder)["scorers"].items():
        if "undefined" in scorer and scorer["undefined"] == scorer["rows"]:
            status = scorer.get("status", "no reason recorded")
            remedy = ""
            if "no_prompt" in status:
                remedy = ": where there is no prompt, as in plain text, score with Perplexity"
            raise SuperfilterError(f"every row of {name!r} is undefined ({status}){remedy}")
