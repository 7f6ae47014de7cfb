"""Selectors: budgets on the decimal, ties, nan, bands, and the laws that every selector keeps."""

import dataclasses
import importlib
import math
import pickle
import pkgutil
import re
import warnings
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

import hf_superfilter
from hf_superfilter import (
    Decontaminate,
    FacilityLocation,
    InversePropensity,
    NearDuplicates,
    PerCluster,
    Prototypes,
    RandomSample,
    SemDedup,
    Threshold,
    TopK,
    select,
    selection,
)
from hf_superfilter.data.columns import numbers_of
from hf_superfilter.selection._budget import count_of
from hf_superfilter.selection._kmeans import cluster_of

# One or more examples of every selector class; the laws below run on each.
EXAMPLES = {
    "Decontaminate": [Decontaminate(("embedded:sample",), columns=("text",))],
    "FacilityLocation": [
        FacilityLocation(3),
        FacilityLocation(0.5, similarity="euclidean", seed=1),
        FacilityLocation(4, similarity="rbf", neighbours=3),
        FacilityLocation(5, quality="ifd", weight=0.3),
    ],
    "InversePropensity": [InversePropensity(3), InversePropensity(0.5, by="ifd", seed=7)],
    "NearDuplicates": [
        NearDuplicates(columns=("text",)),
        NearDuplicates(0.3, by="ifd", k=0.5, largest=False, columns=("text",), ngram=1),
    ],
    "Prototypes": [Prototypes(3), Prototypes(0.5, clusters=1, seed=7)],
    "SemDedup": [SemDedup(3), SemDedup(0.5, clusters=2), SemDedup(threshold=0.9)],
    "TopK": [TopK("ifd", 3), TopK("ifd", 0.5, largest=False), TopK("ifd", tokens=40)],
    "Threshold": [
        Threshold("ifd", below=0.8),
        Threshold("ifd", below=1, above=-0.5),
        Threshold("ifd", above=25, below=75, percentiles=True),
    ],
    "PerCluster": [
        PerCluster("ifd", 5, clusters=3),
        PerCluster("ifd", 0.4, group="kind", largest=False),
        PerCluster(None, 7, clusters=4, seed=1),
    ],
    "RandomSample": [RandomSample(3), RandomSample(0.5, seed=7), RandomSample(tokens=40)],
}
scores = st.lists(
    st.sampled_from([0.0, -0.0, 0.5, 0.5, 0.9, 1.5, -2.0, math.nan, math.inf]),
    min_size=1,
    max_size=30,
)
shares = st.decimals("0.0001", "1", places=4)


def table_of(values, **columns):
    return Dataset.from_dict({"ifd": np.asarray(values, dtype=float), **columns})


def quietly(table, selectors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return select(table, selectors)


def selector_classes():
    for module in pkgutil.walk_packages(selection.__path__, selection.__name__ + "."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(value, type)
                and value.__module__ == module.name
                and "__call__" in vars(value)
            ):
                yield value


def examples():
    for kind in selector_classes():
        for example in EXAMPLES.get(kind.__name__, []):
            yield pytest.param(example, id=repr(example))


# The laws of every selector


def test_every_selector_of_the_package_has_an_example_here():
    found = {kind.__name__ for kind in selector_classes()}
    missing = found - EXAMPLES.keys()
    assert not missing, (
        f"add an example of {', '.join(sorted(missing))} to EXAMPLES, and the laws will run on it"
    )
    assert found >= {"TopK", "Threshold", "RandomSample"}


@pytest.fixture(scope="module")
def contract_table():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(40) < 0.2, np.nan, rng.normal(0.8, 0.4, 40).round(1))
    table = table_of(
        values,
        ifd_tokens=rng.integers(1, 9, 40),
        text=[f"row {i}" for i in range(40)],
        kind=[None, "a", "b", "a"] * 10,
        density=rng.uniform(1, 9, 40),
        embedding=rng.normal(size=(40, 5)).astype(np.float32),
    )
    return table.shuffle(seed=3).select(range(5, 35))  # with an indices mapping


