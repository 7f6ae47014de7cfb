"""The coverage family: what each selector optimises, against brute force and plain reference
implementations.
"""

import itertools
import warnings

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from vectors import mixture, table_of

from hf_superfilter import (
    FacilityLocation,
    InversePropensity,
    Prototypes,
    RandomSample,
    SemDedup,
    TopK,
    select,
)
from hf_superfilter.selection import facility_location
from hf_superfilter.selection._kmeans import cluster_of, default_clusters

ON_VECTORS = {
    "FacilityLocation": FacilityLocation,
    "Prototypes": Prototypes,
    "SemDedup": SemDedup,
}


def similarities(vectors, similarity):
    """(n, n) float64, straight from the docstring of FacilityLocation."""
    x = vectors.astype(np.float64)
    if similarity == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return np.clip(x @ x.T, 0, None)
    distances = cdist(x, x)
    return np.exp(
        -distances / x.shape[1]
        if similarity == "euclidean"
        else -(distances**2) / np.mean(distances**2)
    )


def value(kernel, rows):
    return kernel[:, rows].max(axis=1).sum()


def naive_greedy(kernel, k):
    """Every gain anew at every step."""
    best, chosen = np.zeros(len(kernel)), []
    for _ in range(k):
        gains = np.maximum(kernel - best[:, None], 0).sum(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, kernel[:, chosen[-1]])
    return np.array(chosen)


# FacilityLocation


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "rbf"])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_reaches_its_share_of_the_optimum_found_by_brute_force(similarity, seed):
    vectors = mixture(10, 3, seed)
    kernel = similarities(vectors, similarity)
    chosen = select(table_of(vectors), [FacilityLocation(3, similarity=similarity)]).rows
    optimum = max(value(kernel, list(rows)) for rows in itertools.combinations(range(10), 3))
    assert (1 - 1 / np.e) * optimum <= value(kernel, chosen) <= optimum * (1 + 1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "rbf"])
