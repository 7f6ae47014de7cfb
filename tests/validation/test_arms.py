"""Every arm trains on the rows that its name says, and held-out rows are in none."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import SuperfilterError
from hf_superfilter.validation.answers import notes_on_rows, notes_on_scale, notes_on_training
from hf_superfilter.validation.arms import Pool, check_arms, make_arms
from hf_superfilter.validation.plan import Question, questions_of
from hf_superfilter.validation.rows import Windows, split_rows

ROWS = 400


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 200, ROWS)
    table = Dataset.from_dict(
        {
            "ifd_ppl": np.where(np.arange(ROWS) % 7 == 0, np.nan, rng.random(ROWS)),
            "score": rng.random(ROWS),
            "mark": np.arange(ROWS) % 10 == 3,
        }
    )
    long = np.flatnonzero(tokens > 80)
    selected = rng.permutation(long)[:60]
    return Pool(table, np.arange(ROWS), tokens, selected, seed=1)


def arm_of(pool, name, *, seeds=3, draws=5):
    (arm,) = make_arms([name], pool, seeds=seeds, draws=draws)
    return arm


def test_random_arms_are_drawn_anew_and_others_keep_their_rows(pool):
    random, longest = arm_of(pool, "random"), arm_of(pool, "longest")
    assert len(random.draws) == 5 and len(longest.draws) == 3
    assert len({tuple(sorted(draw)) for draw in random.draws}) == 5
    assert all(np.array_equal(draw, longest.draws[0]) for draw in longest.draws)


@pytest.mark.parametrize("name", ["random", "random-tokens", "random-lengths"])
def test_a_draw_depends_on_the_seed_has_each_row_once_and_only_rows_with_a_response(pool, name):
    for draw, again in zip(arm_of(pool, name).draws, arm_of(pool, name).draws, strict=True):
        assert np.array_equal(draw, again)
        assert len(set(draw.tolist())) == len(draw)
        assert (pool.tokens[draw] > 0).all()


def test_random_rows_are_as_many_tokens_as_many_and_lengths_as_long(pool):
    wanted = pool.tokens[pool.selected]
    for draw in arm_of(pool, "random").draws:
        assert len(draw) == len(pool.selected)
    for draw in arm_of(pool, "random-tokens").draws:
        assert abs(pool.tokens[draw].sum() - wanted.sum()) <= 200
    for draw in arm_of(pool, "random-lengths").draws:
        assert len(draw) == len(pool.selected)
        gaps = np.sort(pool.tokens[draw]) - np.sort(wanted)
        assert np.abs(gaps).max() <= 40 and abs(gaps.mean()) < 5


def test_fixed_arms_take_the_extremes_of_their_column(pool):
    k = len(pool.selected)
    usable = np.flatnonzero(pool.tokens > 0)
    values = np.array(pool.table["ifd_ppl"][:], dtype=float)
    longest = arm_of(pool, "longest").draws[0]
    assert sorted(pool.tokens[longest]) == sorted(pool.tokens)[-k:]
    defined = usable[np.isfinite(values[usable])]
    assert sorted(values[arm_of(pool, "ppl-high").draws[0]]) == sorted(values[defined])[-k:]
    assert sorted(values[arm_of(pool, "ppl-low").draws[0]]) == sorted(values[defined])[:k]
    scores = np.array(pool.table["score"][:])
    assert sorted(scores[arm_of(pool, "lowest:score").draws[0]]) == sorted(scores[usable])[:k]
    marked = arm_of(pool, "where:mark").draws[0]
    assert marked.tolist() == [row for row in usable if row % 10 == 3]
    assert arm_of(pool, "full").draws[0].tolist() == usable.tolist()
    assert arm_of(pool, "untrained").draws[0].tolist() == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["selected", "randm"], "did you mean 'random'"),
        (["selected", "longest"], "a random arm"),
        (["random"], "the selection"),
        (["selected", "random", "highest:"], "no arm 'highest:'"),
        (["selected", "random", "best:ifd"], "no arm 'best:ifd'"),
    ],
)
def test_an_arm_that_does_not_exist_is_refused_by_name(names, reason):
    with pytest.raises(SuperfilterError, match=reason):
        check_arms(names)


def test_arms_may_be_listed_or_separated_by_commas():
    listed = ("selected", "random", "highest:ifd")
    assert check_arms("selected, random,highest:ifd,random") == check_arms(listed) == listed


def test_a_column_of_other_numbers_marks_no_rows(pool):
    with pytest.raises(SuperfilterError, match="where:score: the column holds"):
        arm_of(pool, "where:score")


def test_draws_that_are_the_selection_itself_and_columns_of_few_numbers_are_told(pool):
    longest = arm_of(pool, "longest").draws[0]
    values = [1.0 if row < 9 else None for row in range(len(pool.table))]
    table = pool.table.add_column("few", values)
    own = Pool(table, pool.rows, pool.tokens, longest)
    arms = make_arms(["random", "random-lengths", "highest:few"], own, seeds=1, draws=5)
    windows = Windows([[] for _ in pool.rows], "rows", pool.rows)
    notes = "\n".join(notes_on_rows(own, windows, [], arms))
    for arm in arms[:2]:
        shares = [len(set(draw.tolist()) & set(longest.tolist())) / len(draw) for draw in arm.draws]
        assert f"{sum(shares) / 5:.0%} of {arm.name}" in notes
    assert "cannot tell a score from a length" in notes
    few = len(arms[2].draws[0])
    assert few < len(longest) and f"highest:few has {few} rows and not {len(longest)}" in notes


def test_of_several_columns_of_perplexity_the_one_that_an_arm_goes_by_is_told(pool):
    windows = Windows([[]] * ROWS, "rows", np.arange(ROWS))
    arms = [arm_of(pool, "ppl-high"), arm_of(pool, "ppl-low")]
    assert not any("column" in note for note in notes_on_rows(pool, windows, [], arms))
    both = pool.table.add_column("strong_ppl", np.arange(ROWS, dtype=float))
    wide = replace(pool, table=both)
    assert np.array_equal(arm_of(wide, "ppl-high").draws[0], arms[0].draws[0])
    (told,) = [note for note in notes_on_rows(wide, windows, [], arms) if "column" in note]
    assert told.startswith("ppl-high, ppl-low: by the column 'ifd_ppl', the first of ifd_ppl, str")


def test_a_selection_without_a_response_is_told_and_not_to_be_left_out(pool):
    bare = Pool(pool.table, pool.rows, pool.tokens, pool.selected[:0])
    with pytest.raises(SuperfilterError, match="'selected' has no row to train on: select rows"):
        arm_of(bare, "selected")
    with pytest.raises(SuperfilterError, match="'longest' has no row to train on: leave it out"):
        arm_of(bare, "longest")


def test_students_that_unlearn_are_told():
    def answer_of(**losses):
        figures = [
            {"name": name.replace("_", "-"), "figures": {"held-out": {"quartile mean": loss}}}
            for name, loss in losses.items()
        ]
        return {"name": "steps", "arms": figures}

    assert not notes_on_training([answer_of(selected=4.0, random=4.0, untrained=4.1)], "held-out")
    assert not notes_on_training([answer_of(selected=4.0, random_tokens=4.0)], "held-out")
    worse = answer_of(selected=4.0, random_tokens=4.2, untrained=4.1)
    (note,) = notes_on_training([worse], "held-out")
    assert "4.100" in note and "after random-tokens rows (4.200)" in note
    assert "give a lower learning_rate" in note and not notes_on_scale([worse], "held-out")
    (elsewhere,) = notes_on_training([worse], "held-out", same_source=False)
    assert elsewhere.endswith("which rows do less harm there")
    (scale,) = notes_on_scale([answer_of(selected=4.0, random=4.0, untrained=4.1)], "held-out")
    assert scale.endswith("lower the untrained student's loss on held-out by 0.100")


def test_perplexity_needs_its_column_and_a_column_has_to_exist(pool):
    bare = Pool(pool.table.select_columns(["score"]), pool.rows, pool.tokens, pool.selected)
    with pytest.raises(SuperfilterError, match="_ppl"):
        arm_of(bare, "ppl-high")
    with pytest.raises(SuperfilterError, match="did you mean 'score'"):
        arm_of(bare, "highest:scor")


def test_no_row_of_the_pool_has_the_texts_of_a_row_held_out():
    prompts = [f"question {number % 30}\n" for number in range(100)]
    responses = [f"answer {number % 30}" + " \n" * (number % 2) for number in range(100)]
    table = Dataset.from_dict({"prompt": prompts, "response": responses})
    split = split_rows(table, 10, 5, seed=0)
    texts = [
        (prompt, response.strip()) for prompt, response in zip(prompts, responses, strict=False)
    ]
    held_out = {texts[row] for row in split.held_out}
    tuning = {texts[row] for row in split.tuning}
    pool = {texts[row] for row in split.pool}
    assert not held_out & tuning and not (held_out | tuning) & pool
    assert len(split.held_out) == 10
    parts = len(split.pool) + len(split.held_out) + len(split.tuning) + split.repeated
    assert parts == 100 and split.repeated > 0


def test_no_row_of_the_pool_has_a_turn_of_a_chat_held_out():
    """Every chat is there with one turn, with two and with three, as some data sets are cut."""
    prompts, responses = [], []
    for chat in range(40):
        asked = [f"chat {chat}: " + "again, " * turn for turn in range(3)]
        answers = [f"answer {turn} of {chat}" for turn in range(3)]
        for count in (1, 2, 3):
            prompts.append(asked[:count])
            responses.append([*answers[: count - 1], answers[count - 1] + " \n"])
    split = split_rows(Dataset.from_dict({"prompt": prompts, "response": responses}), 20, 5, seed=0)
    chats = [{row // 3 for row in part} for part in (split.held_out, split.tuning, split.pool)]
    held_out, tuning, pool = chats
    assert not held_out & tuning and not (held_out | tuning) & pool
    parts = len(split.pool) + len(split.held_out) + len(split.tuning) + split.repeated
    assert parts == 120 and split.repeated > 0


def test_rows_of_a_split_depend_on_the_seed_alone():
    table = Dataset.from_dict({"prompt": [str(n) for n in range(50)], "response": ["x"] * 50})
    one, same, other = (split_rows(table, 10, 5, seed=seed) for seed in (0, 0, 1))
    assert one.held_out.tolist() == same.held_out.tolist() != other.held_out.tolist()


def test_questions_hold_steps_epochs_or_tokens_equal():
    tokens = np.full(100, 30)
    assert Question("steps", 75).steps_of(tokens, 16) == 75
    assert Question("epochs", 2).steps_of(tokens, 16) == 13
    assert Question("tokens", 4_800).steps_of(tokens, 16) == 10
    assert questions_of(None, None, None, 600, 16) == [Question("steps", 75)]
    both = questions_of(10, 1, None, 600, 16)
    assert both == [Question("steps", 10), Question("epochs", 1)]
    for steps in (0, -1, 2.5):
        with pytest.raises(SuperfilterError, match="above 0"):
            questions_of(steps, None, None, 600, 16)