@pytest.mark.parametrize("selector", list(examples()))
class TestEverySelector:
    def test_is_a_frozen_dataclass(self, selector):
        assert dataclasses.is_dataclass(selector)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(selector, dataclasses.fields(selector)[0].name, 1)

    def test_is_called_by_its_public_name(self, selector):
        assert getattr(hf_superfilter, type(selector).__name__) is type(selector)

    def test_has_a_repr_that_builds_it_again(self, selector):
        assert (
            eval(repr(selector), vars(hf_superfilter) | {type(selector).__name__: type(selector)})
            == selector
        )

    def test_pickles_small_and_equal(self, selector, contract_table):
        quietly(contract_table, [selector])
        assert len(pickle.dumps(selector)) < 1_000
        assert pickle.loads(pickle.dumps(selector)) == selector

    def test_answers_with_a_subset_of_the_pool_without_repeats_and_leaves_the_pool_alone(
        self, selector, contract_table
    ):
        pool = np.arange(0, len(contract_table), 2)
        before = pool.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rows = selector(contract_table, pool)
        assert set(rows.tolist()) <= set(before.tolist())
        assert len(np.unique(rows)) == len(rows) > 0
        np.testing.assert_array_equal(pool, before)

    def test_answers_the_same_again_and_keeps_the_same_rows_whatever_the_order_of_the_pool(
        self, selector, contract_table
    ):
        pool = np.arange(len(contract_table))
        rows = selector(contract_table, pool)
        np.testing.assert_array_equal(rows, selector(contract_table, pool))
        assert set(rows.tolist()) == set(selector(contract_table, pool[::-1]).tolist())

    def test_sees_the_rows_that_a_shuffled_table_shows(self, selector, contract_table):
        flat = Dataset.from_list(contract_table.to_list(), features=contract_table.features)
        assert contract_table._indices is not None and flat._indices is None
        pool = np.arange(len(flat))
        np.testing.assert_array_equal(selector(contract_table, pool), selector(flat, pool))

    def test_takes_an_empty_pool(self, selector, contract_table):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert len(selector(contract_table, np.array([], dtype=np.int64))) == 0


# Budgets


@given(share=shares, rows=st.integers(1, 100_000))
def test_a_share_is_rounded_down_on_the_decimal_it_is_written_as(share, rows):
    assert count_of(float(share), rows) == math.floor(share * rows)


@given(k=st.integers(1, 10**12), rows=st.integers(1, 1000))
def test_a_whole_number_is_a_count(k, rows):
    assert count_of(k, rows) == k


@pytest.mark.parametrize("share", [0.29, np.float64(0.29), np.float32(0.29)])
def test_29_percent_of_100_rows_are_29(share):
    table = table_of(np.arange(100))
    assert (
        len(select(table, [TopK("ifd", share)]).rows)
        == len(select(table, [RandomSample(share)]).rows)
        == 29
    )


@given(values=scores, share=shares)
def test_a_share_is_one_of_all_rows_also_after_a_threshold(values, share):
    table = table_of(values)
    kept = quietly(table, [Threshold("ifd", below=1.0), TopK("ifd", float(share))]).rows
    room = math.floor(Decimal(share) * len(values))
    assert len(kept) == min(room, sum(value < 1.0 for value in values))


def test_a_share_below_one_row_keeps_none():
    assert len(select(table_of([1.0, 2.0]), [TopK("ifd", 0.1)]).subset) == 0


@pytest.mark.parametrize(
    ("selectors", "step"),
    [
        ([TopK("ifd", 0.1)], r"TopK\(by='ifd', k=0.1\) drops all of the 2 rows"),
        ([Threshold("ifd", above=9), Threshold("ifd", below=9)], r"above=9\) drops all of the 2"),
    ],
)
def test_the_step_that_drops_all_rows_is_told(selectors, step, caplog):
    assert len(select(table_of([1.0, 2.0]), selectors)) == 0
    assert re.search(step, caplog.text)


def test_one_is_a_row_and_one_point_zero_is_all_rows():
    table = table_of([0.1, 0.2, 0.3])
    assert [len(select(table, [TopK("ifd", k)]).rows) for k in (1, 1.0)] == [1, 3]