def test_lazy_greedy_is_worth_what_naive_greedy_is_and_its_gains_never_grow(similarity):
    vectors = mixture(400, 16)
    kernel = similarities(vectors, similarity)
    chosen = select(table_of(vectors), [FacilityLocation(60, similarity=similarity)]).rows
    assert value(kernel, chosen) == pytest.approx(value(kernel, naive_greedy(kernel, 60)), rel=1e-6)
    gains = np.diff([0, *(value(kernel, chosen[:count]) for count in range(1, 61))])
    assert (np.diff(gains) <= 1e-5).all() and (gains > 0).all()


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_2000_rows_are_worth_what_submodlib_and_apricot_make_of_them(similarity):
    """With both installed beside the package: `pip install apricot-select submodlib-py`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apricot = pytest.importorskip("apricot", reason="apricot-select is not installed")
        submodlib = pytest.importorskip(
            "submodlib.functions.facilityLocation", reason="submodlib-py is not installed"
        )
        vectors = mixture(2_000, 64)
        kernel = similarities(vectors, similarity)
        theirs = (
            apricot.FacilityLocationSelection(200, metric="precomputed", optimizer="lazy")
            .fit(kernel)
            .ranking
        )
        function = submodlib.FacilityLocationFunction(
            n=2_000, mode="dense", separate_rep=False, data=vectors, metric=similarity
        )
        others = [
            row
            for row, _ in function.maximize(budget=200, optimizer="LazyGreedy", show_progress=False)
        ]
    ours = value(
        kernel, select(table_of(vectors), [FacilityLocation(200, similarity=similarity)]).rows
    )
    assert ours == pytest.approx(value(kernel, theirs), rel=1e-6)
    assert ours == pytest.approx(value(kernel, others), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "rbf"])
def test_2000_rows_are_worth_what_naive_greedy_makes_of_them(similarity):
    vectors = mixture(2_000, 64)
    kernel = similarities(vectors, similarity)
    chosen = select(table_of(vectors), [FacilityLocation(200, similarity=similarity)]).rows
    assert value(kernel, chosen) == pytest.approx(
        value(kernel, naive_greedy(kernel, 200)), rel=1e-6
    )


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "rbf"])
def test_pairs_above_the_limit_are_recomputed_with_the_same_result_and_the_funnel_says_so(
    similarity, monkeypatch
):
    table, selector = table_of(mixture(300, 8)), FacilityLocation(40, similarity=similarity)
    held = select(table, [selector])
    monkeypatch.setattr(facility_location, "MEMORY", 300**2 * 4 - 1)
    monkeypatch.setattr(facility_location, "CELLS", 900)
    recomputed = select(table, [selector])
    np.testing.assert_array_equal(recomputed.rows, held.rows)
    assert held.steps[0].facts["memory"] == "0.4 MB of pairs held"
    assert recomputed.steps[0].facts["memory"] == "0.4 MB of pairs recomputed (over 0 MB)"
    assert held.steps[0].facts["coverage"] == pytest.approx(
        recomputed.steps[0].facts["coverage"], abs=2e-6
    )


def test_memory_above_the_limit_stays_far_below_the_pairs(monkeypatch):
    import tracemalloc

    vectors = mixture(3_000, 4)
    monkeypatch.setattr(facility_location, "MEMORY", 1)
    monkeypatch.setattr(facility_location, "CELLS", 2**16)
    kernel = facility_location._Kernel(vectors, "rbf")
    tracemalloc.start()
    chosen = list(facility_location._greedy(kernel, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(chosen) == 20
    assert peak < 3_000**2 * 4 / 8


def test_the_largest_block_of_pairs_is_bounded_whatever_the_rows(monkeypatch):
    monkeypatch.setattr(facility_location, "MEMORY", 1)
    monkeypatch.setattr(facility_location, "CELLS", 2**14)
    sizes = []
    losses = facility_location._Kernel.losses

    def watched(kernel, rows, out=None):
        block = losses(kernel, rows, out)
        sizes.append(block.size)
        return block

    monkeypatch.setattr(facility_location._Kernel, "losses", watched)
    for rows in (500, 2_000):
        select(table_of(mixture(rows, 4)), [FacilityLocation(20)])
        assert max(sizes) <= 2**14 + rows, "and one row"


def test_many_rows_are_clustered_in_memory_that_does_not_grow_with_them(monkeypatch):
    import tracemalloc

    monkeypatch.setattr("hf_superfilter.selection._kmeans.MANY_ROWS", 1_000)
    peaks = []
    for rows in (5_000, 40_000):
        vectors = mixture(rows, 32)
        tracemalloc.start()
        labels, _ = cluster_of(vectors, 40, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1] - labels.nbytes)
        tracemalloc.stop()
        np.testing.assert_array_equal(cluster_of(vectors, 40, seed=0)[0], labels)
    assert peaks[1] - peaks[0] < 35_000 * 32 * 4 / 2, f"{peaks}: half of the vectors added"


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "rbf"])
def test_with_all_neighbours_it_is_exact_and_with_some_nearly_so(similarity):
    vectors = mixture(300, 8)
    table, kernel = table_of(vectors), similarities(vectors, similarity)
    exact = select(table, [FacilityLocation(30, similarity=similarity)]).rows
    facts = (
        select(table, [FacilityLocation(30, similarity=similarity, neighbours=40)]).steps[0].facts
    )
    assert facts["memory"] == "40 of 300 neighbours a row"
    for neighbours, share in [(300, 1 - 1e-6), (299, 1 - 1e-6), (40, 0.97)]:
        rows = select(
            table, [FacilityLocation(30, similarity=similarity, neighbours=neighbours)]
        ).rows
        assert value(kernel, rows) >= share * value(kernel, exact)
    assert facts["coverage"] == pytest.approx(value(kernel, rows) / 300, abs=1e-5), (
        "exact, not of the neighbours"
    )


def test_a_row_with_one_neighbour_stands_for_itself_only():
    rows = select(table_of(np.eye(5)), [FacilityLocation(5, neighbours=1)]).rows
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]


def test_one_row_of_each_group_comes_before_a_second_of_any():
    groups = (
        np.repeat(np.eye(6), [50, 20, 9, 5, 3, 2], axis=0)
        + np.random.default_rng(0).normal(size=(89, 6)) * 0.01
    )
    rows = select(table_of(groups), [FacilityLocation(6)]).rows
    assert np.repeat(np.arange(6), [50, 20, 9, 5, 3, 2])[rows].tolist() == [0, 1, 2, 3, 4, 5], (
        "the largest first"
    )


def test_only_rows_in_play_are_covered():
    vectors = np.concatenate([np.tile([1.0, 0.0], (90, 1)), [[0.0, 1.0], [0.0, -1.0], [0.1, 1.0]]])
    table = table_of(vectors, ifd=np.concatenate([np.zeros(90), [0.9, 0.8, 0.7]]))
    assert set(select(table, [TopK("ifd", 3), FacilityLocation(2)]).rows.tolist()) < {90, 91, 92}


def test_the_seed_decides_which_of_equal_rows_is_kept():
    table = table_of(np.repeat(np.eye(2), 20, axis=0))
    kept = [
        tuple(select(table, [FacilityLocation(2, seed=seed)]).rows.tolist()) for seed in range(12)
    ]
    assert len(set(kept)) > 6
    assert all(len({row // 20 for row in rows}) == 2 for rows in kept)


def test_a_budget_is_filled_also_when_nothing_more_is_gained():
    assert (
        len(select(table_of(np.repeat(np.eye(2), 20, axis=0)), [FacilityLocation(30)]).rows) == 30
    )


@settings(deadline=None, max_examples=25)
@given(k=st.integers(1, 25), seed=st.integers(0, 3), neighbours=st.sampled_from([None, 1, 5, 99]))
def test_more_rows_only_extend_a_selection(k, seed, neighbours):
    table = table_of(mixture(25, 3, seed))
    some = select(table, [FacilityLocation(k, neighbours=neighbours)]).rows
    everything = select(table, [FacilityLocation(25, neighbours=neighbours)]).rows
    np.testing.assert_array_equal(some, everything[:k])


def test_nearly_equal_rows_are_told_apart_in_float32():
    """Similarities of exp(-d / 384) lie within 0.006 of 1; greedy on them still covers as the best
    medoids would.
    """
    vectors = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kernel = similarities(vectors, "euclidean")
    chosen = select(table_of(vectors), [FacilityLocation(50, similarity="euclidean")]).rows
    lost = len(kernel) - value(kernel, chosen)
    assert lost == pytest.approx(len(kernel) - value(kernel, naive_greedy(kernel, 50)), rel=1e-4)


# InversePropensity


def half_duplicates(rows=600):
    """Half of the rows lie alone, half within a hair of one point."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(rows, 16))
    vectors[rows // 2 :] = vectors[0] + rng.normal(size=(rows // 2, 16)) * 1e-3
    return vectors.astype(np.float32), np.arange(rows) >= rows // 2


def test_one_over_density_keeps_fewer_duplicates_than_chance_and_the_printed_algorithm_more(
    tmp_path,
):
    from hf_superfilter import Density, score

    vectors, duplicate = half_duplicates()
    table = score(table_of(vectors), [Density(repetitions=200)], tmp_path)
    inverted = table.add_column("inverted", 1 / np.array(table["density"]))

    def kept(selector):
        return np.mean(
            [duplicate[select(inverted, [selector(seed)]).rows].mean() for seed in range(10)]
        )

    ours = kept(lambda seed: InversePropensity(120, seed=seed))
    chance = kept(lambda seed: RandomSample(120, seed=seed))
    printed = kept(lambda seed: InversePropensity(120, by="inverted", seed=seed))
    assert ours < 0.25 < 0.45 < chance < 0.55 < 0.7 < printed


def test_first_draws_have_chances_proportional_to_one_over_the_score():
    table = Dataset.from_dict({"density": [1.0, 2.0, 4.0, 8.0]})
    first = [InversePropensity(1, seed=seed)(table, np.arange(4))[0] for seed in range(1_000)]
    np.testing.assert_allclose(
        np.bincount(first, minlength=4) / 1_000, np.array([8, 4, 2, 1]) / 15, atol=0.05
    )


def test_equal_scores_are_drawn_uniformly_and_without_replacement():
    table = Dataset.from_dict({"density": [3.0] * 12})
    draws = [InversePropensity(6, seed=seed)(table, np.arange(12)) for seed in range(400)]
    assert all(len(set(rows.tolist())) == 6 for rows in draws)
    np.testing.assert_allclose(
        np.bincount(np.concatenate(draws), minlength=12) / 400, 0.5, atol=0.1
    )


def test_rows_without_a_score_above_zero_are_never_drawn_and_counted():
    table = Dataset.from_dict({"density": [1.0, float("nan"), 0.0, -3.0, float("inf"), None, 2.0]})
    with pytest.warns(UserWarning, match="room for 7 rows, and only 2 rows"):
        selection = select(table, [InversePropensity(7)])
    assert sorted(selection.rows.tolist()) == [0, 6]
    assert selection.steps[0].facts == {
        "max/min weight": 2.0, "effective sample size": 1.8, "without a density above 0": 5
    }  # fmt: skip
    assert selection.by == "density" and not selection.steps[0].ranks


def test_the_effective_sample_size_of_equal_weights_is_the_pool():
    table = Dataset.from_dict({"density": [5.0] * 40})
    facts = select(table, [InversePropensity(3)]).steps[0].facts
    assert facts == {"max/min weight": 1.0, "effective sample size": 40.0}


def test_scores_of_any_size_are_drawn():
    table = Dataset.from_dict({"density": [1e-300, 1e300, 5e-324, 1.0]})
    assert select(table, [InversePropensity(4)]).rows.tolist() == [2, 0, 3, 1]


# SemDedup


def test_of_a_group_of_duplicates_the_one_least_like_the_centroid_stays():
    angles = np.radians([0.0, 1.0, 2.0, 90.0])  # the centroid lies between, nearer to the three
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = select(table_of(vectors), [SemDedup(threshold=0.999, clusters=1)]).rows
    assert sorted(rows.tolist()) == [0, 3]


@pytest.mark.parametrize("clusters", [1, 4, None])
def test_a_threshold_keeps_what_the_paper_s_procedure_keeps(clusters):
    vectors = mixture(200, 6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    labels, centroids = cluster_of(unit, clusters, 0)
    wanted = []
    for cluster in range(len(centroids)):
        mine = np.flatnonzero(labels == cluster)
        order = mine[np.argsort(unit[mine] @ centroids[cluster], kind="stable")]
        cosines = np.triu(unit[order] @ unit[order].T, 1)  # with those before, in columns
        wanted += order[
            np.where(np.arange(len(order)) == 0, -1, cosines.max(axis=0)) <= 0.9
        ].tolist()
    kept = select(table_of(vectors), [SemDedup(threshold=0.9, clusters=clusters)]).rows
    assert sorted(kept.tolist()) == sorted(wanted)
    assert 20 < len(wanted) < 190


def test_a_budget_is_the_threshold_that_leaves_so_many():
    table = table_of(mixture(200, 6))
    by_threshold = select(table, [SemDedup(threshold=0.9)]).rows
    np.testing.assert_array_equal(select(table, [SemDedup(len(by_threshold))]).rows, by_threshold)
    more = select(table, [SemDedup(0.9)]).rows
    assert len(more) == 180
    np.testing.assert_array_equal(more[: len(by_threshold)], by_threshold)


def test_exact_duplicates_go_and_one_of_them_stays():
    vectors = np.repeat(mixture(40, 8), 3, axis=0)
    rows = select(table_of(vectors), [SemDedup(threshold=0.9999, clusters=5)]).rows
    assert sorted(rows // 3) == sorted(set(rows // 3))
    assert len(select(table_of(vectors), [SemDedup(40, clusters=5)]).rows) == 40


def test_blocks_change_nothing(monkeypatch):
    from hf_superfilter.selection import sem_dedup

    table = table_of(mixture(150, 6))
    whole = select(table, [SemDedup(60, clusters=2)]).rows
    monkeypatch.setattr(sem_dedup, "CELLS", 200)
    np.testing.assert_array_equal(select(table, [SemDedup(60, clusters=2)]).rows, whole)


# Prototypes and clusters


def test_prototypes_drops_those_closest_to_their_centroid():
    angles = np.radians([-40, -20, 0.0, 20, 40])
    table = table_of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    rows = select(table, [Prototypes(4, clusters=1)]).rows.tolist()
    assert set(rows[:2]) == {0, 4} and set(rows[2:]) == {1, 3}


def test_the_number_of_clusters_is_the_root_of_the_rows_up_to_that_of_the_paper():
    assert [default_clusters(rows) for rows in (0, 1, 2, 100, 10**8, 10**12)] == [
        0,
        1,
        2,
        10,
        10_000,
        10_000,
    ]


def test_k_means_finds_groups_that_lie_apart_also_by_mini_batches(monkeypatch):
    from hf_superfilter.selection import _kmeans as clustering

    truth = np.random.default_rng(0).integers(0, 3, 300)
    vectors = (
        np.eye(3, dtype=np.float32)[truth] + np.random.default_rng(1).normal(size=(300, 3)) * 0.01
    )
    for limit in (100_000, 200):
        monkeypatch.setattr(clustering, "MANY_ROWS", limit)
        labels, centroids = cluster_of(vectors.astype(np.float32), 3, seed=0)
        assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 3
        np.testing.assert_allclose(centroids[labels], np.eye(3)[truth], atol=0.02)


# Bad input


@pytest.mark.parametrize("make", ON_VECTORS.values(), ids=ON_VECTORS)
@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {"embeddings": [[1.0]]},
            r"no column 'embedding'.*the scorer Embed\(\) adds it; did you mean 'embeddings'",
        ),
        ({"embedding": ["a", "b"]}, "holds string, not vectors"),
        ({"embedding": [[1.0, 2.0], [1.0]]}, "uneven lengths: 2 numbers, and 1 in row 1"),
        (
            {"embedding": [[1.0], [float("nan")], None]},
            "2 of the 3 rows in play have no vector .*row 1 is the first",
        ),
        ({"embedding": [[1.0, 2.0]] * 3}, "all 3 vectors in 'embedding' are equal"),
    ],
)
def test_columns_that_hold_no_usable_vectors_are_said(make, cells, said):
    with pytest.raises(ValueError, match=said):
        select(Dataset.from_dict(cells), [make(1)])


