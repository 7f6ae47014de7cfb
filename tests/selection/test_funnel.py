"""The funnel: what a Selection promises for any selectors, and which answers are refused."""

import functools
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter import Kept, Selection, Threshold, TopK, select
from hf_superfilter.reports.summary import Summary
from hf_superfilter.reports.text import summary_text


def table_of(values):
    return Dataset.from_dict(
        {"ifd": np.asarray(values, dtype=float), "text": [f"row {i}" for i in range(len(values))]}
    )


class Heaviest:
    """A selector of somebody else, with something to say."""

    by = "ifd"

    def __call__(self, table, pool):
        return pool[:2]

    def facts(self, table, pool, rows):
        return {"weight": len(pool) / len(rows)}

    def __repr__(self):
        return "Heaviest()"


@st.composite
def funnels(draw):
    """Selectors whose every step is a different choice from the pool it is given."""
    steps = draw(
        st.lists(st.tuples(st.integers(0, 2**16), st.floats(0, 1)), min_size=1, max_size=5)
    )

    def keep(table, pool, seed, share):
        return np.random.default_rng(seed).permutation(pool)[: math.ceil(share * len(pool))]

    return [functools.partial(keep, seed=seed, share=share) for seed, share in steps]


@given(rows=st.integers(1, 60), selectors=funnels())
def test_what_a_selection_promises_whatever_the_selectors(rows, selectors):
    table = table_of(np.arange(rows))
    selection = select(table, selectors)
    assert selection.rows.dtype == np.int64 and selection.dropped_by.dtype == np.int16
    assert (selection.kept == (selection.dropped_by == -1)).all() and len(selection) == len(
        selection.rows
    )
    assert len(selection.dropped_by) == rows and len(selection.steps) == len(selectors)
    assert set(np.flatnonzero(selection.dropped_by == -1)) == set(selection.rows.tolist())
    assert selection.steps[0].rows_in == rows and selection.steps[-1].rows_out == len(
        selection.rows
    )
    for before, after in pairwise(selection.steps):
        assert before.rows_out == after.rows_in
    for number, step in enumerate(selection.steps):
        assert (selection.dropped_by == number).sum() == step.rows_in - step.rows_out
    assert selection.subset["text"][:] == [f"row {row}" for row in selection.rows]
    assert selection.share == len(selection.rows) / rows


def test_the_subset_stands_best_first_with_all_columns():
    selection = select(
        table_of([0.3, 0.9, 0.6, 1.2]), [Threshold("ifd", below=1.0), TopK("ifd", 2)]
    )
    assert selection.subset.to_dict() == {"ifd": [0.9, 0.6], "text": ["row 1", "row 2"]}
    assert selection.subset is selection.subset
    assert selection.dropped_by.tolist() == [1, -1, -1, 0]
    assert selection.by == "ifd"


def test_plain_functions_and_lambdas_are_selectors_and_one_needs_no_list():
    def every_other(table, pool):
        return pool[::2]

    selection = select(
        table_of(range(8)), [every_other, lambda table, pool: [int(row) for row in pool if row > 2]]
    )
    assert selection.rows.tolist() == [4, 6]
    assert [step.selector for step in selection.steps] == ["every_other", "<lambda>"]
    assert selection.by is None
    assert select(table_of(range(8)), every_other).rows.tolist() == [0, 2, 4, 6]
    assert select(table_of(range(8)), iter([every_other])).rows.tolist() == [0, 2, 4, 6]


def test_a_selector_can_add_facts_to_its_step():
    selection = select(table_of(range(6)), [Heaviest(), TopK("ifd", 1)])
    assert [step.facts for step in selection.steps] == [{"weight": 3.0}, {}]
    assert "Heaviest()" in str(selection) and "weight 3.0" in str(selection)


def test_its_text_is_the_funnel_and_its_repr_is_one_line():
    selection = select(
        table_of([0.5] * 1500 + [1.5] * 500), [Threshold("ifd", below=1.0), TopK("ifd", 0.1)]
    )
    assert repr(selection) == "Selection(200 of 2,000 rows, by 'ifd', cut at 0.5)"
    assert str(selection).splitlines() == [
        "200 of 2,000 rows kept (10.0%)",
        "  Threshold(by='ifd', below=1.0)      2,000 ->     1,500",
        "  TopK(by='ifd', k=0.1)               1,500 ->       200",
    ]


def test_facts_may_come_with_the_rows():
    def heaviest(table, pool):
        return Kept(pool[:2], {"weight": len(pool) / 2})

    (step,) = select(table_of(range(6)), heaviest).steps
    assert (step.rows_out, step.facts) == (2, {"weight": 3.0})