BAD_BUDGETS = [
    {"k": 0},
    {"k": -1},
    {"k": 1.5},
    {"k": 0.0},
    {"k": -0.1},
    {"k": math.nan},
    {"k": math.inf},
    {"k": True},
    {"k": "ten"},
    {"k": [1]},
    {"tokens": 0},
    {"tokens": 2.5},
    {"tokens": True},
    {"tokens": "ten"},
    {"k": 1, "tokens": 1},
    {},
]


@pytest.mark.parametrize("budget", BAD_BUDGETS, ids=str)
@pytest.mark.parametrize(
    "make", [lambda **budget: TopK("ifd", **budget), RandomSample], ids=["TopK", "RandomSample"]
)
def test_a_bad_budget_is_refused_with_the_value_seen(make, budget):
    with pytest.raises(ValueError, match="give") as caught:
        make(**budget)
    assert all(f"{name}={value!r}" in str(caught.value) for name, value in budget.items())


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: RandomSample(1, seed=1.5), "seed=1.5"),
        (lambda: RandomSample(1, seed=-1), "seed=-1"),
        (lambda: RandomSample(1, seed="x"), "seed='x'"),
        (lambda: TopK(5, 1), "by=5"),
        (lambda: TopK("", 1), "by=''"),
        (lambda: TopK("ifd", 1, largest="no"), "largest='no'"),
        (lambda: Threshold(None, below=1), "by=None"),
        (lambda: Threshold("ifd"), "no limit"),
        (lambda: Threshold("ifd", below="1.0"), "below='1.0'"),
        (lambda: Threshold("ifd", above=True), "above=True"),
        (lambda: Threshold("ifd", below=math.nan), "below=nan"),
        (lambda: Threshold("ifd", below=math.inf), "below=inf"),
        (lambda: Threshold("ifd", above=-1, percentiles=True), "above=-1"),
        (lambda: Threshold("ifd", below=101, percentiles=True), "below=101"),
        (lambda: Threshold("ifd", below=1, percentiles="yes"), "percentiles='yes'"),
        (lambda: Threshold("ifd", below=1, above=2), "above=2 is not under 1"),
        (lambda: Threshold("ifd", below=1, above=1), "keeps nothing"),
    ],
)
def test_a_bad_setting_is_refused_with_the_value_seen(make, seen):
    with pytest.raises(ValueError) as caught:
        make()
    assert seen in str(caught.value)


def test_numpy_numbers_become_python_numbers():
    selector = TopK("ifd", tokens=np.arange(4).sum())
    assert repr(selector) == "TopK(by='ifd', tokens=6)"
    assert repr(Threshold("ifd", below=np.float32(0.1))) == "Threshold(by='ifd', below=0.1)"


# TopK


@given(values=scores, k=st.integers(1, 30), largest=st.booleans())
def test_top_k_is_python_s_own_stable_sort_without_the_nan_rows(values, k, largest):
    kept = quietly(table_of(values), [TopK("ifd", k, largest=largest)]).rows.tolist()
    defined = [row for row, value in enumerate(values) if not math.isnan(value)]
    wanted = sorted(defined, key=lambda row: -values[row] if largest else values[row])[:k]
    assert kept == wanted


def test_fewer_rows_than_the_budget_is_a_warning_with_both_numbers():
    table = table_of([0.1, math.nan, 0.3, math.nan])
    with pytest.warns(UserWarning, match=r"room for 3 rows, and only 2 rows"):
        assert select(table, [TopK("ifd", 3)]).rows.tolist() == [2, 0]
    with pytest.warns(UserWarning, match=r"room for 9 rows, and only 4 rows") as caught:
        select(table, [RandomSample(9)])
    assert caught[0].filename == __file__, "the warning points at the line that called select"


def test_a_token_budget_that_is_not_filled_is_a_warning_with_both_numbers():
    table = table_of([0.1, 0.2], ifd_tokens=[5, 6])
    for selector in (TopK("ifd", tokens=12), RandomSample(tokens=12)):
        with pytest.warns(UserWarning, match=r"room for 12 tokens, and only 11 tokens"):
            assert len(select(table, [selector]).rows) == 2


