"""Combine against ranks counted pair by pair."""

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import Combine, Recipe, TopK, score, select


def share_below(values, value):
    """The share of values below, equal ones counted half, counted one by one."""
    known = [other for other in values if other is not None]
    below = sum(other < value for other in known) + sum(other == value for other in known) / 2
    return below / len(known)


def test_it_is_the_weighted_mean_of_the_shares_of_rows_below(tmp_path):
    rng = np.random.default_rng(0)
    ifd, ppl = rng.integers(0, 9, 60) / 9, rng.lognormal(size=60)
    rows = Dataset.from_dict({"ifd": ifd, "ppl": ppl})
    table = score(rows, [Combine({"ifd": 1, "ppl": -2.5})], tmp_path, chunk_size=7)
    wanted = [
        (share_below(ifd, a) + 2.5 * (1 - share_below(ppl, b))) / 3.5
        for a, b in zip(ifd, ppl, strict=True)
    ]
    np.testing.assert_allclose(table["combined"][:], wanted, rtol=1e-12)
    assert set(table["combined_status"]) == {"ok"}


def test_units_and_outliers_of_a_column_do_not_matter(tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 30))
    plain = Combine({"a": 1, "b": 1}).prepare(
        Dataset.from_dict({"a": values[0], "b": values[1]}), str(tmp_path / "1")
    )
    other = Dataset.from_dict({"a": np.exp(9 * values[0]), "b": values[1]})
    scaled = Combine({"a": 1, "b": 1}).prepare(other, str(tmp_path / "2"))
    np.testing.assert_allclose(
        plain({"a": values[0], "b": values[1]})["combined"], scaled(other[:])["combined"]
    )


def test_a_row_without_a_value_is_undefined_and_says_which(tmp_path, caplog):
    rows = Dataset.from_dict({"ifd": [0.1, None, 0.3, float("nan")], "quality": [1, 2, None, None]})
    with caplog.at_level("INFO"):
        table = score(rows, [Combine({"ifd": 1, "quality": 2})], tmp_path)
    assert np.isnan(np.array(table["combined"][:], dtype=float)).tolist() == [False] + [True] * 3
    assert table["combined_status"][:] == ["ok", "no_ifd", "no_quality", "no_ifd"]
    assert "without a value in 'ifd'" in caplog.text
    assert select(table, TopK("combined", 1)).rows.tolist() == [0]


@pytest.mark.parametrize(
    "weights", [{}, "ifd", ["ifd"], {"ifd": 0}, {"ifd": "1"}, {"": 1}, {"ifd": True}], ids=str
)
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights=|by="):
        Combine(weights)


def test_a_column_that_is_missing_or_empty_is_named(tmp_path):
    rows = Dataset.from_dict({"ifd": [0.1], "none": [None]})
    with pytest.raises(ValueError, match="no column 'quality'"):
        score(rows, [Combine({"quality": 1})], tmp_path / "1")
    with pytest.raises(ValueError, match="column 'none' has no value"):
        Combine({"none": 1}).prepare(rows, str(tmp_path))


def test_it_reads_from_a_recipe_as_it_is_written():
    recipe = Recipe.from_yaml(
        "dataset: embedded:sample\nscore: [Length, {Combine: {weights: {length: 1}}}]\n"
        "select: [{TopK: {by: combined, k: 3}}]\n"
    )
    assert recipe.score[1] == Combine({"length": 1})
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
