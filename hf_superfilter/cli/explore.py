"""Define `explore`: a selection as a map in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from ._run_folders import name_option, selection_in
from ._terminal import show_end


def explore(
    folder: Annotated[str, typer.Argument(help="A run folder in which rows were selected.")],
    name: Annotated[str | None, typer.Option(help="Show the selection of that name.")] = None,
    to: Annotated[
        Path | None,
        typer.Option("--export", help="Write the page and a Space's README into this folder."),
    ] = None,
    publish: Annotated[
        str | None, typer.Option(help="Publish it as a static Space, user/name on the Hub.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A Space made now is public, not private.")
    ] = False,
    projection: Annotated[
        str, typer.Option(help="Coordinates of the column embedding: pca or umap.")
    ] = "pca",
    port: Annotated[int, typer.Option(help="Of the local page, without --export.")] = 5055,
) -> None:
    """Show a selection as a map of points to colour, filter and search (extra `explore`)."""
    from ..hub.explorer import publish_explorer
    from ..reports.explorer import export_explorer, show_explorer

    selection = selection_in(folder, name)
    named = name_option(name)
    if publish is not None:
        url = publish_explorer(selection, publish, projection=projection, private=not public)
        made = f"published the explorer of {len(selection.table):,} rows"
        show_end(made, url, "publish", folder, "user/name", *named, "--dry-run", is_data=True)
    if to is not None:
        export_explorer(selection, to, projection=projection)
        show_end(
            f"explorer of {len(selection.table):,} rows: {to}",
            f"look at it: python -m http.server --directory {to}",
            *("explore", folder, *named, "--publish", "user/name"),
        )
    elif publish is None:
        show_explorer(selection, projection=projection, port=port)