@pytest.mark.parametrize("selector", [SemDedup(1), Prototypes(1), FacilityLocation(1)], ids=repr)
def test_a_vector_of_zeros_has_no_cosine(selector):
    with pytest.raises(ValueError, match="row 1 has a vector of zeros"):
        select(table_of(np.array([[1.0, 0.0], [0.0, 0.0]])), [selector])


def test_a_vector_of_zeros_has_distances():
    table = table_of(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert len(select(table, [FacilityLocation(2, similarity="euclidean")]).rows) == 2


@pytest.mark.parametrize("make", ON_VECTORS.values(), ids=ON_VECTORS)
def test_a_budget_above_the_rows_in_play_is_a_warning_with_both_numbers_as_for_top_k(make):
    with pytest.warns(UserWarning, match="room for 9 rows, and only 4 rows") as caught:
        assert len(select(table_of(mixture(4, 3)), [make(9)]).rows) == 4
    assert caught[0].filename == __file__


@pytest.mark.parametrize("make", [SemDedup, Prototypes])
def test_more_clusters_than_rows_are_said(make):
    with pytest.raises(ValueError, match="clusters=9 and only 4 rows in play"):
        select(table_of(mixture(4, 3)), [make(2, clusters=9)])


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: FacilityLocation(0), "k=0"),
        (
            lambda: FacilityLocation(1, similarity="cosin"),
            "similarity='cosin'.*did you mean 'cosine'",
        ),
        (lambda: FacilityLocation(1, similarity=None), "similarity=None"),
        (lambda: FacilityLocation(1, neighbours=0), "neighbours=0"),
        (lambda: FacilityLocation(1, neighbours=True), "neighbours=True"),
        (lambda: FacilityLocation(1, seed=-1), "seed=-1"),
        (lambda: FacilityLocation(1, column=""), "column=''"),
        (lambda: InversePropensity(1.5), "k=1.5"),
        (lambda: InversePropensity(1, by=None), "by=None"),
        (lambda: InversePropensity(1, seed="x"), "seed='x'"),
        (lambda: Prototypes(True), "k=True"),
        (lambda: Prototypes(1, clusters=0), "clusters=0"),
        (lambda: Prototypes(1, column=None), "column=None"),
        (lambda: SemDedup(), "k=None, threshold=None: give one of the two"),
        (lambda: SemDedup(1, threshold=0.5), "k=1, threshold=0.5: give one of the two"),
        (lambda: SemDedup(threshold=1), "threshold=1: give a cosine"),
        (lambda: SemDedup(threshold=-1.5), "threshold=-1.5"),
        (lambda: SemDedup(threshold="0.9"), "threshold='0.9'"),
        (lambda: SemDedup(threshold=float("nan")), "threshold=nan"),
        (lambda: SemDedup(1, clusters=2.5), "clusters=2.5"),
    ],
)
def test_a_bad_setting_is_refused_with_the_value_seen(make, seen):
    with pytest.raises(ValueError, match=seen):
        make()


def test_sem_dedup_tells_how_many_of_the_dropped_were_cut_before_they_were_embedded():
    vectors = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    statuses = ["ok", "truncated", "truncated", "truncated"]
    table = Dataset.from_dict({"embedding": vectors, "embedding_status": statuses})
    (step,) = select(table, SemDedup(threshold=0.9, clusters=1)).steps
    assert step.facts == {"dropped though their texts were cut": 2}
    (step,) = select(table.remove_columns("embedding_status"), SemDedup(2, clusters=1)).steps
    assert step.facts == {}
