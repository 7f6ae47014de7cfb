"""Write a selection as a map of points that a browser explores."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.columns import holds_numbers, numbers_of, shares_below, vectors_or_nan
from ..data.texts import is_text, text_heads
from ..errors import SuperfilterError
from .summary import Summary
from .words import step_words

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from ..selection.funnel import Selection

PROJECTIONS = ("pca", "umap")
VECTORS, LEARNED = "embedding", "learned_difference"
LONGEST_TEXT = 2_000  # characters of a prompt or response in the map
# Which rows were kept is seen at once; any other column can be chosen on the page.
COLOURED = {
    "props": {
        "defaultChartsConfig": {
            "embedding": {"data": {"x": "x", "y": "y", "text": "text", "category": "selection"}}
        }
    }
}
MARK = "data/metadata.json"  # a folder that holds this is an explorer, and may be replaced
MAX_CATEGORIES = 50  # a column with more values than this colours nothing
SPACE_CARD = """---
title: {title}
emoji: 🗺️
colorFrom: blue
colorTo: green
sdk: static
pinned: false
---

{rows:,} rows with their scores. The column `selection` tells which were kept and what dropped the
others.

The two coordinates are {coordinates}.

Made by `hf-superfilter explore --export` with Embedding Atlas (MIT).
"""


def export_explorer(
    selection: "Selection", folder: str | Path, *, projection: str = "pca", title: str | None = None
) -> Path:
    """Write a static page on which each row is a point.

    Points can be coloured, filtered and searched by every score, status and category, and by
    `selection`: `kept`, or the step that dropped the row. The page is Embedding Atlas's
    (arXiv 2505.06386); it needs a web server, such as a static Space or `python -m http.server`,
    but no network besides. The map needs a browser with WebGPU; table, histograms, filters and
    search work without.

    Args:
        selection: what `select` returns.
        folder: where the page goes, with the README.md of a static Space.
        projection: `pca` or `umap`, which makes two coordinates of the column `embedding`. Without
            that column they are the first two principal components of the ranks of all scores.
        title: of the Space; by default that of the folder.

    Returns:
        The folder.

    Raises:
        SuperfilterError: Embedding Atlas is not installed, fewer than two columns of numbers to
            place the rows by, another projection, or a
            folder that holds other files.
    """
    _check_installed()
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise SuperfilterError(f"{str(folder)!r} holds other files: name a new or empty folder")
    points, coordinates = explorer_points(selection, projection)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as temporary:
        file = Path(temporary) / "points.parquet"
        _write_parquet(points, file)
        options = ["--export-application", str(folder.absolute())]
        _atlas(file, points, [*options, "--export-metadata", json.dumps(COLOURED)])
    card = SPACE_CARD.format(
        title=title or folder.name, rows=points.num_rows, coordinates=coordinates
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def show_explorer(selection: "Selection", *, projection: str = "pca", port: int = 5055) -> None:
    """Serve the same page on this machine until it is stopped.

    Raises:
        SuperfilterError: as `export_explorer`.
    """
    _check_installed()
    points, _ = explorer_points(selection, projection)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as temporary:
        file = Path(temporary) / "points.parquet"
        _write_parquet(points, file)
        _atlas(file, points, ["--port", str(port)])


def explorer_points(selection: "Selection", projection: str = "pca") -> "tuple[pa.Table, str]":
    """Return the table behind the map, and how its coordinates were made, in words.

    Returns:
        n rows with `text` (prompt and response), `selection`, every column of numbers, status or
        category, `learned_difference` (see `Summary`) where the selection was validated, and `x`,
        `y`; a row without finite coordinates has null there.
    """
    import pyarrow as pa

    table = selection.table.with_format(None)
    places, coordinates = _places(table, projection)
    columns: dict[str, Any] = {
        "text": pa.array(_texts(table), pa.string()),
        "selection": _fates(selection),
    }
    for name in table.column_names:
        if name in columns or name in ("x", "y"):
            continue
        if holds_numbers(table, name):
            columns[name] = pa.array(numbers_of(table, name), from_pandas=True)
        elif is_text(table.features[name]) and _is_category(table, name):
            columns[name] = table.with_format("arrow")[name].cast(pa.string())
    learned = Summary(selection).learned_differences
    if learned is not None:
        columns[LEARNED] = pa.array(learned, from_pandas=True)
    columns["x"] = pa.array(places[:, 0], from_pandas=True)
    columns["y"] = pa.array(places[:, 1], from_pandas=True)
    return pa.table(columns), coordinates


def _places(table: "Dataset", projection: str) -> tuple[np.ndarray, str]:
    """Return (n, 2) float64 coordinates, nan where a row has none, and their description."""
    if projection not in PROJECTIONS:
        raise SuperfilterError(f"projection={projection!r}: give {' or '.join(PROJECTIONS)}")
    if VECTORS in table.column_names:
        vectors = vectors_or_nan(table, column=VECTORS)
        if projection == "umap":
            return _umap(vectors), f"a UMAP of the column {VECTORS!r}"
        return _pca(vectors), f"the first two principal components of the column {VECTORS!r}"
    ranks = _score_ranks(table)
    words = f"the first two principal components of the ranks of {ranks.shape[1]} columns"
    return _pca(ranks), f"{words}, for there is no column {VECTORS!r}"


def _score_ranks(table: "Dataset") -> np.ndarray:
    """Return (n, columns) ranks from 0 to 1 of every column of numbers; nan is in the middle."""
    ranks = []
    for name in table.column_names:
        if not holds_numbers(table, name):
            continue
        numbers = numbers_of(table, name)
        if len(np.unique(numbers[~np.isnan(numbers)])) >= 2:
            ranks.append(np.nan_to_num(shares_below(numbers), nan=0.5))
    if len(ranks) < 2:
        raise SuperfilterError(
            f"the table has {len(ranks)} columns of numbers that differ, and two coordinates need "
            f"two: score with another scorer too, or with Embed, whose column {VECTORS!r} is used"
        )
    return np.stack(ranks, axis=1)


def _pca(vectors: np.ndarray) -> np.ndarray:
    """Project (n, d) vectors onto their first two principal components."""
    from sklearn.decomposition import PCA

    return _project(vectors, PCA(n_components=2, random_state=0))


def _umap(vectors: np.ndarray) -> np.ndarray:
    from umap import UMAP

    return _project(vectors, UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1))


def _project(vectors: np.ndarray, projection: Any) -> np.ndarray:
    """Return (n, 2) places; nan where a vector is not finite."""
    finite = np.isfinite(vectors).all(axis=1)
    if np.count_nonzero(finite) < 3:
        raise SuperfilterError(
            f"{np.count_nonzero(finite)} rows have finite vectors: a map needs at least 3"
        )
    places = np.full((len(vectors), 2), np.nan)
    places[finite] = projection.fit_transform(vectors[finite].astype(np.float64))
    return places


def _texts(table: "Dataset") -> list[str]:
    """Return what is read of each row: its prompt and response, else its columns of text."""
    present = [name for name in ("prompt", "response") if name in table.column_names]
    names = present or [name for name, kind in table.features.items() if is_text(kind)]
    heads = [text_heads(table, name, LONGEST_TEXT) for name in names]
    if not heads:
        return [""] * len(table)
    return ["\n".join(parts).strip() for parts in zip(*heads, strict=True)]


def _fates(selection: "Selection") -> "pa.Array":
    """Return `kept` or the step that dropped the row, for every row."""
    import pyarrow as pa

    names = ["kept"]
    for number, step in enumerate(selection.steps, start=1):
        names.append(f"dropped by step {number}: {step_words(step) or step.selector}")
    indices = pa.array(selection.dropped_by.astype(np.int32) + 1)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names)).cast(pa.string())


def _is_category(table: "Dataset", name: str) -> bool:
    import pyarrow.compute as pc

    values: int = pc.count_distinct(table.with_format("arrow")[name]).as_py()
    return values <= MAX_CATEGORIES


def _check_installed() -> None:
    if importlib.util.find_spec("embedding_atlas") is None:
        raise SuperfilterError(
            "the explorer needs Embedding Atlas: install it with pip install "
            "'hf-superfilter[explore]'"
        )


def _write_parquet(points: "pa.Table", file: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(points, file)


def _atlas(file: Path, points: "pa.Table", options: list[str]) -> None:
    """Call Embedding Atlas's command on a file of points, and hand its failure on."""
    command = [
        sys.executable, "-m", "embedding_atlas.cli", file.name, "--disable-projection",
        "--text", "text", "--x", "x", "--y", "y", *options,
    ]  # fmt: skip
    stdout = subprocess.DEVNULL if "--export-application" in options else None
    # From the file's folder, for the page shows the path that the command was given.
    done = subprocess.run(
        command, check=False, cwd=file.parent, stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it gave no reason"]
        raise SuperfilterError(f"Embedding Atlas failed on {len(points)} points: {reason[0]}")
