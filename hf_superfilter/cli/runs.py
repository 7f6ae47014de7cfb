"""Define the commands that go from rows to a selection in a run folder."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SuperfilterError
from ._run_folders import (
    describe_scores,
    fail_if_all_undefined,
    find_recipe,
    in_folder,
    record_selectors,
    refuse_name,
    report_losses,
    run_recipe,
    scored_rows,
    selection_folder,
    selection_in,
    show_forecast,
    show_manifest,
    show_selection_end,
    show_summary,
    write_run_page,
)
from ._terminal import show, show_end

GPT2 = "openai-community/gpt2"
Folder = Annotated[
    str, typer.Option(help="The run folder: a path or an fsspec URL, s3://bucket/run.")
]
TemplateKwargs = Annotated[
    list[str] | None,
    typer.Option(help="A value for the chat template: enable_thinking=false. May be repeated."),
]
REASONING_HELP = (
    "Of responses with reasoning: keep it, drop it, only score it, or keep it and give it a column "
    "of its own for the scorer Reasoning (keep, drop, only, split)."
)
MAX_UNREADABLE_HELP = "Stop if more than this share of the rows cannot be read or formatted."
AllowEndpoint = Annotated[
    bool,
    typer.Option(
        "--allow-endpoint", help="Run a recipe of a repository that sends rows to a server."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be scored and how long it takes, and write nothing."
    ),
]
ExpectProcesses = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse to run if the launcher started another number of processes."),
]


def run(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a name that hf-superfilter recipes lists.")
    ],
    folder: Annotated[
        str | None,
        typer.Option(help="The run folder: a path or an fsspec URL. Default: runs/RECIPE."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Another data set: a file, a folder or a Hub id.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="How its rows are laid out.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model for every scorer that names one.")
    ] = None,
    template_kwargs: TemplateKwargs = None,
    reasoning: Annotated[str | None, typer.Option(help=REASONING_HELP)] = None,
    max_unreadable: Annotated[float | None, typer.Option(help=MAX_UNREADABLE_HELP)] = None,
    dry_run: DryRun = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value: k=0.05, or IFD.model=gpt2. May be repeated."),
    ] = None,
    expect_processes: ExpectProcesses = None,
    allow_endpoint: AllowEndpoint = False,
) -> None:
    """Load, format, score and select as a recipe says.

    The same command resumes after a stop, and any number of processes may work on one folder.
    """
    from ..recipes.overrides import override

    overrides: dict[str, Any] = {"model": model} if model else {}
    overrides |= dict(map(_parse_setting, settings or []))
    selected = override(
        find_recipe(recipe, allow_endpoint=allow_endpoint),
        dataset=dataset,
        format=format,
        split=split,
        template_kwargs=_parse_template_kwargs(template_kwargs),
        reasoning=reasoning,
        max_unreadable=max_unreadable,
        settings=overrides,
    )
    place = folder or f"runs/{Path(recipe).stem}"
    if dry_run:
        show_forecast(selected, place)
        return
    selection = run_recipe(selected, place, expect_processes)
    if selection is not None:
        show_selection_end(selection, place)


def score(
    data: Annotated[
        str, typer.Argument(help="A file (json, jsonl, csv, parquet), a folder or a Hub id.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A Hub id, a folder, embedded:weak or embedded:strong, for scorers that need one. "
            f"Default: {GPT2}."
        ),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="IFD, Perplexity, AskLLM, LearningPercentage, Surrogate, Classifier, Reasoning, "
            "Demonstration, ImplicitReward, Embed, Density, Language, Length, Privacy, "
            "PromptMatch or Combine, in any case."
        ),
    ] = "IFD",
    folder: Folder = "runs/score",
    split: Annotated[
        str | None, typer.Option(help="The data set's split, or a part: train[:1000].")
    ] = None,
    format: Annotated[
        str, typer.Option(help="How the rows are laid out; auto looks at the columns.")
    ] = "auto",
    template: Annotated[
        str, typer.Option(help="none, alpaca, chat, or your own with {instruction}.")
    ] = "none",
    tokenizer: Annotated[
        str | None, typer.Option(help="With --template chat: whose chat template.")
    ] = None,
    template_kwargs: TemplateKwargs = None,
    reasoning: Annotated[str, typer.Option(help=REASONING_HELP)] = "keep",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="The format's name and the data set's column: instruction=question_text. "
            "May be repeated."
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The data set's subset (config).")] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of a data set on the Hub.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score the first N rows of the split only.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16, or int8 on a CPU.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read of a row.")] = None,
    dry_run: DryRun = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A scorer's argument: IFD.variant=bos. May be repeated."),
    ] = None,
    max_unreadable: Annotated[float, typer.Option(help=MAX_UNREADABLE_HELP)] = 0.01,
    expect_processes: ExpectProcesses = None,
) -> None:
    """Add score columns to a data set, in FOLDER/scored.parquet, beside those already there.

    The same command resumes after a stop, and any number of processes may work on one folder.
    """
    from ..base import scorer_name
    from ..recipes.recipe import Recipe, recorded_recipe

    if limit is not None and split and "[" in split:
        raise SuperfilterError(f"--limit {limit} and --split {split}: give one of them")
    overrides = {"dtype": dtype, "device": device, "max_length": max_length}
    arguments: dict[str, Any] = {
        key: value for key, value in overrides.items() if value is not None
    }
    arguments |= dict(map(_parse_setting, settings or []))
    requested = Recipe(
        data,
        (_build_scorer(scorer, model, arguments),),
        split=split if limit is None else f"{split or ''}[:{limit}]",
        config=config,
        revision=revision,
        format=format,
        template=template,
        tokenizer=tokenizer,
        template_kwargs=_parse_template_kwargs(template_kwargs),
        reasoning=reasoning,
        columns=dict(map(_parse_column, columns or [])) or None,
        max_unreadable=max_unreadable,
    )
    recipe = requested.merge(recorded_recipe(folder))
    if dry_run:
        show_forecast(recipe, folder)
        return
    if recipe.score_rows(folder, expect_processes=expect_processes) is None:
        return  # of several processes that were launched, the main one goes on
    report_losses(folder)
    line, column = describe_scores(folder, scorer_name(requested.score[0]))
    fail_if_all_undefined(folder)
    scores = in_folder(folder, "scored.parquet")
    show_end(line, f"scores: {scores}", "select", folder, "--by", column, "--k", "10%")


def _build_scorer(name: str, model: str | None, settings: Mapping[str, Any]) -> Any:
    """Build a scorer by its name in any case; a model goes to those that need one."""
    from ..recipes.entries import build, parameters_of, public_names
    from ..recipes.overrides import override_argument

    by_lower = {public.lower(): public for public in public_names("score")}
    name = by_lower.get(name.lower(), name)
    parameter = parameters_of(name, "score").get("model")
    is_needed = parameter is not None and parameter.default is parameter.empty
    if model is None and is_needed:
        model = GPT2
    entry: dict[str, Any] = {name: {} if model is None else {"model": model}}
    # Before it is built: some scorers cannot be without an argument that only a setting gives.
    for setting, value in settings.items():
        override_argument({"score": [entry]}, setting, value)
    try:
        return build(entry, "score")
    except SuperfilterError as error:
        if settings:
            raise
        remedy = f"on the command line: --set {name}.ARGUMENT=VALUE"
        raise SuperfilterError(f"{error} ({remedy})") from error


def select(
    data: Annotated[
        str, typer.Argument(help="A run folder, or any file or data set with a numeric column.")
    ],
    by: Annotated[str, typer.Option(help="The column to rank by.")] = "ifd",
    k: Annotated[
        str | None,
        typer.Option(help="Rows to keep: 500 is a count, 0.10 or 10% a share of all rows."),
    ] = None,
    below: Annotated[
        float | None,
        typer.Option(help="First keep only values below this; for IFD scores 1 by default."),
    ] = None,
    above: Annotated[float | None, typer.Option(help="First keep only values above this.")] = None,
    smallest: Annotated[
        bool, typer.Option("--smallest", help="With --k, keep the smallest values.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="A name for the selection: a run folder holds several, as ifd-5."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="The file to write: .jsonl, .parquet or .csv; or an Arrow folder."),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--as",
            help="The layout of --to: source, messages, prompt-completion, sharegpt, alpaca or "
            "preference.",
        ),
    ] = "source",
) -> None:
    """Keep the best rows of a scored data set, in selected.parquet.

    Of a run folder, the file and a report are written there, unless --to names another file.
    """
    from ..data.export import check_suffix, export
    from ..data.layouts import check_layout
    from ..data.sources import load_rows
    from ..hub.request import subset_name
    from ..recipes.recipe import recorded_recipe, recorded_source_columns
    from ..reports.summary import Summary
    from ..reports.text import summary_text
    from ..runs.store import Store
    from ..selection._ifd import IFD_LIMIT, has_low_ifd
    from ..selection.funnel import select as select_rows
    from ..selection.threshold import Threshold

    run = data if Store(data).has("run.json") else None
    target = to or Path("selected.parquet")
    check_suffix(target)
    check_layout(layout)
    if layout != "source" and to is None:
        raise SuperfilterError(f"--as {layout} needs a file to write: give --to FILE.jsonl")
    if name is not None:
        subset_name(name, "default")
        if run is None or to is not None:
            refuse_name(name)
    selectors = _build_selectors(by, k, below=below, above=above, smallest=smallest)
    table = scored_rows(run) if run else load_rows(data, split=split)
    below_one = below is None and above is None and not smallest and has_low_ifd(table, by)
    if below_one:
        selectors.insert(0, Threshold(by, below=IFD_LIMIT))
    columns = recorded_source_columns(run) if run else None
    selection = select_rows(table, selectors, run=run, source_columns=columns)
    summary = Summary(selection)
    if not run or to:
        recipe = recorded_recipe(run)
        if recipe:
            export(selection, target, layout, format=recipe.format, columns=recipe.columns)
        else:
            export(selection, target, layout)
        show(summary_text(summary))
        _say_default(by, below_one)
        kept = f"kept {len(selection.rows):,} of {len(selection.table):,} rows, best first"
        following: list[Any] = ["select", target, "--by", by, "--k", "50%"]
        if run:
            show(
                "not recorded in the run folder: for report and publish the next command does that"
            )
            options = {"--k": k, "--below": below, "--above": above}
            following = ["select", run, "--by", by, *(["--smallest"] if smallest else [])]
            following += [part for pair in options.items() if pair[1] is not None for part in pair]
        show_end(kept, f"selected rows: {target}", *following)
        return
    folder = selection_folder(run, name)
    with Store(folder).file("selected.parquet") as unfinished:
        selection.subset.to_parquet(str(unfinished))
    show_summary(summary, folder)
    record_selectors(run, selectors, name)
    write_run_page(summary, folder)
    _say_default(by, below_one)
    show_selection_end(selection, run, name)


def _say_default(by: str, below_one: bool) -> None:
    """Say that a default limit was used."""
    if below_one:
        show(
            f"only values of {by} below 1 were kept, for above it the prompt does not help; "
            "--below sets another limit"
        )


def _build_selectors(
    by: str, k: str | None, *, below: float | None, above: float | None, smallest: bool
) -> list[Any]:
    from ..selection.threshold import Threshold
    from ..selection.top_k import TopK

    selectors: list[Any] = []
    if below is not None or above is not None:
        selectors.append(Threshold(by, below=below, above=above))
    if k is not None:
        selectors.append(TopK(by, _parse_budget(k), largest=not smallest))
    elif smallest or not selectors:
        raise SuperfilterError(
            "no budget to select by: give --k, 500 or 0.10; or --below or --above, "
            "without --smallest"
        )
    return selectors


def report(
    folder: Annotated[str, typer.Argument(help="A run folder in which rows were selected.")],
    name: Annotated[str | None, typer.Option(help="The selection of that name.")] = None,
) -> None:
    """Write FOLDER/report.html: funnel, scores, examples, baselines, cost and recipe."""
    from ..reports.summary import Summary

    selection = selection_in(folder, name)
    write_run_page(Summary(selection), selection_folder(folder, name))
    show_selection_end(selection, folder, name)


def inspect(folder: Annotated[str, typer.Argument(help="A run folder.")]) -> None:
    """Show what a run folder holds: scorers, models, statuses, cost."""
    show_manifest(folder)


def _parse_setting(text: str) -> tuple[str, Any]:
    from ..yaml_io import load_yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SuperfilterError(f"--set {text!r}: give an argument and its value, such as k=0.05")
    return name, load_yaml(value, f"--set {text!r}: {value!r}")


def _parse_template_kwargs(texts: list[str] | None) -> dict[str, Any] | None:
    """Parse names and values for a chat template: name=value, or a mapping in JSON."""
    from ..yaml_io import load_yaml

    values: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            values |= load_yaml(text, f"--template-kwargs {text!r}")
        elif name and equals:
            values[name] = load_yaml(value, f"--template-kwargs {text!r}: {value!r}")
        else:
            raise SuperfilterError(
                f"--template-kwargs {text!r}: give a name in the chat template and its value, "
                "such as enable_thinking=false"
            )
    return values or None


def _parse_column(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if not name or not column:
        raise SuperfilterError(
            f"--columns {text!r}: give the format's name and the data set's column, "
            "such as instruction=question_text"
        )
    return name, column


def _parse_budget(text: str) -> int | float:
    number = parse_number(text)
    if number is None:
        raise SuperfilterError(
            f"--k {text!r}: give a count such as 500 or a share such as 0.10 or 10%"
        )
    return number


def parse_number(text: str) -> int | float | None:
    """Parse a count such as 500, or a share such as 0.10 or 10%; None of any other text."""
    try:
        if text.isdigit():
            return int(text)
        if text.endswith("%"):
            return float(Decimal(text[:-1]) / 100)
        return float(text)
    except (ValueError, InvalidOperation):
        return None
