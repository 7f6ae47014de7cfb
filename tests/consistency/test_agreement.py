"""Rank consistency: equal to scipy, to the definitions, and to what resampling the rows themselves
would give.
"""

import math

import numpy as np
import pytest
from conftest import SHARED
from datasets import Dataset
from scipy import stats

from hf_superfilter import Threshold, TopK, select
from hf_superfilter.consistency.compare import rows_for_width
from hf_superfilter.metrics.rank_consistency.agreement import (
    Pairs,
    _resampled,
    rank_consistency,
)
from hf_superfilter.metrics.rank_consistency.intervals import kendall
from hf_superfilter.metrics.rank_consistency.weighted import (
    RankAgreement,
    Side,
    weights_of_resamples,
)

CORRELATIONS = ("spearman", "kendall", "pearson_log")


def scores(rows, *, r=0.7, levels=0, missing=0.0, seed=0):
    """Two models' positive scores: correlated, with ties at levels, nan where missing."""
    rng = np.random.default_rng(seed)
    weak = rng.standard_normal(rows)
    pair = [weak, r * weak + math.sqrt(1 - r * r) * rng.standard_normal(rows)]
    pair = [np.exp(np.round(x * levels) / levels if levels else x) for x in pair]
    for side in pair:
        side[rng.random(rows) < missing] = np.nan
    return pair


def quick(weak, strong, **settings):
    return rank_consistency(weak, strong, **({"resamples": 0} | settings))


def figures_of(found):
    """The figures that have an interval."""
    return [key.removesuffix("_low") for key in found if key.endswith("_low")]


def same(a, b):
    """Equal results, nan to nan."""
    assert list(a) == list(b)
    for key, value in a.items():
        assert value == b[key] or (math.isnan(value) and math.isnan(b[key])), key