@pytest.mark.parametrize("make", [lambda: TopK("ifd", tokens=4), lambda: RandomSample(tokens=4)])
def test_a_token_budget_into_which_nothing_fits_is_a_warning_with_both_numbers(make):
    with pytest.warns(
        UserWarning, match=r"room for 4 tokens, and the first row alone takes 5: nothing is kept"
    ):
        assert len(select(table_of([0.1, 0.1], ifd_tokens=[5, 5]), [make()]).rows) == 0


def test_a_row_without_a_token_count_has_no_price_and_is_not_taken():
    table = table_of([0.9, 0.8, 0.7, 0.6], ifd_tokens=[math.nan, 3, None, 4])
    assert select(table, [TopK("ifd", tokens=7)]).rows.tolist() == [1, 3]
    assert sorted(select(table, [RandomSample(tokens=7)]).rows.tolist()) == [1, 3]
    with pytest.warns(UserWarning, match="only 0 tokens"):
        select(table_of([0.9], ifd_tokens=[math.nan]), [TopK("ifd", tokens=7)])


@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=30),
    data=st.data(),
)
def test_a_token_budget_takes_the_best_rows_until_the_next_would_exceed_it(rows, data):
    values, tokens = map(list, zip(*rows, strict=True))
    budget = data.draw(st.integers(1, sum(tokens)))
    table = table_of(values, ifd_tokens=tokens)
    kept = quietly(table, [TopK("ifd", tokens=budget)]).rows
    order = select(table, [TopK("ifd", 1.0)]).rows
    np.testing.assert_array_equal(kept, order[: len(kept)])
    used = sum(tokens[row] for row in kept)
    assert used <= budget
    assert len(kept) == len(order) or used + tokens[order[len(kept)]] > budget


