"""The published picks of learning percentage on Dolly come out of our formulas and PerCluster,
where they are sound.
"""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from hf_superfilter.scoring.learning_percentage import learning_percentages

here = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


@pytest.fixture(scope="module")
def picks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        yield importlib.import_module("benchmarks.learning_percentage_picks")


@pytest.fixture(scope="module")
def dolly(picks):
    return picks.load_dolly()


@here
def test_with_the_published_shares_and_zeros_nearly_all_complete_lists_are_equal_and_in_order(
    picks, dolly
):
    found = picks.agreement(dolly, 0.0)
    assert found.lists == 1_974
    assert found.in_order >= 0.95 * found.lists
    assert (
        found.but_for_ties == found.lists
    )  # the others differ in the order of rows without LP, all of them 0


@here
def test_lists_without_a_row_that_has_no_lp_are_all_equal_and_in_order(picks, dolly):
    found = picks.agreement(dolly, np.nan, defined_only=True)
    assert found.in_order == found.lists == 1_488


@here
def test_the_total_is_exact_where_the_published_one_is_a_tenth_too_large(picks, dolly):
    assert picks.exact_total(dolly) == (1_496, 1_496, 1_628)


# The formulas


def test_the_percentages_of_all_epochs_add_up_to_one_and_the_approximation_needs_one_epoch():
    perplexities = np.random.default_rng(0).lognormal(2, 1, size=(4, 50))
    lp, lp_app = learning_percentages(perplexities)
    assert lp.shape == (3, 50)
    np.testing.assert_allclose(lp.sum(axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(
        lp[0], (perplexities[0] - perplexities[1]) / (perplexities[0] - perplexities[3])
    )
    np.testing.assert_array_equal(learning_percentages(perplexities[:2])[1], lp_app)
    assert (lp[0] < 0).any() and (lp[0] > 1).any(), "values outside 0 to 1 are kept"


def test_a_row_that_was_not_scored_or_learned_nothing_has_no_percentage():
    nan, inf = math.nan, math.inf
    rows = {
        "scored at 1 in every epoch, as the published code does": (
            [1, 1, 1, 1],
            [nan, nan, nan],
            0,
        ),
        "nothing learned in the end": ([5, 3, 4, 5], [nan, nan, nan], 0.4),
        "no perplexity": ([nan, nan, nan, nan], [nan, nan, nan], nan),
        "none at first": ([inf, 4, 3, 2], [nan, nan, nan], nan),
        "none in the middle": ([8, inf, 4, 4], [nan, nan, 0], nan),
        "none after the second epoch": ([8, 6, nan, 4], [0.5, nan, nan], 0.25),
        "none at last": ([8, 6, 5, inf], [nan, nan, nan], 0.25),
    }
    lp, lp_app = learning_percentages(np.array([p for p, _, _ in rows.values()], dtype=float).T)
    np.testing.assert_array_equal(lp.T, [wanted for _, wanted, _ in rows.values()])
    np.testing.assert_array_equal(lp_app, [wanted for _, _, wanted in rows.values()])


@pytest.mark.parametrize("perplexities", [np.ones(4), np.ones((1, 4)), np.ones((2, 2, 2))])
def test_perplexities_of_another_shape_are_refused(perplexities):
    with pytest.raises(ValueError, match=r"give \(epochs \+ 1, rows\)"):
        learning_percentages(perplexities)
