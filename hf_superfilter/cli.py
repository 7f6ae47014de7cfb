"""The command line: demo, score, select, run, report, inspect. Everything else is said in a recipe."""

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from datasets import Dataset

    from .funnel import Selection

app = typer.Typer(
    help="Pick the best part of a data set with a small model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
WRITERS: dict[str, Any] = {
    ".parquet": lambda rows, path: rows.to_parquet(path),
    ".jsonl": lambda rows, path: rows.to_json(path, force_ascii=False),
    ".csv": lambda rows, path: rows.to_csv(path),
}
DEMO = """
dataset: embedded:sample
score:
  - IFD: {model: "embedded:strong"}
  - Length
select:
  - Threshold: {by: ifd, below: 1.0}
  - TopK: {by: ifd, k: 0.15}
"""

# click's error for a wrong command line; typer brings click along or depends on it, by version
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
GPT2 = "openai-community/gpt2"
Folder = Annotated[Path, typer.Option(help="The run folder.")]


@app.command()
def demo(folder: Folder = Path("runs/demo")) -> None:
    """Score the embedded sample with the embedded model and keep the best 15%; needs no network."""
    from .recipe import Recipe

    _run(Recipe.from_yaml(DEMO), folder)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file whose keys are the constructors' arguments.")],
    folder: Annotated[Path | None, typer.Option(help="The run folder; by default runs/<the recipe's name>.")] = None,
) -> None:
    """Load, format, score and select as a recipe says."""
    from .recipe import Recipe

    _run(Recipe.read(recipe), folder or Path("runs") / recipe.stem)


@app.command()
def score(
    data: Annotated[str, typer.Argument(help="A file (json, jsonl, csv, parquet), a local folder or a Hub id.")],
    model: Annotated[str, typer.Option(help="A Hub id, a model folder, embedded:weak or embedded:strong.")] = GPT2,
    scorer: Annotated[str, typer.Option(help="IFD, Perplexity or Length.")] = "IFD",
    folder: Folder = Path("runs/score"),
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    format: Annotated[str, typer.Option(help="How the rows are laid out; auto looks at the columns.")] = "auto",
    template: Annotated[str, typer.Option(help="none, alpaca, or your own with {instruction}.")] = "none",
) -> None:  # fmt: skip
    """Add score columns to a data set, in FOLDER/scored.parquet, beside those of earlier scorers there.

    Run it again and it goes on where it stopped.
    """
    from .recipe import Recipe, build, recorded_recipe

    chosen = build(scorer if scorer == "Length" else {scorer: {"model": model}}, "score")
    asked = Recipe(data, (chosen,), split=split, format=format, template=template)
    asked.beside(recorded_recipe(folder)).score_rows(folder)
    _inspect(folder)
    print(f"scores: {folder / 'scored.parquet'}")
    _fail_if_all_undefined(folder)


@app.command()
def select(
    data: Annotated[str, typer.Argument(help="A run folder, or any file or data set with a numeric column.")],
    by: Annotated[str, typer.Option(help="The column to rank by.")] = "ifd",
    k: Annotated[str | None, typer.Option(help="Rows to keep: 500 is a count, 0.10 a share of all rows.")] = None,
    below: Annotated[float | None, typer.Option(help="First keep only values below this.")] = None,
    above: Annotated[float | None, typer.Option(help="First keep only values above this.")] = None,
    smallest: Annotated[bool, typer.Option("--smallest", help="With --k, keep the smallest values.")] = False,
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    to: Annotated[Path | None, typer.Option(help="The file to write: .parquet, .jsonl or .csv.")] = None,
) -> None:
    """Keep the best rows of a scored data set, in selected.parquet (of a run: in its folder, with a report)."""
    from .funnel import select as select_rows
    from .report import summarise
    from .selection.threshold import Threshold
    from .selection.top_k import TopK
    from .sources import load_rows
    from .whole_files import whole_file

    run = Path(data) if (Path(data) / "run.json").is_file() else None
    target = to or (run or Path()) / "selected.parquet"
    if target.suffix not in WRITERS:
        raise ValueError(f"cannot write {str(target)!r}: give a file ending in {', '.join(WRITERS)}")
    selectors: list[Any] = []
    if below is not None or above is not None:
        selectors.append(Threshold(by, below=below, above=above))
    if k is not None:
        selectors.append(TopK(by, _budget(k), largest=not smallest))
    elif smallest or not selectors:
        raise ValueError("no budget to select by: give --k, 500 or 0.10; or --below or --above, without --smallest")
    selection = select_rows(_scored(run) if run else load_rows(data, split=split), selectors, run=run)
    with whole_file(target) as unfinished:
        WRITERS[target.suffix](selection.subset, str(unfinished))
    if run and not to:
        _record_selectors(run, selectors)
        _summary(selection, run)
    else:
        print(summarise(selection))
    print(f"selected rows: {target}")
    if run and not to:
        _report(selection, run)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder in which rows were selected.")]) -> None:
    """Write FOLDER/report.html: one page with funnel, scores, examples, baselines, cost and recipe."""
    from .funnel import select as select_rows
    from .recipe import recorded_recipe
    from .record import read_record

    read_record(folder)
    table, recipe = _scored(folder), recorded_recipe(folder)
    if recipe is None or not recipe.select:
        raise ValueError(f"nothing was selected in {str(folder)!r} yet: call hf-superfilter select {folder} --k 0.10")
    _report(select_rows(table, recipe.select, run=folder), folder)


