"""PerCluster: exact totals, quotas by largest remainders, shares that short clusters give away, and
clear refusals.
"""

import re
import warnings

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter import PerCluster, Threshold, TopK, select
from hf_superfilter.reports.summary import Summary
from hf_superfilter.selection.per_cluster import apportioned, quotas_of

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def grouped(counts, values=None, **columns):
    """Rows of groups 0, 1 ... of the given sizes, in order."""
    groups = np.repeat(np.arange(len(counts)), counts)
    values = np.arange(len(groups))[::-1] if values is None else values
    return Dataset.from_dict({"lp": np.asarray(values, dtype=float), "group": groups, **columns})


def blobs(counts=(40, 25, 10), seed=0, width=6):
    """Rows around centres far from each other, shuffled, with the number of their centre."""
    rng = np.random.default_rng(seed)
    centre = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    vectors = np.eye(width)[centre] * 10 + rng.normal(scale=0.3, size=(len(centre), width))
    return Dataset.from_dict(
        {"lp": rng.random(len(centre)), "centre": centre, "embedding": vectors.astype(np.float32)}
    ).with_format(None)


# Quotas


@given(sizes=sizes, share=st.decimals("0.01", "1", places=2))
def test_the_total_is_exact_and_every_quota_is_its_share_rounded_up_or_down(sizes, share):
    total = int(share * sum(sizes))
    quotas = apportioned(total, np.array(sizes))
    exact = np.array(sizes) * total / sum(sizes)
    assert quotas.sum() == total
    assert (np.abs(quotas - exact) < 1).all()


@given(sizes=sizes, data=st.data())
def test_no_cluster_has_more_than_its_room_and_the_total_is_reached_where_there_is_room(
    sizes, data
):
    room = np.array([data.draw(st.integers(0, size)) for size in sizes])
    total = data.draw(st.integers(0, 2 * sum(sizes)))
    quotas = quotas_of(total, np.array(sizes), room)
    assert (quotas <= room).all()
    assert quotas.sum() == min(total, room.sum())
    full = quotas == room
    fair = apportioned(total, np.array(sizes))
    assert (quotas >= np.minimum(fair, room)).all() and (full | (quotas >= fair)).all()


@given(sizes=sizes, share=st.decimals("0.01", "1", places=2), seed=st.integers(0, 9))
def test_every_group_keeps_its_quota_of_all_rows(sizes, share, seed):
    table = grouped(sizes, np.random.default_rng(seed).random(sum(sizes)))
    total = int(share * sum(sizes))
    rows = PerCluster("lp", float(share), group="group")(table, np.arange(len(table)))
    assert len(rows) == total
    kept = np.bincount(np.asarray(table["group"][:])[rows], minlength=len(sizes))
    np.testing.assert_array_equal(kept, apportioned(total, np.array(sizes)))


def test_a_share_counts_rows_that_are_out_of_play_too():
    table = grouped([60, 40])
    kept = select(table, [Threshold("lp", below=70), PerCluster("lp", 0.20, group="group")]).rows
    groups = np.asarray(table["group"][:])[kept]
    assert np.bincount(groups).tolist() == [12, 8]  # though 30 and 40 rows are in play


def test_a_group_with_too_few_defined_rows_gives_its_share_to_the_others():
    values = np.arange(100.0)
    values[2:60] = np.nan
    selection = select(grouped([60, 20, 20], values), [PerCluster("lp", 20, group="group")])
    groups = np.asarray(selection.table["group"][:])[selection.rows]
    assert np.bincount(groups).tolist() == [2, 9, 9]
    assert selection.steps[0].facts == {
        "groups": 3,
        "rows kept of each": "2 to 9",
        "rows that fell to others": 10,
    }


def test_fewer_defined_rows_than_the_budget_is_a_warning_with_both_numbers_and_where_it_was_asked():
    with pytest.warns(UserWarning, match="room for 5 rows, and only 2 rows") as said:
        kept = select(
            grouped([2, 2], [1, np.nan, np.nan, 2]), [PerCluster("lp", 5, group="group")]
        ).rows
    assert kept.tolist() == [3, 0]
    assert said[0].filename == __file__


