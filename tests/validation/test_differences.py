"""Differences between arms are called what they are: simulated tables whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hf_superfilter.validation.differences import (
    BETTER,
    DEPENDS,
    SAME,
    WORSE,
    Difference,
    Part,
    compare_arms,
    corrected_p,
    critical_value,
    difference,
    spread_of,
)
from hf_superfilter.validation.figures import PRIMARY, Runs, figures_of, quartiles_of, ratio_of
from hf_superfilter.validation.verdict import Size, secondary, verdict_of

ROWS = 300
DRAW, ORDER = 0.003, 0.002  # standard deviations of what a draw and an order shift, nats per token


class World:
    """Rows, and students whose losses on them are made up."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tokens = np.maximum(1, self.rng.lognormal(3.5, 0.9, ROWS)).astype(np.int64)
        self.base = self.rng.normal(4.0, 0.8, ROWS)

    def draw(self, shift=0.0):
        """What one set of training rows does to every row."""
        return shift + self.rng.normal(0, DRAW) + self.rng.normal(0, 0.05, ROWS)

    def order(self):
        return self.rng.normal(0, ORDER) + self.rng.normal(0, 0.01, ROWS)

    def runs(self, effects):
        per_token = self.base + np.stack([effect + self.order() for effect in effects])
        ends = self.rng.normal(2.0, 0.5, ROWS) + 0 * per_token
        return Runs(per_token * self.tokens, ends, self.tokens, np.ones(ROWS, dtype=np.int64))

    def fixed(self, shift=0.0, orders=3):
        return self.runs([self.draw(shift)] * orders)

    def random(self, draws=5, shift=0.0):
        return self.runs([self.draw(shift) for _ in range(draws)])


def judged(measured, sets=None, target=None):
    sets = sets or {"held-out": measured}
    against = [name for name in ("random", "random-tokens", "random-lengths") if name in measured]
    primary = compare_arms(["selected"], against, sets)
    others = secondary("selected", against, sets)
    return verdict_of("selected", primary, others, held_out="held-out", target=target)


def test_a_random_selection_is_called_different_at_most_5_times_in_100():
    called = 0
    for seed in range(100):
        world = World(seed)
        measured = {
            "selected": world.fixed(),
            "random": world.random(),
            "random-tokens": world.random(),
        }
        called += judged(measured).word != SAME
    assert called <= 5


def test_intervals_over_rows_alone_would_call_far_more_random_draws_different():
    """What the variance of draws is there for."""
    with_draws, rows_alone = 0, 0
    for seed in range(100):
        world = World(seed)
        one, other = world.fixed(), world.random(5)
        measured = {"selected": one, "random": other}
        compared = difference("selected", "random", "held-out", "token mean", measured)
        with_draws += compared.p < 0.05
        own, reference = ratio_of("token mean", one), ratio_of("token mean", other)
        variance, freedom = own.row_variance(reference)
        limit = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
        rows_alone += abs(compared.value) > limit
    assert with_draws <= 7 < rows_alone


def test_a_selection_that_trains_worse_is_called_worse_at_least_95_times_in_100():
    called = 0
    for seed in range(100):
        world = World(seed)
        measured = {
            "selected": world.fixed(shift=0.06),
            "random": world.random(),
            "random-tokens": world.random(),
        }
        verdict = judged(measured)
        called += verdict.word == WORSE
        assert verdict.word != BETTER
    assert called >= 95


def test_a_verdict_of_worse_says_that_random_is_better():
    world = World(0)
    verdict = judged({"selected": world.fixed(shift=0.2), "random": world.random()})
    assert verdict.word == WORSE and "random is better" in verdict.text


def test_an_interval_covers_the_true_difference():
    """Half of them would be too narrow by luck alone; 95 of 100 have to hold it."""
    covered = 0
    for seed in range(100):
        world = World(seed)
        measured = {"selected": world.fixed(shift=-0.02), "random": world.random()}
        one = difference("selected", "random", "held-out", PRIMARY, measured)
        covered += one.low <= -0.02 <= one.high
    assert covered >= 93


def test_a_standard_error_is_the_spread_that_values_have():
    """What rows do to single runs by chance counts once: twice, it would be 1.19 times as much."""
    values, squares = [], []
    for seed in range(200):
        world = World(seed)
        measured = {"selected": world.fixed(), "random": world.random()}
        one = difference("selected", "random", "held-out", PRIMARY, measured)
        values.append(one.value)
        squares.append(one.error**2)
    assert np.sqrt(np.mean(squares)) / np.std(values) == pytest.approx(1, abs=0.1)


