"""Define `recipes`: list the recipes of the package, or print one."""

from typing import Annotated

import typer

from ..errors import NotFoundError, did_you_mean
from ._terminal import show, show_next


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe, to be saved and changed.")
    ] = None,
) -> None:
    """List the recipes of the package, one per method, with their models; or print one."""
    from ..recipes.catalogue import packaged_recipes

    files = packaged_recipes()
    if name is None:
        for stem, file in files.items():
            show(_describe(stem, file.read_text(encoding="utf-8")))
        show(
            "\nhf-superfilter run NAME runs one, --dataset and --model say on what; "
            "recipes NAME prints it"
        )
        show_next("run", "superfiltering", "--model", "embedded:weak", "--dry-run")
    elif name in files:
        show(files[name].read_text(encoding="utf-8").rstrip())
    else:
        raise NotFoundError(f"no recipe {name!r} in the package: {did_you_mean(name, files)}")


def _describe(name: str, text: str) -> str:
    """Return a recipe's line of the list: its name, its first comment, its models."""
    from ..recipes.entries import all_entries
    from ..yaml_io import load_yaml

    models: dict[str, None] = {}  # a set that keeps its order
    for _, _, arguments in all_entries(load_yaml(text)):
        if arguments and "model" in arguments:
            models[str(arguments["model"])] = None
    title = text.splitlines()[0].removeprefix("# ")
    return f"{name:20} {title} [{', '.join(models) or 'no model'}]"
