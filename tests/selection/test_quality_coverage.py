"""FacilityLocation with a quality: every subset tried, the ends of the weight, and the frontier."""

import itertools
import math

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import FacilityLocation, TopK, select


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(14, 3)).astype(np.float32)
    return Dataset.from_dict({"embedding": vectors, "ifd": rng.random(14).round(1)})


def goal(table, rows, weight, k):
    """The goal written out: cosines below 0 count as 0, ranks are counted one by one."""
    vectors = np.array(table["embedding"][:], dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.maximum(vectors @ vectors.T, 0)
    ifd = table["ifd"][:]
    ranks = [
        (sum(other < value for other in ifd) + sum(other == value for other in ifd) / 2) / len(ifd)
        for value in ifd
    ]
    coverage = cosines[:, rows].max(axis=1).mean()
    return (1 - weight) * coverage + weight * sum(ranks[row] for row in rows) / k


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_it_reaches_the_bound_and_nearly_the_best_of_all_subsets(table, weight):
    rows = select(table, FacilityLocation(4, quality="ifd", weight=weight)).rows.tolist()
    best = max(goal(table, list(s), weight, 4) for s in itertools.combinations(range(14), 4))
    reached = goal(table, rows, weight, 4)
    assert (1 - 1 / math.e) * best <= reached <= best + 1e-6
    assert reached > 0.97 * best


def test_each_row_is_the_one_that_adds_most(table):
    rows = select(table, FacilityLocation(5, quality="ifd", weight=0.4)).rows.tolist()
    for place, row in enumerate(rows):
        chosen = rows[:place]
        values = {
            other: goal(table, [*chosen, other], 0.4, 5)
            for other in range(14)
            if other not in chosen
        }
        assert values[row] == pytest.approx(max(values.values()), abs=1e-6)


def test_the_ends_are_coverage_alone_and_the_best_rows(table):
    covered = select(table, FacilityLocation(5)).rows.tolist()
    assert select(table, FacilityLocation(5, quality="ifd", weight=0)).rows.tolist() == covered
    best = select(table, FacilityLocation(5, quality="ifd", weight=1))
    wanted = select(table, TopK("ifd", 5)).subset["ifd"][:]
    assert sorted(best.subset["ifd"][:]) == sorted(wanted)


def test_along_the_frontier_quality_rises_and_coverage_falls(table):
    facts = [
        select(table, FacilityLocation(4, quality="ifd", weight=weight)).steps[0].facts
        for weight in (0.0, 0.5, 1.0)
    ]
    quality = [fact["mean quality rank"] for fact in facts]
    coverage = [fact["coverage"] for fact in facts]
    assert quality == sorted(quality) and coverage == sorted(coverage, reverse=True)


@pytest.mark.parametrize("neighbours", [None, 6])
def test_an_undefined_row_is_covered_and_never_kept(table, neighbours):
    ifd = [math.nan if row % 3 == 0 else value for row, value in enumerate(table["ifd"][:])]
    holes = table.remove_columns("ifd").add_column("ifd", ifd)
    selector = FacilityLocation(9, quality="ifd", weight=0.1, neighbours=neighbours)
    rows = select(holes, selector).rows
    assert len(rows) == 9 and not {row for row in rows.tolist() if row % 3 == 0}
    with pytest.warns(UserWarning, match="room for 12 rows, and only 9 rows"):
        select(holes, FacilityLocation(12, quality="ifd"))


@pytest.mark.parametrize(
    "settings",
    [{"weight": 0.5}, {"quality": ""}, {"quality": 3}, {"quality": "ifd", "weight": 1.5},
     {"quality": "ifd", "weight": "half"}],
    ids=str,
)  # fmt: skip
def test_a_bad_setting_is_refused(settings):
    with pytest.raises(ValueError, match=r"weight=|by="):
        FacilityLocation(3, **settings)
