"""What the commands share: reading a run folder, printing and reporting what was selected, writing rows to a file.

A run folder is text here: a local path or an fsspec URL.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from ..selection.funnel import Selection

WRITERS: dict[str, Any] = {
    ".parquet": lambda rows, path: rows.to_parquet(path),
    ".jsonl": lambda rows, path: rows.to_json(path, force_ascii=False),
    ".csv": lambda rows, path: rows.to_csv(path),
}


def run_recipe(recipe: Any, folder: str, expect_processes: int | None = None) -> bool:
    """Run a recipe, print what came out, and write the report.

    Returns:
        Whether this process did so: of several that were launched only the main one has the table.
    """
    selection = recipe.run(folder, expect_processes=expect_processes)
    if selection is None:
        return False
    print_summary(selection, folder)
    files = ("scored.parquet", "selected.parquet", "summary.txt")
    print("files: " + ", ".join(in_folder(folder, name) for name in files))
    write_and_name_losses(folder)
    write_and_name_report(selection, folder)
    fail_if_all_undefined(folder)
    return True


def in_folder(folder: str, name: str) -> str:
    """Where a file of a run folder is, to be printed."""
    return f"{folder.rstrip('/')}/{name}"


def scored_rows(run: str) -> "Dataset":
    """The scored rows of a run folder."""
    from ..data.sources import load_rows
    from ..recipes.recipe import FILE, SCORED
    from ..runs.manifest import read_manifest
    from ..runs.store import Store

    store = Store(run)
    if store.has(SCORED):
        return load_rows(store.path(SCORED)) if store.exclusive else _from_bytes(store.read(SCORED))
    if store.has(FILE) or not all(
        "seconds" in scorer for scorer in read_manifest(run)["scorers"].values()
    ):
        raise FileNotFoundError(
            f"{run!r} is a run, but holds no {SCORED} yet: finish it with score or run"
        )
    raise FileNotFoundError(
        f"{run!r} holds scores but not their rows (no {SCORED}), as score() in Python leaves it: select there, "
        f"with select(table, selectors, run={run!r}), or make the folder with hf-superfilter score or run"
    )


def _from_bytes(parquet: bytes) -> "Dataset":
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(pa.BufferReader(parquet)))


def selection_in(run: str) -> "Selection":
    """The selection that was made in a run folder."""
    from ..recipes.recipe import recorded_recipe
    from ..runs.manifest import read_manifest
    from ..selection.funnel import select as select_rows

    read_manifest(run)
    table, recipe = scored_rows(run), recorded_recipe(run)
    if recipe is None or not recipe.select:
        raise ValueError(
            f"nothing was selected in {run!r} yet: call hf-superfilter select {run} --k 0.10"
        )
    return select_rows(table, recipe.select, run=run)


def record_selectors(run: str, selectors: list[Any]) -> None:
    """The run's recipe, where it has one, now ends in these selectors."""
    from dataclasses import replace

    from ..recipes.recipe import FILE, recorded_recipe
    from ..runs.store import Store

    recipe = recorded_recipe(run)
    if recipe is not None:
        Store(run).write(FILE, replace(recipe, select=tuple(selectors)).to_yaml().encode())


def print_summary(selection: "Selection", folder: str) -> None:
    """Print a selection's summary, and keep it in the folder."""
    from ..reports.html import summarise
    from ..runs.store import Store

    text = summarise(selection)
    Store(folder).write("summary.txt", text.encode())
    print(text)


def write_and_name_report(selection: "Selection", folder: str) -> None:
    """Write `report.html` and print where it is."""
    from ..reports.html import write_report
    from ..runs.store import Store

    with Store(folder).file("report.html") as unfinished:
        write_report(selection, unfinished)
    print(f"report: {in_folder(folder, 'report.html')}")


def write_and_name_losses(folder: str) -> None:
    """Draw the training loss of the scorers that were trained, beside their scores, and print where it is."""
    from ..reports.plots import loss_pictures
    from ..runs.store import Store

    for name, picture in loss_pictures(folder).items():
        Store(folder).write(f"{name}/loss.png", picture.png)
        print(f"training loss: {in_folder(folder, f'{name}/loss.png')}")


def print_record(folder: str) -> None:
    """Print a run's record as YAML."""
    from ..runs.manifest import read_manifest
    from ..yaml_io import dump_yaml

    print(dump_yaml(read_manifest(folder)).rstrip())


def fail_if_all_undefined(folder: str) -> None:
    """Refuse a run of which some scorer has no value at all."""
    from ..runs.manifest import read_manifest

    for name, scorer in read_manifest(folder)["scorers"].items():
        if "undefined" in scorer and scorer["undefined"] == scorer["rows"]:
            raise ValueError(
                f"every row of {name!r} is undefined ({scorer.get('status', 'no reason recorded')})"
            )


def check_suffix(target: Path) -> None:
    """Refuse a file of a kind that cannot be written."""
    if target.suffix not in WRITERS:
        raise ValueError(
            f"cannot write {str(target)!r}: give a file ending in {', '.join(WRITERS)}"
        )


def write_rows(rows: "Dataset", target: Path) -> None:
    """Write rows to a file of the kind that its name says."""
    from ..runs.store import atomic_write

    with atomic_write(target) as unfinished:
        WRITERS[target.suffix](rows, str(unfinished))