# Order


@pytest.mark.parametrize("largest", [True, False])
def test_the_best_of_each_group_is_kept_and_the_answer_is_best_first_with_ties_to_the_earlier_row(
    largest,
):
    table = grouped([4, 4], [1, 3, 3, 2, 5, 4, 4, 4])
    kept = PerCluster("lp", 4, group="group", largest=largest)(table, np.arange(8)).tolist()
    assert kept == ([4, 5, 1, 2] if largest else [0, 3, 5, 6])


def test_without_by_rows_are_drawn_in_each_cluster_by_seed_and_nan_rows_may_be_drawn():
    table = grouped([50, 30, 20], np.full(100, np.nan))
    draws = [
        select(table, [PerCluster(None, 10, group="group", seed=seed)]).rows for seed in (0, 0, 1)
    ]
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()
    assert draws[0].tolist() != sorted(draws[0].tolist())
    for rows in draws:
        assert np.bincount(np.asarray(table["group"][:])[rows]).tolist() == [5, 3, 2]


def test_drawn_rows_are_uniform_in_their_group():
    table = grouped([10, 10])
    drawn = [
        PerCluster(None, 6, group="group", seed=seed)(table, np.arange(20)) for seed in range(400)
    ]
    times = np.bincount(np.concatenate(drawn), minlength=20)
    assert (np.abs(times - 120) < 5 * np.sqrt(400 * 0.3 * 0.7)).all()


def test_the_report_draws_no_line_where_better_rows_were_dropped_for_the_quota():
    table = grouped([5, 5])
    selection = select(table, [PerCluster("lp", 4, group="group")])
    assert selection.rows.tolist() == [0, 1, 5, 6]
    assert selection.cut is None
    assert select(table, [TopK("lp", 4)]).cut == 6
    titles = list(Summary(selection).examples)
    assert titles[:2] == ["Best kept", "Worst"] and "Just under the line" not in titles
    assert "groups 2" in str(selection)


# Groups of a column


@pytest.mark.parametrize(
    "cells",
    [
        ["a", None, "b", "a", None, "a"],
        [1, None, 2, 1, None, 1],
        [True, None, False, True, None, True],
    ],
)
def test_groups_are_text_whole_numbers_or_booleans_and_null_is_a_group(cells):
    table = Dataset.from_dict({"lp": [6.0, 5, 4, 3, 2, 1], "group": cells})
    assert select(table, [PerCluster("lp", 3, group="group")]).rows.tolist() == [
        0,
        1,
        3,
    ]  # shares 1.5, 1 and 0.5


def test_all_code_rows_no_longer_vanish():
    table = Dataset.from_dict(
        {"ifd": [0.9] * 90 + [0.2] * 10, "language": ["text"] * 90 + ["code"] * 10}
    )
    assert select(table, [TopK("ifd", 0.1)]).subset["language"][:].count("code") == 0
    assert (
        select(table, [PerCluster("ifd", 0.1, group="language")])
        .subset["language"][:]
        .count("code")
        == 1
    )


# Clusters of embeddings


def test_k_means_finds_the_clusters_and_each_keeps_its_share():
    table = blobs()
    selection = select(table, [PerCluster("lp", 15, clusters=3, largest=False)])
    assert np.bincount(selection.subset["centre"][:]).tolist() == [8, 5, 2]
    for centre in range(3):
        everything = np.asarray(table["lp"][:])[np.asarray(table["centre"][:]) == centre]
        mine = np.asarray(selection.subset["lp"][:])[
            np.asarray(selection.subset["centre"][:]) == centre
        ]
        np.testing.assert_array_equal(mine, np.sort(everything)[: len(mine)])
    assert selection.steps[0].facts["clusters"] == 3


def test_the_seed_decides_the_clusters_and_nothing_else_does():
    rng = np.random.default_rng(0)
    table = Dataset.from_dict(
        {"lp": rng.random(300), "embedding": rng.normal(size=(300, 8)).astype(np.float32)}
    )
    rows = [
        select(table, [PerCluster("lp", 60, clusters=20, seed=seed)]).rows.tolist()
        for seed in (3, 3, 4)
    ]
    assert rows[0] == rows[1] != rows[2]


