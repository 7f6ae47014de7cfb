import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_superfilter import (
    SuperfilterError,
    Threshold,
    TopK,
    export_explorer,
    publish_explorer,
    select,
)
from hf_superfilter.reports.explorer import explorer_points


def make_selection(**columns):
    table = Dataset.from_dict(
        {
            "prompt": ["Add 1 and 2", "Name a colour", "Say hi", "Go on"],
            "response": ["3", "red", "hi", "on"],
            "ifd": [0.5, 0.7, 1.5, None],
            "ifd_tokens": [1, 2, 3, 0],
            "ifd_status": ["ok", "ok", "ok", "empty_response"],
            **columns,
        }
    )
    return select(table, [Threshold("ifd", below=1.0), TopK("ifd", 1)])


def test_every_row_is_a_point_with_its_text_scores_and_fate():
    points, words = explorer_points(make_selection())
    assert points.column("text").to_pylist()[0] == "Add 1 and 2\n3"
    assert points.column("ifd").to_pylist() == [0.5, 0.7, 1.5, None]
    assert points.column("ifd_status").to_pylist()[-1] == "empty_response"
    assert points.column("selection").to_pylist() == [
        "dropped by step 2: the rows with the largest ifd",
        "kept",
        "dropped by step 1: rows with ifd below a limit",
        "dropped by step 1: rows with ifd below a limit",
    ]
    assert "ranks of 2 columns" in words
    assert np.isfinite(points.column("x").to_numpy()).all()


def test_an_embedding_places_the_rows_by_its_principal_components():
    # Points on a plane: their distances are kept by the first two principal components.
    plane = [[0.0, 0.0, 5.0], [4.0, 0.0, 5.0], [0.0, 3.0, 5.0], [4.0, 3.0, 5.0]]
    points, words = explorer_points(make_selection(embedding=plane))
    places = np.stack([points.column(axis).to_numpy() for axis in "xy"], axis=1)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distances == pytest.approx(
        np.array([[0, 4, 3, 5], [4, 0, 5, 3], [3, 5, 0, 4], [5, 3, 4, 0]]), abs=1e-6
    )
    assert "principal components of the column 'embedding'" in words


def test_a_row_without_a_vector_has_no_place():
    vectors = [[0.0, 1.0, 2.0], None, [1.0, 0.0, 5.0], [2.0, 2.0, 0.0]]
    points, _ = explorer_points(make_selection(embedding=vectors))
    assert [x is None for x in points.column("x").to_pylist()] == [False, True, False, False]


def test_columns_of_many_values_do_not_become_categories():
    ids = [f"row {i}" for i in range(60)]
    table = Dataset.from_dict(
        {"id": ids, "kind": ["a", "b"] * 30, "ifd": np.arange(60) / 60, "length": np.arange(60)}
    )
    points, _ = explorer_points(select(table, TopK("ifd", 3)))
    assert "kind" in points.column_names and "id" not in points.column_names
    assert points.column("text").to_pylist()[1] == "row 1\nb"


def test_one_column_of_numbers_is_too_few_to_place_rows_by():
    table = Dataset.from_dict({"ifd": [0.1, 0.2, 0.3], "same": [1, 1, 1]})
    with pytest.raises(SuperfilterError, match=r"has 1 columns of numbers that differ"):
        explorer_points(select(table, TopK("ifd", 1)))


def test_another_projection_is_refused():
    with pytest.raises(SuperfilterError, match="projection='tsne': give pca or umap"):
        explorer_points(make_selection(), "tsne")


def test_without_embedding_atlas_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SuperfilterError, match=r"pip install 'hf-superfilter\[explore\]'"):
        export_explorer(make_selection(), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_page_is_a_static_space_that_holds_the_points(tmp_path):
    pytest.importorskip("embedding_atlas", reason="needs the extra [explore]")
    folder = export_explorer(make_selection(), tmp_path / "page")
    assert (folder / "index.html").exists()
    assert pq.read_table(folder / "data/dataset.parquet").num_rows == 4
    metadata = json.loads((folder / "data/metadata.json").read_text())
    assert metadata["isStatic"] and metadata["props"]["data"]["projection"] == {"x": "x", "y": "y"}
    coloured = metadata["props"]["defaultChartsConfig"]["embedding"]["data"]
    assert coloured["category"] == "selection"
    card = (folder / "README.md").read_text()
    assert "sdk: static" in card and "4 rows" in card and "principal components" in card
    export_explorer(make_selection(), folder)  # an explorer may be replaced
    with pytest.raises(SuperfilterError, match="holds other files"):
        export_explorer(make_selection(), tmp_path)


def test_the_explorer_is_published_as_a_space_in_one_commit(hub, tmp_path):
    pytest.importorskip("embedding_atlas", reason="needs the extra [explore]")
    url = publish_explorer(make_selection(), "me/map")
    assert "/spaces/me/map/commit/" in url
