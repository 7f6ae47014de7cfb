"""Batches: every sequence once, under the budget, longest first, little padding."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter.models.batching import PADDING_SLACK, batches_by_length

lengths = st.lists(st.integers(1, 300), max_size=60)


@given(lengths, st.integers(1, 1_000))
def test_every_sequence_is_in_exactly_one_batch(sizes, budget):
    batches = [list(batch) for batch in batches_by_length(sizes, budget)]
    assert sorted(number for batch in batches for number in batch) == list(range(len(sizes)))


@given(lengths, st.integers(1, 1_000), st.sampled_from([0.0, 0.03, 0.5]))
def test_a_batch_stays_under_the_budget_and_under_one_of_both_limits_of_padding(
    sizes, budget, padding
):
    for batch in batches_by_length(sizes, budget, padding):
        mine = [sizes[number] for number in batch]
        assert len(mine) == 1 or len(mine) * max(mine) <= budget
        wasted = sum(max(mine) - size for size in mine)
        assert wasted <= PADDING_SLACK or min(mine) >= max(mine) * (1 - padding)


@given(lengths, st.integers(1, 1_000))
def test_batches_are_no_smaller_than_the_limits_ask_for(sizes, budget):
    batches = [[sizes[number] for number in batch] for batch in batches_by_length(sizes, budget)]
    for mine, following in itertools.pairwise(batches):
        longer = [*mine, following[0]]
        over = len(longer) * max(mine) > budget
        assert over or sum(max(mine) - size for size in longer) > PADDING_SLACK


@given(lengths, st.integers(1, 1_000))
def test_the_longest_come_first_and_equal_lengths_keep_their_order(sizes, budget):
    order = [int(number) for batch in batches_by_length(sizes, budget) for number in batch]
    assert order == sorted(range(len(sizes)), key=lambda number: (-sizes[number], number))
