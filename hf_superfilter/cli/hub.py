"""Define the commands that publish, list and load subsets on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SuperfilterError
from ._run_folders import named_selections, run_recipe, selection_in
from ._terminal import show


def publish(
    source: Annotated[
        str,
        typer.Argument(help="A run folder in which rows were selected, or a recipe to run first."),
    ],
    repo: Annotated[str, typer.Argument(help="user/name on the Hub.")],
    name: Annotated[
        str | None,
        typer.Option(help="The selection of that name, and the subset's name on the Hub."),
    ] = None,
    config_name: Annotated[
        str | None, typer.Option(help="The subset's name, where it is another.")
    ] = None,
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
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Keep vectors made by scorers, as embedding.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be published, and send nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Publish though the licence is unknown or forbids it.")
    ] = False,
) -> None:
    """Publish a selection as a subset on the Hub, in one commit, and print the commit's URL."""
    from ..checks import is_url
    from ..hub.publish import describe_publication
    from ..hub.publish import publish as publish_selection
    from ..hub.repo_files import check_repo_id, licence_question

    check_repo_id(repo)
    folder = source
    if not is_url(source) and not Path(source).is_dir():
        from ..recipes.recipe import Recipe

        folder = f"runs/{Path(source).stem}"
        if run_recipe(Recipe.read(source), folder) is None:
            return
    chosen = name if name in named_selections(folder) else None
    selection = selection_in(folder, chosen)
    subset = config_name or name or "default"
    label = "its selection without a name" if chosen is None else f"its selection {chosen!r}"
    show(f"from {folder}: {label}, {selection!r}")
    options: Any = {"private": not public, "create_pr": pr, "pairs": pairs, "vectors": vectors}
    if dry_run:
        show(describe_publication(selection, repo, subset, revision=revision, **options))
        show("nothing was sent (--dry-run)")
        return
    question = None if yes else licence_question(selection)
    if question:
        raise SuperfilterError(f"{question}; --yes publishes all the same")
    options["set_default"] = default
    show(publish_selection(selection, repo, name=subset, revision=revision, **options))


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
