"""Define the commands that publish, list and load subsets on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ._run_folders import run_recipe, selection_in
from ._terminal import show


def publish(
    source: Annotated[
        str,
        typer.Argument(help="A run folder in which rows were selected, or a recipe to run first."),
    ],
    repo: Annotated[str, typer.Argument(help="user/name on the Hub.")],
    name: Annotated[str, typer.Option(help="The subset's name.")] = "default",
    public: Annotated[
        bool, typer.Option("--public", help="A repository made now is public, not private.")
    ] = False,
    default: Annotated[
        bool, typer.Option("--default", help="Make it the subset that loads without a name.")
    ] = False,
    pr: Annotated[
        bool, typer.Option("--pr", help="Open a pull request instead of committing.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; main by default.")] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Keep prompt and response made for scoring.")
    ] = False,
) -> None:
    """Publish a selection as a subset on the Hub, in one commit, and print the commit's URL."""
    from ..checks import is_url
    from ..hub.publish import publish as publish_selection

    folder = source
    if not is_url(source) and not Path(source).is_dir():
        from ..recipes.recipe import Recipe

        folder = f"runs/{Path(source).stem}"
        if not run_recipe(Recipe.read(source), folder):
            return
    options: Any = {"private": not public, "set_default": default, "create_pr": pr, "pairs": pairs}
    show(publish_selection(selection_in(folder), repo, name=name, revision=revision, **options))


def list_(
    repo: Annotated[str, typer.Argument(help="user/name on the Hub, or a local folder.")],
) -> None:
    """List the subsets of a repository: rows, share, scorer, selector, date, default."""
    from ..hub.subsets import list_subsets

    for subset in list_subsets(repo):
        rows = "rows not recorded" if subset.rows is None else f"{subset.rows:,} rows"
        share = "" if subset.share is None else f" ({subset.share:.1%} of the source)"
        default = " (default)" if subset.default else ""
        show(f"{subset.name}{default}: {rows}{share}")
        for label, value in (
            ("scorer", subset.scorer),
            ("selector", subset.selector),
            ("created", subset.created),
        ):
            show(f"  {label}: {value or 'not recorded'}")


def load(
    repo: Annotated[
        str, typer.Argument(help="user/name on the Hub, a local folder, or a short name.")
    ],
    name: Annotated[
        str | None, typer.Argument(help="The subset; the default one where none is given.")
    ] = None,
    to: Annotated[Path, typer.Option(help="The file to write: .parquet, .jsonl or .csv.")] = Path(
        "subset.parquet"
    ),
    split: Annotated[str | None, typer.Option(help="The split, where there are several.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    make: Annotated[
        bool, typer.Option("--make", help="Run the recipe of a short name that is not published.")
    ] = False,
) -> None:
    """Load a published subset by name into a file."""
    from ..data.export import check_suffix, export
    from ..hub.subsets import load_subset

    check_suffix(to)
    rows = load_subset(repo, name, split=split, revision=revision, make=make)
    export(rows, to)
    show(f"{len(rows):,} rows: {to}")


def publish_metric(
    repo: Annotated[str, typer.Argument(help="user/rank_consistency, a Space on the Hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="A Space made now is private.")
    ] = False,
) -> None:
    """Publish the rank-consistency metric as a Space, which evaluate.load then finds."""
    from ..hub.publish import publish_metric as publish_space

    show(publish_space(repo, private=private))
