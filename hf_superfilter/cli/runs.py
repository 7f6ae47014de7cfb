"""demo, run, recipes, score, select, report, inspect: from rows to a selection in a run folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import did_you_mean
from ._run_folders import (
    check_suffix,
    fail_if_all_undefined,
    in_folder,
    print_record,
    print_summary,
    record_selectors,
    run_recipe,
    scored_rows,
    selection_in,
    write_and_name_losses,
    write_and_name_report,
    write_rows,
)

DEMO = """
dataset: embedded:sample
score:
  - IFD: {model: "embedded:strong"}
  - Length
select:
  - Threshold: {by: ifd, below: 1.0}
  - TopK: {by: ifd, k: 0.15}
"""
GPT2 = "openai-community/gpt2"
Folder = Annotated[
    str, typer.Option(help="The run folder: a path or an fsspec URL, s3://bucket/run.")
]
Expected = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse to run if the launcher started another number of processes."),
]


def demo(folder: Folder = "runs/demo") -> None:
    """Score the embedded sample with the embedded model and keep the best 15%; needs no network."""
    from ..recipes.recipe import Recipe

    run_recipe(Recipe.from_yaml(DEMO), folder)


def run(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a name that hf-superfilter recipes lists.")
    ],
    folder: Annotated[
        str | None,
        typer.Option(
            help="The run folder, a path or an fsspec URL; by default runs/<the recipe's name>."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Another data set: a file, a folder or a Hub id.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="How its rows are laid out.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model for every scorer that names one.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="k=0.05, or IFD.model=gpt2: another value; may be repeated."),
    ] = None,
    expect_processes: Expected = None,
) -> None:
    """Load, format, score and select as a recipe says.

    Run it again and it goes on where it stopped; any number of processes may work on one folder at once.
    """
    from ..hub.subsets import load_recipe
    from ..recipes.overrides import varied
    from ..recipes.recipe import Recipe

    named = (
        not Path(recipe).exists()
        and Path(recipe).name == recipe
        and not recipe.endswith((".yaml", ".yml"))
    )
    told = ({"model": model} if model else {}) | dict(map(_setting, settings or []))
    chosen = varied(
        load_recipe(recipe) if named else Recipe.read(recipe),
        dataset=dataset, format=format, split=split, settings=told,
    )  # fmt: skip
    run_recipe(chosen, folder or f"runs/{Path(recipe).stem}", expect_processes)


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe, to be saved and changed.")
    ] = None,
) -> None:
    """List the recipes of the package, one a method, with their models; or print one."""
    from ..recipes.catalogue import packaged_recipes
    from ..yaml_io import load_yaml

    files = packaged_recipes()
    if name is not None:
        if name not in files:
            raise FileNotFoundError(
                f"no recipe {name!r} in the package: {did_you_mean(name, files)}"
            )
        print(files[name].read_text(encoding="utf-8").rstrip())
        return
    for stem, file in files.items():
        text = file.read_text(encoding="utf-8")
        scorers = [entry for entry in load_yaml(text)["score"] if isinstance(entry, dict)]
        models = {
            str(told["model"]): None
            for entry in scorers
            for told in entry.values()
            if "model" in told
        }
        print(
            f"{stem:20} {text.splitlines()[0].removeprefix('# ')} [{', '.join(models) or 'no model'}]"
        )
    print(
        "\nhf-superfilter run NAME runs one, --dataset and --model say on what; recipes NAME prints it"
    )


def score(
    data: Annotated[str, typer.Argument(help="A file (json, jsonl, csv, parquet), a local folder or a Hub id.")],
    model: Annotated[str, typer.Option(help="A Hub id, a model folder, embedded:weak or embedded:strong.")] = GPT2,
    scorer: Annotated[str, typer.Option(help="IFD, Perplexity, LearningPercentage or Length.")] = "IFD",
    folder: Folder = "runs/score",
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    format: Annotated[str, typer.Option(help="How the rows are laid out; auto looks at the columns.")] = "auto",
    template: Annotated[str, typer.Option(help="none, alpaca, or your own with {instruction}.")] = "none",
    expect_processes: Expected = None,
) -> None:  # fmt: skip
    """Add score columns to a data set, in FOLDER/scored.parquet, beside those of earlier scorers there.

    Run it again and it goes on where it stopped; any number of processes may work on one folder at once.
    """
    from ..recipes.recipe import Recipe, build, recorded_recipe

    chosen = build(scorer if scorer == "Length" else {scorer: {"model": model}}, "score")
    asked = Recipe(data, (chosen,), split=split, format=format, template=template)
    if (
        asked.beside(recorded_recipe(folder)).score_rows(folder, expect_processes=expect_processes)
        is None
    ):
        return  # of several processes that were launched, the main one goes on
    print_record(folder)
    print(f"scores: {in_folder(folder, 'scored.parquet')}")
    write_and_name_losses(folder)
    fail_if_all_undefined(folder)


def select(
    data: Annotated[
        str, typer.Argument(help="A run folder, or any file or data set with a numeric column.")
    ],
    by: Annotated[str, typer.Option(help="The column to rank by.")] = "ifd",
    k: Annotated[
        str | None, typer.Option(help="Rows to keep: 500 is a count, 0.10 a share of all rows.")
    ] = None,
    below: Annotated[float | None, typer.Option(help="First keep only values below this.")] = None,
    above: Annotated[float | None, typer.Option(help="First keep only values above this.")] = None,
    smallest: Annotated[
        bool, typer.Option("--smallest", help="With --k, keep the smallest values.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="The file to write: .parquet, .jsonl or .csv.")
    ] = None,
) -> None:
    """Keep the best rows of a scored data set, in selected.parquet (of a run: in its folder, with a report)."""
    from ..data.sources import load_rows
    from ..reports.html import summarise
    from ..runs.store import Store
    from ..selection.funnel import select as select_rows
    from ..selection.threshold import Threshold
    from ..selection.top_k import TopK

    run = data if Store(data).has("run.json") else None
    target = to or Path("selected.parquet")
    check_suffix(target)
    selectors: list[Any] = []
    if below is not None or above is not None:
        selectors.append(Threshold(by, below=below, above=above))
    if k is not None:
        selectors.append(TopK(by, _budget(k), largest=not smallest))
    elif smallest or not selectors:
        raise ValueError(
            "no budget to select by: give --k, 500 or 0.10; or --below or --above, without --smallest"
        )
    selection = select_rows(
        scored_rows(run) if run else load_rows(data, split=split), selectors, run=run
    )
    if not run or to:
        write_rows(selection.subset, target)
        print(summarise(selection))
        print(f"selected rows: {target}")
        return
    with Store(run).file("selected.parquet") as unfinished:
        selection.subset.to_parquet(str(unfinished))
    record_selectors(run, selectors)
    print_summary(selection, run)
    print(f"selected rows: {in_folder(run, 'selected.parquet')}")
    write_and_name_report(selection, run)


def report(
    folder: Annotated[str, typer.Argument(help="A run folder in which rows were selected.")],
) -> None:
    """Write FOLDER/report.html: one page with funnel, scores, examples, baselines, cost and recipe."""
    write_and_name_report(selection_in(folder), folder)


def inspect(folder: Annotated[str, typer.Argument(help="A run folder.")]) -> None:
    """Say what a run folder holds: scorers, models, statuses, cost."""
    print_record(folder)


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    from ..yaml_io import load_yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--set {text!r}: give an argument and its value, such as k=0.05")
    try:
        return name, load_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text!r}: {value!r} is no value") from error


def _budget(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise ValueError(
            f"--k {text!r}: give a count such as 500 or a share such as 0.10"
        ) from error