@app.command()
def inspect(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Say what a run folder holds: scorers, models, statuses, cost."""
    _inspect(folder)


def _inspect(folder: Path) -> None:
    import yaml

    from .record import read_record

    print(yaml.safe_dump(read_record(folder), sort_keys=False, allow_unicode=True).rstrip())


def _scored(run: Path) -> "Dataset":
    """The scored rows of a run folder."""
    from .recipe import FILE, SCORED
    from .record import read_record
    from .sources import load_rows

    if (run / SCORED).is_file():
        return load_rows(run / SCORED)
    if (run / FILE).is_file() or not all("seconds" in scorer for scorer in read_record(run)["scorers"].values()):
        raise FileNotFoundError(f"{str(run)!r} is a run, but holds no {SCORED} yet: finish it with score or run")
    raise FileNotFoundError(
        f"{str(run)!r} holds scores but not their rows (no {SCORED}), as score() in Python leaves it: select there, "
        f"with select(table, selectors, run={str(run)!r}), or make the folder with hf-superfilter score or run"
    )


def _record_selectors(run: Path, selectors: list[Any]) -> None:
    """The run's recipe, where it has one, now ends in these selectors."""
    from dataclasses import replace

    from .recipe import FILE, recorded_recipe
    from .whole_files import whole_file

    recipe = recorded_recipe(run)
    if recipe is not None:
        with whole_file(run / FILE) as unfinished:
            unfinished.write_text(replace(recipe, select=tuple(selectors)).to_yaml(), encoding="utf-8")


def _summary(selection: "Selection", folder: Path) -> None:
    from .report import summarise
    from .whole_files import whole_file

    text = summarise(selection)
    with whole_file(folder / "summary.txt") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(text)


def _report(selection: "Selection", folder: Path) -> None:
    from .report import write_report

    print(f"report: {write_report(selection, folder / 'report.html')}")


def _run(recipe: Any, folder: Path) -> None:
    selection = recipe.run(folder)
    _summary(selection, folder)
    print("files: " + ", ".join(str(folder / name) for name in ("scored.parquet", "selected.parquet", "summary.txt")))
    _report(selection, folder)
    _fail_if_all_undefined(folder)


def _fail_if_all_undefined(folder: Path) -> None:
    from .record import read_record

    for name, scorer in read_record(folder)["scorers"].items():
        if "undefined" in scorer and scorer["undefined"] == scorer["rows"]:
            raise ValueError(f"every row of {name!r} is undefined ({scorer.get('status', 'no reason recorded')})")


def _budget(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise ValueError(f"--k {text!r}: give a count such as 500 or a share such as 0.10") from error


def main() -> None:
    """Run the command line: 0 when done, 1 with one sentence for bad input; a defect of ours shows its traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    logger, said = logging.getLogger("hf_superfilter"), logging.StreamHandler(sys.stderr)
    said.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(said)
    try:
        sys.exit(app(prog_name="hf-superfilter", standalone_mode=False))
    except USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "hf-superfilter"
        _end(f"{error.format_message().rstrip('.')}; see {command} --help")
    except typer.Abort:  # Ctrl-C, as older versions of typer hand it on
        sys.exit(130)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        raised_by = traceback.extract_tb(error.__traceback__)[-1].line or ""
        if isinstance(error, TypeError) and not raised_by.startswith("raise "):
            raise  # Python's own complaint about our code; a cell of the wrong type is refused with raise
        _end(str(error) or type(error).__name__)
    finally:
        logger.removeHandler(said)


def _end(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