# The figures


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize("rows", [2, 3, 20, 501])
def test_correlations_are_scipys_on_the_pairs_that_both_models_scored(rows, levels):
    for seed in range(5):
        weak, strong = scores(rows, levels=levels, missing=0.2 if rows > 3 else 0.0, seed=seed)
        both = ~np.isnan(weak + strong)
        found = quick(weak, strong)
        assert (found["pairs"], found["dropped"]) == (both.sum(), (~both).sum())
        a, b = weak[both], strong[both]
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert all(math.isnan(found[name]) for name in CORRELATIONS)
            continue
        assert found["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        assert found["kendall"] == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
        assert found["pearson_log"] == pytest.approx(
            stats.pearsonr(np.log(a), np.log(b)).statistic, abs=1e-12
        )


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("below", [None, 1.0])
def test_the_tops_are_what_the_package_selects_ties_and_missing_scores_included(largest, below):
    weak, strong = scores(203, levels=3, missing=0.05)
    both = ~np.isnan(weak + strong)
    table = Dataset.from_dict(
        {"weak": np.where(both, weak, np.nan), "strong": np.where(both, strong, np.nan)}
    )

    def top(side, share):
        steps = [Threshold(side, below=below)] if below else []
        return set(select(table, [*steps, TopK(side, share, largest=largest)]).rows.tolist())

    found = quick(weak, strong, largest=largest, below=below, budgets=(0.03, 0.10, 0.2))
    for share, key in ((0.03, "0.03"), (0.10, "0.10"), (0.2, "0.20")):
        a, b = top("weak", share), top("strong", share)
        assert found[f"overlap@{key}"] == pytest.approx(len(a & b) / len(b), abs=1e-12)
        assert found[f"jaccard@{key}"] == pytest.approx(len(a & b) / len(a | b), abs=1e-12)
        assert found[f"overlap_chance@{key}"] == len(a) / both.sum()
    for pool in (0.1, 0.2, 0.3):
        a, b = top("weak", pool), top("strong", 0.05)
        assert found[f"survival@{pool:.2f}"] == pytest.approx(len(a & b) / len(b), abs=1e-12)
        assert found[f"survival_chance@{pool:.2f}"] == len(a) / both.sum()


def rbo_by_definition(weak, strong, p):
    """Webber et al., equation 32, word for word."""
    short, long = sorted((weak, strong), key=len)
    s, l = len(short), len(long)  # noqa: E741 - the letters of the paper
    x = [len(set(short[:d]) & set(long[:d])) for d in range(l + 1)]
    first = sum(x[d] / d * p**d for d in range(1, l + 1))
    second = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (first + second) + ((x[l] - x[s]) / l + x[s] / s) * p**l


@pytest.mark.parametrize("below", [None, 1.5, 0.7])
def test_rank_biased_overlap_is_that_of_the_paper_for_lists_of_equal_and_of_unequal_length(below):
    for seed in range(5):
        weak, strong = scores(60, seed=seed)
        order = [np.argsort(-side) for side in (weak, strong)]
        lists = [
            [row for row in rows if below is None or side[row] < below]
            for rows, side in zip(order, (weak, strong), strict=True)
        ]
        wanted = rbo_by_definition(*lists, p=1 - 1 / 12)
        assert quick(weak, strong, below=below, budgets=(0.1, 0.2))["rbo"] == pytest.approx(
            wanted, abs=1e-12
        )


def test_equal_models_agree_wholly_and_reversed_ones_not_at_all():
    weak, _ = scores(200)
    found = quick(weak, weak)
    assert all(found[name] == pytest.approx(1, abs=1e-12) for name in figures_of(found))
    found = quick(weak, 1 / weak)
    assert all(found[name] == pytest.approx(-1, abs=1e-12) for name in CORRELATIONS)
    assert all(
        found[name] == 0
        for name in figures_of(found)
        if name.startswith(("overlap", "jaccard", "survival"))
    )


def test_only_the_order_of_scores_counts_but_for_pearson():
    weak, strong = scores(300, levels=4, missing=0.1)
    straight, bent = quick(weak, strong), quick(weak**3, np.log(strong) + 100)
    assert straight.pop("pearson_log") != bent.pop("pearson_log")
    same(straight, bent)


def test_the_models_may_change_places():
    weak, strong = scores(400)
    there, back = quick(weak, strong), quick(strong, weak)
    for figure in figures_of(there):
        if not figure.startswith("survival"):
            assert there[figure] == pytest.approx(back[figure], abs=1e-12)


@pytest.mark.parametrize("below", [None, 0.5])
def test_chance_is_the_mean_over_random_rankings(below):
    rng = np.random.default_rng(4)
    weak, strong = scores(60, seed=1)
    weak[:6] = np.nan
    drawn = [
        quick(weak, rng.permutation(strong), below=below, budgets=(0.1, 0.3)) for _ in range(400)
    ]
    for key in (key for key in drawn[0] if "_chance" in key):
        values = np.array([one[key.replace("_chance", "")] for one in drawn])
        chance = np.mean([one[key] for one in drawn])
        assert abs(values.mean() - chance) < 4 * values.std() / 20, key
        assert values.std() > 0


@pytest.mark.parametrize(
    ("rows", "dropped", "share"), [(60, 6, 0.1), (60, 0, 0.9), (60, 30, 0.4), (5_200, 0, 0.15)]
)
def test_the_chance_of_jaccard_is_its_hypergeometric_mean(rows, dropped, share):
    weak, strong = scores(rows)
    weak[:dropped] = np.nan
    k = int(share * rows)
    x = np.arange(k + 1)
    wanted = np.sum(stats.hypergeom.pmf(x, rows - dropped, k, k) * x / (2 * k - x))
    assert quick(weak, strong, budgets=(share,))[f"jaccard_chance@{share:.2f}"] == pytest.approx(
        wanted, rel=1e-9
    )


def test_budgets_are_shares_of_all_rows_taken_as_they_are_written():
    weak, strong = scores(100)
    weak[:40] = np.nan
    found = quick(weak, strong, budgets=(0.29,))
    assert found["overlap@0.29"] * 29 == pytest.approx(round(found["overlap@0.29"] * 29), abs=1e-9)
    assert found["overlap_chance@0.29"] == 29 / 60


# The intervals


@pytest.mark.parametrize("below", [None, 1.2])
def test_figures_of_weighted_rows_are_those_of_the_rows_written_out(below):
    weak, strong = scores(80, levels=6)
    tops = {"overlap@0.10": (8, 8), "survival@0.30": (24, 4)}
    sides = [Side(side, largest=True, below=below) for side in (weak, strong)]
    weights = np.concatenate(list(weights_of_resamples(80, 20, seed=3)))
    found = RankAgreement(*sides, np.log([weak, strong]), tops, 12).statistics(weights)
    assert weights.shape == (20, 80)
    for number, counts in enumerate(weights):
        assert counts.sum() == 80
        a, b = np.repeat(weak, counts), np.repeat(strong, counts)
        assert found["spearman"][number] == pytest.approx(
            stats.spearmanr(a, b).statistic, abs=1e-12
        )
        assert found["pearson_log"][number] == pytest.approx(
            stats.pearsonr(np.log(a), np.log(b)).statistic, abs=1e-12
        )
        lists = [np.argsort(-side, kind="stable") for side in (a, b)]
        lists = [
            [row for row in rows if below is None or side[row] < below]
            for rows, side in zip(lists, (a, b), strict=True)
        ]
        assert found["rbo"][number] == pytest.approx(
            rbo_by_definition(*lists, p=1 - 1 / 12), abs=1e-12
        )
        for figure, (k, j) in tops.items():
            in_both = set(lists[0][:k]) & set(lists[1][:j])
            assert found[figure][number] == pytest.approx(
                len(in_both) / min(j, len(lists[1])), abs=1e-12
            )


@pytest.mark.parametrize("bins", [None, ([1.0], [1.0]), ([3.0], [3.0, 8.0])])
def test_kendalls_error_is_that_of_resampled_rows_with_few_and_rare_values_too(bins):
    weak, strong = scores(200, r=0.8)
    if bins:
        weak, strong = np.digitize(weak, bins[0]), np.digitize(strong, bins[1])
    rng = np.random.default_rng(0)
    draws = [
        stats.kendalltau(weak[i], strong[i]).statistic for i in rng.integers(0, 200, (800, 200))
    ]
    assert kendall(weak, strong)[1] == pytest.approx(np.std(draws), rel=0.1)


def test_intervals_are_as_wide_as_resampling_the_rows_makes_them():
    weak, strong = scores(400)
    rng = np.random.default_rng(0)
    draws = [quick(weak[i], strong[i]) for i in rng.integers(0, 400, (400, 400))]
    found = rank_consistency(weak, strong)
    for figure in ("spearman", "pearson_log", "overlap@0.15", "survival@0.10", "rbo"):
        error, low, high = (
            np.std([one[figure] for one in draws]),
            found[f"{figure}_low"],
            found[f"{figure}_high"],
        )
        if figure in CORRELATIONS:
            scale = 1 / (1 - found[figure] ** 2)
            assert math.atanh(high) - math.atanh(low) == pytest.approx(
                2 * 1.96 * error * scale, rel=0.1
            )
        else:
            assert high - low == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """500 simulations: between 92% and 98% for a true 95% (3 standard errors); those of shares may
    be wider.
    """
    rng, times = np.random.default_rng(7), 500
    truth = {
        "spearman": 6 / math.pi * math.asin(0.4),
        "kendall": 2 / math.pi * math.asin(0.8),
        "pearson_log": 0.8,
    }
    truth |= {
        "overlap@0.10": 0.563,
        "jaccard@0.15": 0.437,
        "survival@0.10": 0.706,
    }  # of two million rows
    held = dict.fromkeys(truth, 0)
    for seed in range(times):
        found = rank_consistency(
            *scores(300, r=0.8, seed=rng.integers(1 << 30)), resamples=100, seed=seed
        )
        for figure, true in truth.items():
            held[figure] += found[f"{figure}_low"] <= true <= found[f"{figure}_high"]
    for figure, count in held.items():
        assert 0.92 <= count / times <= (0.98 if figure in CORRELATIONS else 1), (
            figure,
            count / times,
        )


def halves(weak, strong, *, below=None, part_pairs=10**9, resamples=400):
    """Standard errors by parts of so many pairs; parts need tops of 1,000 rows."""
    rows = len(weak)
    tops = {"overlap@0.50": (rows // 2, rows // 2), "survival@0.90": (9 * rows // 10, rows // 2)}
    pairs = Pairs({"weak": weak, "strong": strong}, tops, rows // 2, largest=True, below=below)
    names = ["spearman", "pearson_log", *tops, "rbo"]
    return _resampled(pairs, names, resamples, 3, part_pairs)


@pytest.mark.parametrize("below", [None, 1.5])
@pytest.mark.parametrize("levels", [0, 4])
def test_parts_of_many_pairs_give_the_errors_of_all(levels, below):
    """8,000 pairs in four parts, against resampled rows and against weights of all."""
    weak, strong = scores(8_000, levels=levels)
    draws, errors = halves(weak, strong, below=below, part_pairs=2_000)
    _, of_all = halves(weak, strong, below=below)
    assert len(draws["spearman"]) == 400
    for name, error in of_all.items():
        assert errors[name] == pytest.approx(error, rel=0.15), name
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 8_000, (300, 8_000))
    plain = np.std([stats.spearmanr(weak[i], strong[i]).statistic for i in pairs])
    assert errors["spearman"] == pytest.approx(plain, rel=0.15)


def test_intervals_by_parts_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(11), []
    for _ in range(120):
        weak, strong = scores(4_000, r=0.8, seed=rng.integers(1 << 30))
        _, errors = halves(weak, strong, part_pairs=2_000, resamples=100)
        value = stats.spearmanr(weak, strong).statistic
        held.append(abs(value - 6 / math.pi * math.asin(0.4)) <= 1.96 * errors["spearman"])
    assert 0.89 <= np.mean(held) <= 1  # three standard errors of 120


def test_no_part_is_taken_where_a_top_would_be_small_or_resamples_are_few():
    weak, strong = scores(8_000)
    _, one = halves(weak, strong, part_pairs=2_000, resamples=10)
    assert one == halves(weak, strong, resamples=10)[1]
    few = {"overlap@0.05": (400, 400)}
    pairs = Pairs({"weak": weak, "strong": strong}, few, 400, largest=True, below=None)
    errors = [_resampled(pairs, ["spearman"], 20, 3, size)[1] for size in (2_000, 10**9)]
    assert errors[0] == errors[1]


def test_intervals_hold_their_figure_and_narrow_with_confidence_and_rows():
    weak, strong = scores(400, missing=0.05)
    found, surer = rank_consistency(weak, strong), rank_consistency(weak, strong, confidence=0.99)
    more = rank_consistency(*scores(1_600, missing=0.05))
    for figure in figures_of(found):
        low, high = found[f"{figure}_low"], found[f"{figure}_high"]
        assert low < found[figure] < high
        assert surer[f"{figure}_low"] < low and high < surer[f"{figure}_high"]
        assert (
            0.3 * (high - low)
            < more[f"{figure}_high"] - more[f"{figure}_low"]
            < 0.75 * (high - low)
        )


def test_a_resample_of_one_value_only_has_no_correlation():
    weak, strong = np.full(30, 0.7), np.linspace(0.1, 0.2, 30)
    weak[3] = 0.1
    sides = [Side(side, largest=True, below=None) for side in (weak, strong)]
    weights = np.full((1, 30), 1)
    weights[0, 3:5] = 0, 2
    found = RankAgreement(*sides, np.log([weak, strong]), {}, 0).statistics(weights)
    assert np.isnan(found["spearman"][0]) and np.isnan(found["pearson_log"][0])


def test_a_share_of_0_or_1_is_not_certain():
    weak, _ = scores(300)
    found = rank_consistency(weak, weak)
    assert 0.7 < found["overlap@0.05_low"] < 0.9 < found["overlap@0.05_high"] == 1
    found = rank_consistency(weak, 1 / weak)
    assert found["jaccard@0.05"] == found["jaccard@0.05_low"] == 0
    assert 0.05 < found["jaccard@0.05_high"] < 0.2


def test_the_seed_settles_the_intervals_and_touches_nothing_else():
    weak, strong = scores(300)
    one, other = rank_consistency(weak, strong, seed=1), rank_consistency(weak, strong, seed=2)
    same(one, rank_consistency(weak, strong, seed=1))
    assert one["spearman_low"] != other["spearman_low"]
    assert all(one[figure] == other[figure] for figure in figures_of(one))
    assert all(math.isnan(quick(weak, strong)[f"{figure}_low"]) for figure in figures_of(one))


def test_how_many_rows_a_width_asks_for_is_about_right():
    few = rank_consistency(*scores(300))
    rows = rows_for_width(few["spearman_low"], few["spearman_high"], 300, 0.06)
    more = rank_consistency(*scores(rows, seed=5))
    assert more["spearman_high"] - more["spearman_low"] == pytest.approx(0.06, rel=0.25)
    assert rows_for_width(0.4, 0.6, 100, 0.2) == 100
    assert rows_for_width(1.0, 1.0, 100, 0.2) == 1


@pytest.mark.parametrize(
    ("low", "high", "pairs", "width", "message"),
    [
        (math.nan, 1.0, 10, 0.1, "low=nan"),
        (0.6, 0.5, 10, 0.1, "low first"),
        (0.5, 0.6, 0, 0.1, "pairs=0"),
        (0.5, 0.6, 10, 0.0, "width=0.0"),
    ],
)
def test_a_width_that_cannot_be_reckoned_is_refused(low, high, pairs, width, message):
    with pytest.raises(ValueError, match=message):
        rows_for_width(low, high, pairs, width)


# Bad input


NASTY = {
    "no rows": ([], []),
    "one row": ([1.0], [2.0]),
    "two rows": ([1.0, 2.0], [2.0, 1.0]),
    "all nan": ([math.nan] * 30, list(range(30))),
    "one pair": ([math.nan] * 29 + [1.0], list(range(30))),
    "all ties": ([0.5] * 40, list(range(1, 41))),
    "all ties on both sides": ([0.5] * 40, [2.0] * 40),
    "not above 0": (list(range(-20, 20)), list(range(1, 41))),
    "few": ([1.0, 3.0, 2.0, 4.0, None], [1.0, 2.0, 3.0, 5.0, 6.0]),
    "rare values": ([1.0] * 29 + [2.0], [1.0] * 28 + [3.0, 2.0]),
    "nothing strong below": (list(np.linspace(0.1, 2, 50)), list(np.linspace(1.1, 2, 50))),
    "nothing weak below": (list(np.linspace(1.1, 2, 50)), list(np.linspace(0.1, 2, 50))),
}


@pytest.mark.parametrize("below", [None, 1.0])
@pytest.mark.parametrize("case", NASTY)
def test_a_figure_that_cannot_be_told_is_nan_and_the_notes_name_it(case, below):
    found = rank_consistency(*NASTY[case], below=below, resamples=50)
    said = " ".join(found["notes"])
    figures = figures_of(found)
    for figure in figures:
        name = figure.replace("jaccard", "overlap and jaccard").replace(
            "overlap@", "overlap and jaccard@"
        )
        value, low, high = (found[key] for key in (figure, f"{figure}_low", f"{figure}_high"))
        if math.isnan(value) or math.isnan(low):
            assert name in said or "every figure" in said, figure
        if not math.isnan(low):
            assert low <= value <= high
    assert len(figures) == 3 + 2 * 3 + 1 + 3
    assert found["pairs"] + found["dropped"] == len(NASTY[case][0])


def test_what_a_note_warns_of_is_there():
    weak, strong = scores(300, levels=2)
    assert "the earlier rows are taken" in " ".join(quick(weak, strong)["notes"])
    weak, strong = scores(300)
    assert quick(weak, strong)["notes"] == ["resamples=0: there are no intervals."]
    assert rank_consistency(weak, strong)["notes"] == []
    assert (
        "rough intervals: overlap and jaccard@0.03."
        in quick(weak, strong, budgets=(0.03, 0.10))["notes"][0]
    )
    assert (
        "7 rows only, fewer than the budget of"
        in quick(weak, strong, below=np.sort(weak)[7])["notes"][0]
    )
    assert "tells nothing for spearman, pearson_log" in rank_consistency(weak, weak)["notes"][0]


def test_fewer_rows_may_be_selected_than_the_budget_has_room_for():
    strong = np.linspace(0.5, 1.5, 100)
    weak = strong.copy()
    weak[:45] = 2.0  # 5 rows of the weak model are below 1, 50 of the strong one
    found = rank_consistency(weak, strong, below=1.0, budgets=(0.10,))
    assert (
        found["overlap@0.10"] == 0.5
        and found["jaccard@0.10"] == 0.5
        and found["overlap_chance@0.10"] == 0.05
    )


@pytest.mark.parametrize(
    ("weak", "strong", "message"),
    [
        ([1.0, 2.0], [1.0], "2 weak and 1 strong"),
        ([[1.0], [2.0]], [1.0, 2.0], r"weak scores have the shape \(2, 1\)"),
        (1.0, [1.0], r"weak scores have the shape \(\)"),
        ([1.0, 2.0], [1.0, math.inf], "1 strong scores are infinite, the first in row 1"),
        ([-math.inf, 2.0], [1.0, math.nan], "1 weak scores are infinite, the first in row 0"),
        (["a", "b"], [1.0, 2.0], "weak scores must be numbers"),
        ([1.0, 2.0], [1.0, {}], "strong scores must be numbers"),
        ([[1.0], [1.0, 2.0]], [1.0, 2.0], "weak scores must be numbers"),
    ],
)
def test_what_are_no_scores_is_refused(weak, strong, message):
    with pytest.raises(ValueError, match=message):
        rank_consistency(weak, strong)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("budgets", 0.05),
        ("budgets", ()),
        ("budgets", (0.05, 0.0)),
        ("budgets", (1.5,)),
        ("budgets", (1,)),
        ("budgets", (math.nan,)),
        ("budgets", "0.05"),
        ("largest", "no"),
        ("below", "1"),
        ("below", math.nan),
        ("confidence", 95),
        ("confidence", 1.0),
        ("confidence", 0),
        ("resamples", 5),
        ("resamples", -1),
        ("resamples", 100.0),
        ("resamples", True),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name_and_value(setting, value):
    with pytest.raises(
        ValueError, match=f"{setting}={value!r}".replace("(", r"\(").replace(")", r"\)")
    ):
        rank_consistency([1.0, 2.0], [1.0, 2.0], **{setting: value})


def test_scores_may_come_as_columns_arrays_and_integers():
    weak, strong = scores(50)
    table = Dataset.from_dict({"weak": weak, "strong": strong})
    same(quick(table["weak"], table["strong"]), quick(weak, strong))
    same(quick(np.arange(50), range(50)), quick(np.arange(50.0), list(range(50))))
    assert (
        quick(weak, strong, budgets=np.array([0.1]))["overlap@0.10"]
        == quick(weak, strong)["overlap@0.10"]
    )
    assert "overlap@0.10" in quick(weak, strong, budgets=[np.float32(0.1)])


# Published scores


@pytest.fixture(scope="module")
def dolly():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return np.load(SHARED / "scores/dolly_ppl.npz")


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("opt-350m", 0.841), ("opt-1.3b", 0.873), ("opt-13b", 0.911), ("llama2-7b", 0.988)],
)
def test_spearman_of_published_perplexities_is_as_reported(dolly, model, wanted):
    found = quick(dolly[f"{model}/pre"], dolly["llama2-13b/pre"])
    assert found["spearman"] == pytest.approx(wanted, abs=6e-4)
    assert found["pairs"] == 15_011


def test_spearman_of_published_learning_percentages_is_as_reported(dolly):
    def lp(model):  # as published, 0 where no token was scored
        first, last = (
            dolly[f"{model}/pre"].astype(float) - dolly[f"{model}/{epoch}"]
            for epoch in ("ep1", "ep3")
        )
        return np.divide(first, last, out=np.zeros(len(first)), where=last != 0)

    found = quick(lp("opt-350m"), lp("llama2-13b"), largest=False)
    assert found["spearman"] == pytest.approx(0.699, abs=6e-4)


def test_six_models_of_one_size_rank_ifd_alike():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    six = np.load(SHARED / "scores/ifd_six_models.npz")
    models = sorted({key.split("/")[0] for key in six.files})
    ifd = {
        model: six[f"{model}/ppl_A_condition"].astype(float) / six[f"{model}/ppl_A_direct"]
        for model in models
    }
    found = [quick(ifd[a], ifd[b], below=1.0)["spearman"] for a in models for b in models if a < b]
    assert len(found) == 15
    assert (round(min(found), 2), round(max(found), 2)) == (0.83, 0.96)


@pytest.mark.parametrize("seed", [2**32, 2**64, 10**30])
def test_a_seed_of_any_size_gives_the_same_interval_twice(seed):
    weak, strong = scores(50, seed=1)
    one, two = (rank_consistency(weak, strong, resamples=50, seed=seed) for _ in range(2))
    assert one == two
    assert one["spearman_low"] < one["spearman"] < one["spearman_high"]
