"""Define `consistency`: does a weak model rank rows as a strong one does?"""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SuperfilterError
from ._terminal import show, show_end


def consistency(
    data: Annotated[
        str, typer.Argument(help="A file, a local folder, a Hub id, or embedded:sample.")
    ],
    weak: Annotated[
        list[str],
        typer.Option(help="The weak model; give it several times for a matrix of all pairs."),
    ],
    strong: Annotated[
        str, typer.Option(help="The strong model, or a server's address: http://host:8000/v1.")
    ],
    sample: Annotated[int, typer.Option(help="Rows drawn at random.")] = 500,
    by: Annotated[str, typer.Option(help="ifd or ppl.")] = "ifd",
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    folder: Annotated[Path, typer.Option(help="The run folder; scores in it are reused.")] = Path(
        "runs/consistency"
    ),
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    format: Annotated[
        str, typer.Option(help="How the rows are laid out; auto looks at the columns.")
    ] = "auto",
) -> None:
    """Measure how far two models agree on which rows to keep, with intervals and a plot."""
    from ..consistency.compare import compare_models
    from ..consistency.plots import matrix_plot, pair_plot
    from ..data.pairs import format_pairs
    from ..data.sources import load_rows

    pairs = format_pairs(load_rows(data, split=split), format)
    try:
        compared = compare_models(pairs, [*weak, strong], folder, by=by, sample=sample, seed=seed)
    except ValueError as error:
        # The metric is pushed to the Hub alone and raises built-in errors.
        raise SuperfilterError(str(error)) from error
    show(str(compared))
    pictures = []
    for number, one in enumerate(weak):
        name = "consistency.png" if len(weak) == 1 else f"consistency_{number + 1}.png"
        pictures.append(_save(folder / name, pair_plot(compared, one, strong).png))
    if len(weak) > 1:
        pictures.append(_save(folder / "matrix.png", matrix_plot(compared).png))
    show_end(
        f"compared {' and '.join(weak)} with {strong} on {len(compared.table):,} rows",
        f"pictures: {', '.join(pictures)}",
        *("score", data, "--model", weak[0], "--dry-run"),
    )


def _save(path: Path, png: bytes) -> str:
    from ..runs.store import atomic_write

    with atomic_write(path) as unfinished:
        unfinished.write_bytes(png)
    return str(path)
