"""What the commands share: reading a run folder, printing and reporting what was selected, writing rows to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from ..funnel import Selection

WRITERS: dict[str, Any] = {
    ".parquet": lambda rows, path: rows.to_parquet(path),
    ".jsonl": lambda rows, path: rows.to_json(path, force_ascii=False),
    ".csv": lambda rows, path: rows.to_csv(path),
}


def run_recipe(recipe: Any, folder: Path) -> None:
    """Run a recipe, print what came out, and write the report."""
    selection = recipe.run(folder)
    print_summary(selection, folder)
    print("files: " + ", ".join(str(folder / name) for name in ("scored.parquet", "selected.parquet", "summary.txt")))
    write_and_name_report(selection, folder)
    fail_if_all_undefined(folder)


def scored_rows(run: Path) -> "Dataset":
    """The scored rows of a run folder."""
    from ..recipe import FILE, SCORED
    from ..record import read_record
    from ..sources import load_rows

    if (run / SCORED).is_file():
        return load_rows(run / SCORED)
    if (run / FILE).is_file() or not all("seconds" in scorer for scorer in read_record(run)["scorers"].values()):
        raise FileNotFoundError(f"{str(run)!r} is a run, but holds no {SCORED} yet: finish it with score or run")
    raise FileNotFoundError(
        f"{str(run)!r} holds scores but not their rows (no {SCORED}), as score() in Python leaves it: select there, "
        f"with select(table, selectors, run={str(run)!r}), or make the folder with hf-superfilter score or run"
    )


def selection_in(run: Path) -> "Selection":
    """The selection that was made in a run folder."""
    from ..funnel import select as select_rows
    from ..recipe import recorded_recipe
    from ..record import read_record

    read_record(run)
    table, recipe = scored_rows(run), recorded_recipe(run)
    if recipe is None or not recipe.select:
        raise ValueError(f"nothing was selected in {str(run)!r} yet: call hf-superfilter select {run} --k 0.10")
    return select_rows(table, recipe.select, run=run)


def record_selectors(run: Path, selectors: list[Any]) -> None:
    """The run's recipe, where it has one, now ends in these selectors."""
    from dataclasses import replace

    from ..recipe import FILE, recorded_recipe
    from ..whole_files import whole_file

    recipe = recorded_recipe(run)
    if recipe is not None:
        with whole_file(run / FILE) as unfinished:
            unfinished.write_text(replace(recipe, select=tuple(selectors)).to_yaml(), encoding="utf-8")


def print_summary(selection: "Selection", folder: Path) -> None:
    """Print a selection's summary, and keep it in the folder."""
    from ..report import summarise
    from ..whole_files import whole_file

    text = summarise(selection)
    with whole_file(folder / "summary.txt") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(text)


def write_and_name_report(selection: "Selection", folder: Path) -> None:
    """Write `report.html` and print where it is."""
    from ..report import write_report

    print(f"report: {write_report(selection, folder / 'report.html')}")


def print_record(folder: Path) -> None:
    """Print a run's record as YAML."""
    import yaml

    from ..record import read_record

    print(yaml.safe_dump(read_record(folder), sort_keys=False, allow_unicode=True).rstrip())


def fail_if_all_undefined(folder: Path) -> None:
    """Refuse a run of which some scorer has no value at all."""
    from ..record import read_record

    for name, scorer in read_record(folder)["scorers"].items():
        if "undefined" in scorer and scorer["undefined"] == scorer["rows"]:
            raise ValueError(f"every row of {name!r} is undefined ({scorer.get('status', 'no reason recorded')})")


def check_suffix(target: Path) -> None:
    """Refuse a file of a kind that cannot be written."""
    if target.suffix not in WRITERS:
        raise ValueError(f"cannot write {str(target)!r}: give a file ending in {', '.join(WRITERS)}")


def write_rows(rows: "Dataset", target: Path) -> None:
    """Write rows to a file of the kind that its name says."""
    from ..whole_files import whole_file

    with whole_file(target) as unfinished:
        WRITERS[target.suffix](rows, str(unfinished))