def test_what_a_difference_owes_to_single_rows_stays_in_its_error():
    """A selection that is better on some rows and worse on others may be either on new ones."""
    world = World(2)
    one, other = world.random(), world.random()
    alike = difference("random", "random-tokens", "held-out", "row mean",
                       {"random": one, "random-tokens": other})  # fmt: skip
    effect = world.rng.normal(0, 0.5, ROWS)
    shifted = replace(one, nats=one.nats + effect * one.tokens)
    mixed = difference("random", "random-tokens", "held-out", "row mean",
                       {"random": shifted, "random-tokens": other})  # fmt: skip
    added = mixed.error**2 - alike.error**2
    assert added == pytest.approx(effect.var(ddof=1) / ROWS, rel=0.1)


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_few_draws_do_not_make_random_rows_different(draws):
    """With two draws, t of Satterthwaite's degrees of freedom would call 15 of 100 different."""
    rng, called, tokens = np.random.default_rng(0), 0, np.ones(40, dtype=np.int64)

    def runs(count):
        nats = rng.normal(0, 0.3, (count, 1)) + rng.normal(0, 1, (count, len(tokens)))
        return Runs(nats, nats, tokens, tokens)

    for _ in range(500):
        measured = {"selected": runs(1), "random": runs(draws)}
        called += difference("selected", "random", "x", "row mean", measured).p < 0.05
    assert called <= 35  # 25 are due, and 35 has a chance of 1 in 40


@pytest.mark.parametrize("freedom", [1, 4, 300])
def test_of_a_single_part_the_critical_value_is_students_t(freedom):
    parts = [Part("draws", 0.3, freedom)]
    assert critical_value(0.975, parts) == pytest.approx(stats.t.ppf(0.975, freedom))
    two = [Part("draws", 0.1, freedom), Part("draws", 0.2, freedom)]
    assert critical_value(0.975, two) == pytest.approx(stats.t.ppf(0.975, freedom))


def test_the_smallest_visible_difference_is_seen_in_about_80_of_100_cases():
    world = World(1)
    first = difference(
        "selected",
        "random",
        "held-out",
        PRIMARY,
        {"selected": world.fixed(), "random": world.random()},
    )
    seen = 0
    for seed in range(100):
        world = World(seed)
        measured = {
            "selected": world.fixed(shift=first.smallest),
            "random": world.random(),
        }
        seen += difference("selected", "random", "held-out", PRIMARY, measured).p < 0.05
    assert 65 <= seen <= 95


def test_better_needs_equal_tokens():
    world = World(3)
    measured = {
        "selected": world.fixed(),
        "random": world.random(shift=0.2),
        "random-tokens": world.random(),
    }
    verdict = judged(measured)
    assert verdict.word == DEPENDS and "rows or tokens" in verdict.text


def test_better_than_as_many_rows_and_tokens_is_better_and_equal_lengths_tell_score_from_length():
    world = World(4)
    measured = {
        "selected": world.fixed(),
        "random": world.random(shift=0.2),
        "random-tokens": world.random(shift=0.2),
        "random-lengths": world.random(),
    }
    verdict = judged(measured)
    assert verdict.word == BETTER
    assert any("no more than its length" in note for note in verdict.notes)
    measured["random-lengths"] = world.random(shift=0.2)
    assert any(note.startswith("more than its length") for note in judged(measured).notes)


def test_better_says_an_amount_where_a_difference_was_seen_and_nowhere_else():
    """At equal rows it is worse by 0.002, which is nothing that was seen."""
    rows = Difference("selected", "random", "held-out", PRIMARY, 0.002, -0.02, 0.02, 0.01,
                      0.9, 0.9, 0.03, 2, 5)  # fmt: skip
    tokens = replace(rows, against="random-tokens", value=-0.05, p=0.001, p_corrected=0.001)
    verdict = verdict_of("selected", [rows, tokens], [], held_out="held-out", target="target")
    assert verdict.word == BETTER
    assert verdict.text == (
        "the selection: better than random rows, by 0.050 nats per token at equal tokens; "
        "no difference seen at equal rows (below 0.030)"
    )


@pytest.mark.parametrize(
    ("shares", "draws", "advice"),
    [
        ({"rows": 0.9, "draw": 0.08, "draws": 0.02}, 2, "take more than 2 draws"),
        ({"rows": 0.6, "draw": 0.3, "draws": 0.1}, 5, "hold out more rows, which make 60% of"),
        (
            {"draw": 0.8, "draws": 0.2},
            5,
            "select more rows, since 100% of the variance is that one",
        ),
    ],
)
def test_no_difference_comes_with_what_would_have_been_seen_and_what_shows_more(
    shares, draws, advice
):
    one = Difference("selected", "random", "held-out", PRIMARY, 0.01, -0.03, 0.05, 0.02,
                     0.6, 0.6, 0.0714, 1, draws, shares)  # fmt: skip
    verdict = verdict_of("selected", [one], [], held_out="held-out", target="target")
    assert verdict.word == SAME
    assert verdict.notes[0].startswith("a difference of 0.071 would have been seen in 80 of 100")
    assert f"; to see a smaller one {advice}" in verdict.notes[0]


