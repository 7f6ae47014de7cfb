"""The recall that is promised holds, and its bound is what counting says."""

import math
from fractions import Fraction

import numpy as np
import pytest

from hf_superfilter.consistency.recall import most_missed, read_for_recall


def chance(hits, rows, total, drawn):
    """Hypergeometric, counted in whole numbers."""
    if not max(0, drawn - (rows - total)) <= hits <= min(total, drawn):
        return Fraction(0)
    ways = math.comb(total, hits) * math.comb(rows - total, drawn - hits)
    return Fraction(ways, math.comb(rows, drawn))


def rising(x, n):
    return math.prod([x + i for i in range(n)], start=Fraction(1))


@pytest.mark.parametrize(("hits", "drawn"), [(0, 5), (1, 10), (2, 10), (3, 25), (0, 29), (9, 9)])
def test_the_bound_is_the_last_count_that_no_bet_has_ruled_out(hits, drawn):
    rows, expected, confidence = 30, 2, 0.9
    b = Fraction(rows, expected) - 1
    prior = [
        math.comb(rows, k) * rising(Fraction(1), k) * rising(b, rows - k) / rising(1 + b, rows)
        for k in range(rows + 1)
    ]
    assert sum(prior) == 1
    likelihood = [chance(hits, rows, k, drawn) for k in range(rows + 1)]
    evidence = sum(p * q for p, q in zip(prior, likelihood, strict=True))
    possible = [k for k in range(rows + 1) if likelihood[k] > Fraction(1, 10) * evidence]
    assert most_missed(hits, drawn, rows, expected, confidence) == max(possible) - hits


def test_the_bound_holds_at_every_count_at_once():
    """Of 400 draws to the end, few ever see a bound below what is left."""
    rng, rows, total = np.random.default_rng(0), 300, 12
    wrong = 0
    for _ in range(400):
        is_hit = rng.permutation(np.arange(rows) < total)
        found = np.cumsum(is_hit)
        bounds = [most_missed(int(found[n - 1]), n, rows, 6, 0.95) for n in range(10, rows, 10)]
        left = [total - int(found[n - 1]) for n in range(10, rows, 10)]
        wrong += any(bound < missed for bound, missed in zip(bounds, left, strict=True))
    assert wrong <= 0.05 * 400


def run(agreement, seed, rows=1_500, keep=150, recall=0.9, confidence=0.9, cut=0.0):
    """Read rows by a prediction that correlates so far with the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    guess = agreement * truth + math.sqrt(1 - agreement**2) * rng.normal(size=rows)
    truth[truth > np.quantile(truth, 1 - cut)] = -np.inf
    asked = []

    def ask(numbers):
        asked.extend(numbers.tolist())
        return truth[numbers]

    reading = read_for_recall(
        ask,
        lambda read, unread: guess[unread],
        rows,
        keep,
        recall=recall,
        confidence=confidence,
        sample=np.sort(rng.permutation(rows)[:100]),
        seed=seed,
    )
    assert len(asked) == len(set(asked)) == int((~np.isnan(reading.goodness)).sum())
    best = np.argsort(-truth, kind="stable")[:keep]
    return reading, float(np.mean(~np.isnan(reading.goodness[best]))), len(asked) / rows


@pytest.mark.parametrize("agreement", [0.0, 0.6, 0.95])
def test_the_recall_promised_is_reached_as_often_as_promised(agreement):
    readings = [run(agreement, seed, cut=0.05) for seed in range(60)]
    assert np.mean([reached >= 0.9 for _, reached, _ in readings]) >= 0.9
    assert all(reading.recall_low >= 0.9 for reading, _, _ in readings)
    # The bound that is printed is no more than is true, as often as promised.
    assert np.mean([reached >= reading.recall_low for reading, reached, _ in readings]) >= 0.9


def test_a_better_prediction_costs_less_and_none_costs_nearly_all():
    costs = [
        np.mean([run(agreement, seed)[2] for seed in range(10)]) for agreement in (0, 0.6, 0.95)
    ]
    assert costs[0] > costs[1] > costs[2] and costs[2] < 0.5


def test_rows_that_may_not_be_kept_leave_fewer_to_find():
    """90 of 100 rows may be kept, and 95 are wanted: recall is of the 90."""
    reading, reached, _ = run(0.5, 1, rows=100, keep=95, cut=0.1)
    assert reading.recall_low >= 0.9 and reached >= 0.8
    assert int((reading.goodness > -np.inf).sum()) >= 0.9 * 90


def test_ties_at_the_border_are_no_misses():
    reading = read_for_recall(
        lambda numbers: np.zeros(len(numbers)),
        lambda read, unread: np.zeros(len(unread)),
        500,
        50,
        recall=0.95,
        confidence=0.95,
        sample=np.arange(60),
    )
    assert reading.recall == 1.0 and np.isnan(reading.goodness).sum() > 0