def test_kept_reads_as_its_rows():
    kept = Kept(np.array([3, 1, 2]), {"weight": 1})
    assert (len(kept), kept[0], list(kept), kept.tolist()) == (3, 3, [3, 1, 2], [3, 1, 2])
    np.testing.assert_array_equal(kept, [3, 1, 2])
    assert np.asarray(kept, dtype=float).dtype == float


def test_a_selection_reads_as_its_kept_rows():
    table = Dataset.from_dict({"text": list("abc"), "ifd": [0.1, 0.9, 0.5]})
    selection = select(table, TopK("ifd", 2))
    assert len(selection) == 2
    assert selection[0] == {"text": "b", "ifd": 0.9}
    assert selection[-1]["text"] == "c" and selection[:1] == {"text": ["b"], "ifd": [0.9]}
    assert selection["text"][:] == ["b", "c"]
    assert [row["text"] for row in selection] == ["b", "c"]
    assert selection.to_pandas()["text"].tolist() == ["b", "c"]
    assert selection.kept.tolist() == [False, True, True]
    assert (selection.ranked_by, selection.cut) == ("ifd", 0.5)
    assert selection.scores.tolist() == [0.1, 0.9, 0.5]
    with pytest.raises(IndexError):
        selection[2]


def test_a_notebook_shows_the_funnel_with_its_text_escaped():
    def odd(table, pool):
        return Kept(pool[:1], {"note": "<b>bold</b>"})

    shown = select(table_of([1, 2]), odd)._repr_html_()
    assert "1 of 2 rows kept (50.0%)" in shown and "&lt;b&gt;bold&lt;/b&gt;" in shown
    assert shown.count("<tr>") == 2


def test_response_lengths_are_those_of_all_turns():
    table = Dataset.from_dict({"response": [["ab", None, "cde"], None, []], "ifd": [1.0, 2.0, 3.0]})
    assert select(table, TopK("ifd", 1)).response_lengths.tolist() == [5, 0, 0]
    assert select(table_of([1]), TopK("ifd", 1)).response_lengths is None


def test_a_budget_is_warned_of_once_and_where_select_was_called():
    with pytest.warns(UserWarning, match="TopK.*room for 9 rows, and only 2 rows") as caught:
        select(table_of([1, 2]), [TopK("ifd", 9)])
    assert len(caught) == 1 and caught[0].filename == __file__


def test_kept_rows_of_an_ifd_of_one_or_more_are_logged_once(caplog):
    columns = {"ifd": [0.9, 1.0, 2.5, 0.4], "ifd_ppl": [1.0] * 4, "ifd_ppl_alone": [1.0] * 4}
    table = Dataset.from_dict(columns)
    select(table, [TopK("ifd", 3)])
    (record,) = caplog.records
    assert "2 of 3 kept rows have ifd of 1 or more" in record.message
    assert "Threshold('ifd', below=1.0)" in record.message
    caplog.clear()
    select(table, [Threshold("ifd", below=1.0), TopK("ifd", 1)])
    select(table, [TopK("ifd_ppl", 3)])  # not selected by IFD
    select(table.remove_columns("ifd_ppl"), [TopK("ifd", 3)])  # a column of that name only
    assert not caplog.records


def test_a_step_that_drops_all_leaves_an_empty_selection():
    table = table_of([0.5, math.nan])
    with pytest.warns(UserWarning, match="only 0 rows"):
        selection = select(table, [Threshold("ifd", below=0.1), TopK("ifd", 1)])
    assert len(selection.rows) == len(selection.subset) == 0 and selection.share == 0
    assert selection.subset.column_names == ["ifd", "text"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda table, pool: [0, 5, 99], "row 99, which is not among the rows still in play"),
        (lambda table, pool: [-1], "row -1, which is not"),
        (lambda table, pool: [3, 1, 3], "row 3 more than once"),
        (
            lambda table, pool: pool > 2,
            r"bool values of shape \(6,\), not with row numbers.*pool\[mask\]",
        ),
        (lambda table, pool: [0.5], "float64 values"),
        (lambda table, pool: None, "object values"),
        (lambda table, pool: [[0, 1]], r"shape \(1, 2\)"),
        (lambda table, pool: table.select([0]), "not with row numbers"),
    ],
)
def test_a_wrong_answer_is_refused_with_the_name_of_the_selector(answer, complaint):
    with pytest.raises(ValueError, match=f"<lambda> answered with .*{complaint}"):
        select(table_of(range(6)), [answer])


def test_a_row_that_an_earlier_step_dropped_is_foreign():
    with pytest.raises(ValueError, match="row 0, which is not among the rows still in play"):
        select(table_of(range(3)), [TopK("ifd", 1), lambda table, pool: [0]])