def test_the_shares_of_a_variance_are_those_of_rows_orders_and_draws():
    world = World(1)
    measured = {"selected": world.fixed(), "random": world.random(4), "untrained": world.fixed()}
    for arm, sources in (("selected", {"rows", "draw", "draws"}), ("untrained", {"rows", "draws"})):
        shares = difference(arm, "random", "held-out", PRIMARY, measured).shares
        assert set(shares) <= sources and sum(shares.values()) == pytest.approx(1)
    measured = {"selected": world.fixed(), "random": world.random(4)}
    shares = difference("selected", "random", "held-out", PRIMARY, measured).shares
    assert shares["draw"] > shares["draws"]  # the luck of one draw, and of the mean of four


def test_what_more_rows_held_out_would_make_smaller_is_the_share_of_rows():
    """Draws of the world differ by 0.003 on average, and by 0.05 on each row."""
    few, many = [], []
    for seed in range(40):
        world = World(seed)
        measured = {"selected": world.fixed(orders=1), "random": world.random()}
        many.append(difference("selected", "random", "x", "row mean", measured))
        part = {
            name: Runs(runs.nats[:, :30], runs.end_nats[:, :30], runs.tokens[:30], runs.ends[:30])
            for name, runs in measured.items()
        }
        few.append(difference("selected", "random", "x", "row mean", part))
    shares = []
    for compared in (many, few):
        variances = np.array([one.error**2 for one in compared])
        owed = np.array([one.shares["rows"] for one in compared]) * variances
        shares.append(owed.sum() / variances.sum())
    # Of a run's variance, 0.051²/n is the rows' and 0.003² + 0.002² that of draw and order.
    chance = 0.051**2 / ROWS
    assert shares[0] == pytest.approx(chance / (chance + 1.3e-5), abs=0.1)
    assert shares[1] > max(0.5, shares[0])


def test_what_depends_says_by_how_much_on_every_set():
    world = World(9)
    here = {"selected": world.fixed(), "random": world.random(shift=0.2)}
    there = {"selected": world.fixed(shift=0.2), "random": world.random()}
    notes = judged(here, {"held-out": here, "target": there}, target="target").notes
    for name, word in (("held-out", "better"), ("target", "worse")):
        (note,) = [note for note in notes if note.startswith(f"on {name}: ")]
        assert note.endswith(f"{word} at equal rows")
        assert float(note.split()[2]) == pytest.approx(0.2, abs=0.02)


def test_a_loss_on_the_target_makes_it_depend_and_without_one_the_verdict_says_so():
    world = World(5)
    here = {"selected": world.fixed(), "random": world.random(shift=0.2)}
    there = {"selected": world.fixed(shift=0.2), "random": world.random()}
    verdict = judged(here, {"held-out": here, "target": there}, target="target")
    assert verdict.word == DEPENDS and "target: worse" in verdict.text
    assert any("favours random" in note for note in judged(here).notes)
    assert not any("favours random" in note for note in verdict.notes)


def test_a_difference_that_shows_on_another_set_alone_makes_it_depend():
    world = World(10)
    here = {"selected": world.fixed(), "random": world.random()}
    there = {"selected": world.fixed(), "random": world.random(shift=0.3)}
    verdict = judged(here, {"held-out": here, "other": there})
    assert verdict.word == DEPENDS
    assert "(held-out: no difference seen, other: better)" in verdict.text
    (note,) = [note for note in verdict.notes if "favours random" in note]
    assert "alone" not in note and note.startswith("the rows held out are of the same source")


def test_better_and_worse_on_the_target_is_no_gain_whichever_is_compared_last():
    own = Difference("selected", "random", "held-out", PRIMARY, -0.1, -0.2, -0.05, 0.02,
                     0.001, 0.001, 0.05, 5, 5)  # fmt: skip
    for first, second in ((0.1, -0.1), (-0.1, 0.1)):
        primary = [
            own,
            replace(own, against="random-tokens"),
            replace(own, rows_of="target", value=first),
            replace(own, rows_of="target", against="random-tokens", value=second),
        ]
        verdict = verdict_of("selected", primary, [], held_out="held-out", target="target")
        assert verdict.word == "depends"
        assert "target: better" in verdict.text and "target: worse" in verdict.text