def test_one_cluster_for_each_50_rows_unless_you_say_otherwise():
    rng = np.random.default_rng(0)
    table = Dataset.from_dict(
        {"lp": rng.random(260), "embedding": rng.normal(size=(260, 4)).astype(np.float32)}
    )
    assert select(table, [PerCluster("lp", 10)]).steps[0].facts["clusters"] == 5
    assert select(table.select(range(30)), [PerCluster("lp", 10)]).steps[0].facts["clusters"] == 1


def test_rows_without_a_vector_are_in_no_cluster_and_a_threshold_takes_them_out_of_play():
    table = blobs()
    vectors = table.with_format("numpy")["embedding"][:].copy()
    vectors[[3, 8]] = np.nan
    table = table.remove_columns("embedding").add_column("embedding", list(vectors))
    table = table.add_column("embedding_tokens", np.where(np.isnan(vectors[:, 0]), np.nan, 5.0))
    said = r"2 of the 75 rows in play have no vector.*row 3 .*Threshold\('embedding_tokens'"
    with pytest.raises(ValueError, match=said):
        select(table, [PerCluster("lp", 15, clusters=3)])
    kept = select(
        table, [Threshold("embedding_tokens", above=0), PerCluster("lp", 15, clusters=3)]
    ).rows
    assert len(kept) == 15 and not {3, 8} & set(kept.tolist())


def test_a_selector_that_has_seen_one_table_reads_the_next_anew():
    selector = PerCluster("lp", 15, clusters=3)
    for seed in (0, 1):
        kept = select(blobs(seed=seed), [selector]).subset["centre"][:]
        assert np.bincount(kept).tolist() == [8, 5, 2]
    pool = np.arange(75)
    table = blobs()
    first = selector(table, pool)
    assert set(selector(table, np.setdiff1d(pool, first)).tolist()).isdisjoint(first.tolist())


def test_fewer_different_vectors_than_clusters_is_no_warning():
    table = Dataset.from_dict(
        {"lp": np.arange(8.0), "embedding": np.eye(2, dtype=np.float32)[[0, 1] * 4]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selection = select(table, [PerCluster("lp", 4, clusters=5)])
    assert selection.rows.tolist() == [7, 6, 5, 4] and selection.steps[0].facts["clusters"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clusters": 76}, "clusters=76 and only 75 rows"),
        ({"column": "embeding"}, "no column 'embeding'.*Embed.*did you mean 'embedding'"),
        ({"column": "lp"}, "column 'lp' holds double, not vectors"),
        ({"group": "centr"}, "no column 'centr'.*did you mean 'centre'"),
        (
            {"group": "lp"},
            "column 'lp' holds double, and groups are text, whole numbers or booleans",
        ),
        ({"group": "embedding"}, "column 'embedding' holds .*, and groups are text"),
    ],
)
def test_what_the_table_has_not_is_said_before_anything_is_done(arguments, said):
    with pytest.raises(ValueError, match=said):
        select(blobs(), [PerCluster("lp", 5, **arguments)])


def test_uneven_vectors_are_said_with_both_lengths():
    table = Dataset.from_dict({"lp": [1.0, 2.0], "embedding": [[1.0, 2.0], [1.0]]})
    with pytest.raises(ValueError, match="uneven lengths: 2 numbers, and 1 in row 1"):
        select(table, [PerCluster("lp", 1)])


@pytest.mark.parametrize(
    "arguments",
    [
        {"by": ""},
        {"k": 0},
        {"k": 1.5},
        {"k": None},
        {"clusters": 0},
        {"clusters": 2.0},
        {"clusters": 2, "group": "g"},
        {"group": ""},
        {"group": 3},
        {"largest": 1},
        {"column": ""},
        {"seed": -1},
    ],
)
def test_bad_settings_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match=re.escape(f"{next(iter(arguments))}=")):
        PerCluster(**{"by": "lp", "k": 5, **arguments})