def test_a_selector_that_changes_its_pool_changes_nothing_else():
    def spoil(table, pool):
        pool[:] = 0
        return [2]

    assert select(table_of(range(3)), [spoil]).dropped_by.tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("table", "selectors", "complaint"),
    [
        (table_of([]), [TopK("ifd", 1)], "no rows"),
        (table_of([1]), [], "at least one selector"),
        (table_of([1]), ["TopK"], "'TopK' is not a selector"),
        (table_of([1]), "ifd", "'ifd' is not a selector: give TopK"),
        (table_of([1]), TopK, "TopK is a class, not a selector: give an instance"),
        (
            table_of([1]).to_pandas(),
            TopK("ifd", 1),
            "got DataFrame: make one with Dataset.from_pandas",
        ),
        (
            table_of([1]),
            [lambda table, pool: pool] * 32_768,
            "32,768 selectors: give at most 32,767",
        ),
        (DatasetDict(train=table_of([1])), [TopK("ifd", 1)], r"got DatasetDict: pick a split"),
        (IterableDataset.from_generator(lambda: iter(())), [TopK("ifd", 1)], "got IterableDataset"),
    ],
)
def test_what_cannot_be_selected_from_or_by_is_refused(table, selectors, complaint):
    with pytest.raises(ValueError, match=complaint):
        select(table, selectors)


def test_row_numbers_are_those_of_the_table_as_it_stands_also_after_a_shuffle():
    table = table_of(range(20)).shuffle(seed=1).select(range(3, 15))
    selection = select(table, [TopK("ifd", 3)])
    assert selection.subset["ifd"][:] == sorted(table["ifd"][:])[:-4:-1]
    assert table.select(selection.rows)["text"][:] == selection.subset["text"][:]


def test_a_selection_can_be_pickled_and_compared():
    selection = select(table_of([0.1, 0.2]), [TopK("ifd", 1)])
    assert selection == selection
    again = pickle.loads(pickle.dumps(selection))
    assert isinstance(again, Selection) and again.rows.tolist() == [1]


@pytest.mark.parametrize("largest", [True, False])
def test_a_step_says_whether_it_ranks_and_which_way(largest):
    selectors = [
        Threshold("ifd", below=9),
        Heaviest(),
        TopK("ifd", 1, largest=largest),
        lambda table, pool: pool,
    ]
    steps = select(table_of(range(6)), selectors).steps
    assert [step.largest for step in steps] == [None, None, largest, None]
    assert [step.ranks for step in steps] == [False, False, True, False]


# The summary


def text_of(selection):
    return summary_text(Summary(selection))


def test_a_table_without_scorer_or_run_has_a_summary_that_says_not_recorded():
    table = Dataset.from_dict({"quality": [3, None, 1, 2]})
    text = text_of(select(table, [TopK("quality", 2)]))
    assert text.endswith(
        "Best kept:\n  3.000  \n  2.000  \nJust under the line:\n  1.000  \nWorst:\n  1.000  \n\n"
        "cost of scoring: not recorded\n"
    )


def test_a_selection_by_no_column_has_a_summary_that_calls_no_row_the_best():
    table = Dataset.from_dict({"prompt": ["a\nb", "c"], "response": [None, "d"]})
    text = text_of(select(table, [lambda table, pool: [0]]))
    assert "\nKept:\n  a b  |  \n" in text
    assert not [word for word in ("Best", "Just under", "Worst") if word in text]


@pytest.mark.parametrize(
    "values", [[math.nan] * 3, [0.5] * 3, [math.inf, -math.inf, math.nan], [1e300, -1e300, 0.0]]
)
def test_odd_scores_have_a_summary_without_a_warning(values):
    assert "not recorded" in text_of(select(table_of(values), [Threshold("ifd", below=1.0)]))


def test_the_summary_counts_statuses_and_shows_the_last_turn_of_a_chat():
    table = Dataset.from_dict(
        {
            "prompt": [["one", "two"], ["long " * 50], []],
            "response": [["first", "second"], ["word"], []],
            "ifd": [0.9, 0.5, math.nan],
            "ifd_status": ["ok", "ok", "empty_response"],
            "order_status": ["sent"] * 3,
        }
    )
    text = text_of(select(table, [TopK("ifd", 1)]))
    assert "ifd_status: ok 2, empty_response 1" in text and "order_status" not in text
    assert "Best kept:\n  0.900  two  |  second\n" in text
    assert all(len(line) < 170 for line in text.splitlines()) and "…" in text


@pytest.mark.parametrize("by", ["size of something", "text"])
def test_a_selector_whose_by_is_no_numeric_column_of_the_table_has_a_summary(by):
    def by_size(table, pool):
        return pool[:1]

    by_size.by, by_size.largest = by, True
    assert "Best kept" not in text_of(select(table_of([1, 2]), [by_size]))