def test_an_arm_of_another_size_is_not_said_to_have_equal_rows_or_tokens():
    one = Difference("mine", "random", "held-out", PRIMARY, -0.1, -0.2, -0.05, 0.02,
                     0.001, 0.001, 0.05, 5, 5)  # fmt: skip
    primary = [replace(one, against=name) for name in ("random", "random-tokens", "random-lengths")]
    sizes = {name: Size(100, 9_000) for name in ("random", "random-lengths")}
    sizes["random-tokens"] = Size(120, 12_000)

    def text_of(**own):
        judged = verdict_of(
            "mine", primary, [], held_out="held-out", target="target", sizes=sizes | own
        )
        return "\n".join([judged.text, *judged.notes])

    other = text_of(mine=Size(50, 6_000))
    assert "equal rows" not in other and "100 rows where it has 50" in other
    assert "at equal tokens" not in other and "12,000 tokens where it has 6,000" in other
    assert "not compared with random rows of equal tokens" in other
    assert "more than its length" not in other
    primary = [replace(same, p=0.5, p_corrected=0.5) for same in primary]
    other = text_of(mine=Size(50, 6_000))
    assert "no difference seen to random rows (below 0.050 nats per token), which have" in other
    assert "have 100 rows where it has 50 and 12,000 tokens where it has 6,000" in other
    assert "which have" not in text_of(mine=Size(101, 12_100))
    primary = [replace(seen, p=0.001, p_corrected=0.001) for seen in primary]
    alike = text_of(mine=Size(101, 12_100))
    assert "at equal rows and" in alike and "at equal tokens" in alike


def test_means_over_tokens_and_rows_of_opposite_signs_make_it_depend():
    world = World(6)
    random = world.random()
    long = world.tokens > np.median(world.tokens)
    shifts = np.where(long, -0.4, 0.5)
    selected = world.runs([world.draw() + shifts] * 3)
    verdict = judged({"selected": selected, "random": random})
    assert verdict.word == DEPENDS
    assert "quartile mean: worse, token mean: better" in verdict.text


def test_the_primary_figure_is_the_mean_of_the_quartiles_losses_and_others_are_plain_means():
    tokens = np.array([1, 2, 3, 4, 10, 20, 30, 40])
    nats = np.arange(8.0)[None]
    runs = Runs(nats, np.full((1, 8), 2.0), tokens, np.ones(8, dtype=np.int64))
    expected = np.mean([1 / 3, 5 / 7, 9 / 30, 13 / 70])
    figures = figures_of(runs)
    assert figures[PRIMARY] == pytest.approx(expected)
    assert figures["token mean"] == pytest.approx(28 / 110)
    assert figures["row mean"] == pytest.approx(np.mean(np.arange(8) / tokens))
    assert figures["end of text"] == 2.0
    assert figures["quartile 3"] == pytest.approx(9 / 30)


def test_rows_without_tokens_or_ends_count_nowhere():
    tokens = np.array([0, 1, 2, 3, 4])
    runs = Runs(np.ones((1, 5)), np.zeros((1, 5)), tokens, np.zeros(5, dtype=np.int64))
    assert [group.tolist() for group in quartiles_of(tokens)] == [[1], [2], [3], [4]]
    assert "end of text" not in figures_of(runs)
    assert figures_of(runs)["row mean"] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]))


def test_the_variance_over_rows_is_that_of_a_paired_t_test_where_all_rows_weigh_the_same():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1, 50))
    tokens = np.ones(50, dtype=np.int64)
    runs = [Runs(values, values, tokens, tokens) for values in (one, other)]
    variance, freedom = ratio_of("row mean", runs[0]).row_variance(ratio_of("row mean", runs[1]))
    expected = stats.ttest_rel(one[0], other[0])
    assert (one - other).mean() / np.sqrt(variance) == pytest.approx(expected.statistic)
    assert freedom == expected.df


def test_the_spread_pools_draws_apart_from_orders():
    tokens = np.ones(4, dtype=np.int64)

    def runs(*levels):
        values = np.array(levels)[:, None] * np.ones(4)
        return Runs(values, values, tokens, tokens)

    measured = {
        "selected": runs(1.0, 3.0),
        "longest": runs(2.0, 2.0, 2.0),
        "random": runs(0.0, 4.0),
        "untrained": runs(9.0),
    }
    spread = spread_of("token mean", measured)
    assert (spread.order, spread.order_freedom) == (pytest.approx(2 / 3), 3)
    assert (spread.draw, spread.draw_freedom) == (pytest.approx(8.0), 1)


def test_a_p_value_is_corrected_as_statsmodels_and_r_do():
    """p.adjust(c(0.01, 0.02, 0.03, 0.005), "holm") of R gives 0.03 0.04 0.04 0.02."""
    assert corrected_p([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert corrected_p([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_draws_beaten_are_counted():
    world = World(7)
    measured = {"selected": world.fixed(shift=-1.0), "random": world.random(4)}
    one = difference("selected", "random", "held-out", PRIMARY, measured)
    assert (one.beaten, one.draws) == (4, 4)