@given(
    tokens=st.lists(st.integers(1, 50), min_size=2, max_size=30),
    k=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_a_random_sample_matches_the_tokens_of_another_selection_within_one_row(tokens, k, seed):
    table = table_of(np.arange(len(tokens)), ifd_tokens=tokens)
    wanted = sum(quietly(table, [TopK("ifd", k)]).subset["ifd_tokens"][:])
    drawn = sum(quietly(table, [RandomSample(tokens=wanted, seed=seed)]).subset["ifd_tokens"][:])
    assert wanted - max(tokens) < drawn <= wanted


def test_tokens_are_those_of_the_ranked_score_else_of_the_first_scorer():
    table = Dataset.from_dict(
        {
            "max_tokens": [9, 9],
            "ppl": [1.0, 2.0],
            "ppl_tokens": [1, 1],
            "ifd": [1.0, 2.0],
            "ifd_ppl": [1.0, 2.0],
            "ifd_tokens": [4, 4],
        }
    )
    with pytest.warns(UserWarning, match="only 8 tokens"):
        select(table, [TopK("ifd_ppl", tokens=50)])
    with pytest.warns(UserWarning, match="only 2 tokens"):
        select(table, [RandomSample(tokens=50)])
    with pytest.raises(ValueError, match="ends in '_tokens'"):
        select(table_of([1.0]), [TopK("ifd", tokens=5)])


# RandomSample


def test_a_random_sample_depends_on_its_seed_and_covers_all_rows():
    table = table_of(np.arange(50))
    draws = [
        tuple(select(table, [RandomSample(10, seed=seed)]).rows.tolist()) for seed in range(40)
    ]
    assert len(set(draws)) == 40
    assert {row for draw in draws for row in draw} == set(range(50))


def test_a_random_sample_needs_no_score():
    assert len(select(Dataset.from_dict({"text": list("abcdef")}), [RandomSample(0.5)]).rows) == 3


# Threshold


@given(values=scores, above=st.sampled_from([-3, 0.0, 0.5]), below=st.sampled_from([0.9, 1.0, 2]))
def test_a_threshold_keeps_what_lies_strictly_between_in_the_order_of_the_pool(
    values, above, below
):
    pool = np.arange(len(values))[::-1]
    kept = Threshold("ifd", above=above, below=below)(table_of(values), pool)
    assert kept.tolist() == [row for row in pool.tolist() if above < values[row] < below]


@given(values=scores, cuts=st.lists(st.floats(0.01, 99.99), unique=True, max_size=4))
def test_percentile_bands_share_no_row_and_miss_none(values, cuts):
    table, edges = table_of(values), [0, *sorted(cuts), 100]
    bands = [
        select(table, [Threshold("ifd", above=low, below=high, percentiles=True)]).rows.tolist()
        for low, high in pairwise(edges)
    ]
    defined = [row for row, value in enumerate(values) if not math.isnan(value)]
    assert sorted(row for band in bands for row in band) == defined
    for lower, higher in pairwise(bands):
        assert (
            not lower
            or not higher
            or max(values[row] for row in lower) <= min(values[row] for row in higher)
        )


def test_quartiles_of_a_hundred_rows_hold_25_each_ties_included():
    table = table_of([0.5] * 100)
    for low in (0, 25, 50, 75):
        rows = select(table, [Threshold("ifd", above=low, below=low + 25, percentiles=True)]).rows
        assert rows.tolist() == list(range(low, low + 25))


# Columns


@pytest.mark.parametrize(
    "make", [lambda by: TopK(by, 1), lambda by: Threshold(by, below=1)], ids=["TopK", "Threshold"]
)
def test_a_missing_column_is_named_with_the_nearest_and_with_all_there_are(make):
    table = Dataset.from_dict({"ifd_ppl": [1.0], "text": ["a"]})
    with pytest.raises(
        ValueError, match=r"no column 'ifd_pl'.*did you mean 'ifd_ppl'.*there are: ifd_ppl, text"
    ):
        select(table, [make("ifd_pl")])
    with pytest.raises(ValueError, match="column 'text' holds string, not numbers"):
        select(table, [make("text")])


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ([1, None, 3], [1, math.nan, 3]),
        ([True, None, False], [1, math.nan, 0]),
        ([None, None, None], [math.nan] * 3),
        ([Decimal("1.5"), None, Decimal("-2")], [1.5, math.nan, -2]),
        (np.array([1, 2, 3], dtype=np.float16), [1, 2, 3]),
        (np.array([2**63, 0, 1], dtype=np.uint64), [2.0**63, 0, 1]),
    ],
)
def test_any_numeric_column_can_be_read_and_null_is_nan(cells, wanted):
    table = Dataset.from_dict({"x": cells})
    np.testing.assert_array_equal(numbers_of(table, "x"), wanted)
    chunked = concatenate_datasets([table.select([2, 0]), table])
    np.testing.assert_array_equal(numbers_of(chunked, "x"), [wanted[2], wanted[0], *wanted])


def seeded_examples():
    """One example of every selector that has a seed, with vectors, scores and groups to read."""
    for name, kinds in EXAMPLES.items():
        if "seed" in {field.name for field in dataclasses.fields(kinds[0])}:
            yield pytest.param(dataclasses.replace(kinds[-1]), id=name)


@pytest.mark.parametrize("seed", [2**32, 2**64, 10**30])
@pytest.mark.parametrize("selector", list(seeded_examples()))
def test_a_seed_of_any_size_is_taken_and_draws_the_same_rows_again(selector, seed):
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    table = table_of(
        np.linspace(0.1, 0.9, 40),
        embedding=list(vectors),
        density=[1.0] * 40,
        text=[f"text number {number}" for number in range(40)],
        response_tokens=[5] * 40,
        ifd_tokens=[5] * 40,
    )
    seeded = dataclasses.replace(selector, seed=seed)
    first, second = (quietly(table, [seeded]).rows.tolist() for _ in range(2))
    assert first == second != []


def test_seeds_of_kmeans_that_share_32_bits_are_different_draws():
    vectors = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    labels = [cluster_of(vectors, 7, seed)[0].tolist() for seed in (1, 2**32 + 1, 2**64 + 1)]
    assert len({tuple(row) for row in labels}) == 3
