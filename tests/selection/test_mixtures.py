"""Quotas of groups from a table and by temperature, against Hamilton's method written out."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import PerCluster, Recipe, select

SIZES = {"en": 60, "zh": 25, "ga": 12, "eo": 3}


@pytest.fixture
def table():
    languages = [language for language, count in SIZES.items() for _ in range(count)]
    values = [(7 * row) % 101 / 101 for row in range(100)]
    return Dataset.from_dict({"language": languages, "ifd": values})


def kept(table, k=20, **settings):
    rows = select(table, PerCluster("ifd", k, group="language", **settings)).rows
    return Counter(table["language"][row] for row in rows)


def hamilton(total, weights):
    """Whole shares and largest remainders, in fractions."""
    everything = sum(Fraction(weight) for weight in weights.values())
    exact = {name: total * Fraction(weight) / everything for name, weight in weights.items()}
    shares = {name: int(share) for name, share in exact.items()}
    order = sorted(weights, key=lambda name: shares[name] - exact[name])
    for name in order[: total - sum(shares.values())]:
        shares[name] += 1
    return {name: share for name, share in shares.items() if share}


def test_a_table_of_shares_decides_the_mixture(table):
    assert kept(table, shares={"en": 3, "zh": 1}) == {"en": 15, "zh": 5}
    weights = {"en": 0.5, "zh": 0.25, "ga": 0.25}
    assert kept(table, shares=weights) == hamilton(20, weights)


def test_what_a_small_group_cannot_fill_goes_to_the_others_that_are_named(table):
    assert kept(table, shares={"eo": 1, "ga": 1}, k=12) == {"eo": 3, "ga": 9}
    with pytest.warns(UserWarning, match="room for 20 rows"):
        assert kept(table, shares={"eo": 1}) == {"eo": 3}


def test_a_temperature_of_one_is_in_proportion_and_above_it_small_groups_get_more(table):
    assert kept(table, temperature=1) == kept(table) == {"en": 12, "zh": 5, "ga": 2, "eo": 1}
    weights = {name: size ** (1 / 2) for name, size in SIZES.items()}
    assert kept(table, temperature=2) == hamilton(20, weights)
    flat = kept(table, k=12, temperature=1e6)
    assert flat == {"en": 3, "zh": 3, "ga": 3, "eo": 3}


@pytest.mark.parametrize(
    "settings",
    [{"shares": {}}, {"shares": {"en": 0}}, {"shares": ["en"]}, {"shares": {"en": "1"}},
     {"temperature": 0}, {"temperature": "hot"}, {"shares": {"en": 1}, "temperature": 2}],
    ids=str,
)  # fmt: skip
def test_a_mixture_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PerCluster("ifd", 3, group="language", **settings)


def test_a_group_that_is_not_there_and_a_table_without_groups_are_named(table):
    with pytest.raises(ValueError, match=r"shares names 'en_US'.*did you mean 'en'"):
        kept(table, shares={"en_US": 1})
    with pytest.raises(ValueError, match="name the column of groups"):
        PerCluster("ifd", 3, shares={"en": 1})


def test_it_reads_from_a_recipe_as_it_is_written():
    recipe = Recipe.from_yaml(
        "dataset: embedded:sample\nscore: [Length]\n"
        "select: [{PerCluster: {by: length, k: 9, group: category, shares: {code: 2, qa: 1}}}]\n"
    )
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("temperature", [0.001, 0.05])
def test_a_tiny_temperature_leaves_the_rows_to_the_largest_group(temperature):
    groups = ["en"] * 2_000 + ["ga"] * 1_000
    table = Dataset.from_dict({"ifd": np.arange(3_000) / 3_000, "language": groups})
    mixture = PerCluster("ifd", 10, group="language", temperature=temperature)
    assert select(table, mixture).rows.tolist() == list(range(1_999, 1_989, -1))
