"""Define the commands that publish, list and load subsets on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import NotFoundError, SuperfilterError
from ._run_folders import name_option, named_selections, run_recipe, selection_in
from ._terminal import show, show_end, show_next


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
    from ..hub.request import check_repo_id
    from ..hub.split_files import licence_question

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
        named = name_option(name)
        named += ["--config-name", config_name] if config_name else []
        named += ["--yes"] if licence_question(selection) else []
        show_end(
            f"described the subset {subset!r}",
            "nothing was sent (--dry-run)",
            *("publish", source, repo, *named),
        )
        return
    question = None if yes else licence_question(selection)
    if question:
        raise SuperfilterError(f"{question}; --yes publishes all the same")
    options["set_default"] = default
    commit = publish_selection(selection, repo, name=subset, revision=revision, **options)
    made = f"published {subset!r}: {len(selection.rows):,} rows"
    show_end(made, commit, "load", repo, subset, is_data=True)


def list_(
    repo: Annotated[
        str | None,
        typer.Argument(help="user/name on the Hub, or a local folder; none lists short names."),
    ] = None,
) -> None:
    """List the subsets of a repository, or without one the short names of the catalogue."""
    from ..hub.subsets import list_subsets

    if repo is None:
        _list_catalogue()
        return
    subsets = list_subsets(repo)
    for subset in subsets:
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
    show_next("load", repo, *[subset.name for subset in subsets[:1]])


def _list_catalogue() -> None:
    """List the short names, and say which are published and which have to be made."""
    from ..recipes.catalogue import packaged_recipes, read_catalogue

    recipes = {name: {"recipe": None} for name in packaged_recipes()}
    for name, entry in {**read_catalogue(), **recipes}.items():
        if "recipe" in entry:
            show(f"{name}: to be made, load {name} --make runs its recipe")
        else:
            subset = f", subset {entry['name']}" if "name" in entry else ""
            show(f"{name}: published in {entry['repo']}{subset}, load {name} loads it")
    show_next("load", "sample-ifd-15", "--make")


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
    if not make:
        _check_published(repo)
    rows = load_subset(repo, name, split=split, revision=revision, make=make)
    export(rows, to)
    made = f"loaded {name or 'the default subset'} of {repo}"
    show_end(made, f"{len(rows):,} rows: {to}", "select", to, "--k", "50%", is_data=True)


def _check_published(repo: str) -> None:
    """Refuse a short name that has to be made, naming the option that makes it."""
    from ..recipes.catalogue import find_entry

    if "/" not in repo and not Path(repo).is_dir() and "recipe" in find_entry(repo):
        raise NotFoundError(
            f"{repo!r} is not published; make it with hf-superfilter load {repo} --make, which "
            "scores the data set"
        )


def publish_metric(
    repo: Annotated[str, typer.Argument(help="user/rank_consistency, a Space on the Hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="A Space made now is private.")
    ] = False,
) -> None:
    """Publish the rank-consistency metric as a Space, which evaluate.load then finds."""
    from ..hub.publish import publish_metric as publish_space

    url = publish_space(repo, private=private)
    following = ("consistency", "embedded:sample", "--weak", "embedded:weak")
    made = "published the metric, which evaluate.load finds"
    show_end(made, url, *following, "--strong", "embedded:strong", is_data=True)
