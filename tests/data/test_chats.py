"""Rows into turns and back: what several turns say together."""

import numpy as np

from hf_superfilter.data.chats import flatten_turns


def test_a_row_of_text_is_one_turn_and_a_chat_is_several():
    turns = flatten_turns(
        {"p": ["a", ["b", "c"], [], None], "r": ["x", ["y", None], [], "z"]}, ("p", "r")
    )
    assert turns.prompts == ["a", "b", "c", ""]
    assert turns.responses == ["x", "y", "", "z"]
    assert turns.rows.tolist() == [0, 1, 1, 3] and turns.count == 4
    assert turns.total(np.array([1.0, 2, 3, 4])).tolist() == [1, 5, 0, 4]


def test_a_rows_status_is_its_first_reason_or_what_its_used_turns_say():
    turns = flatten_turns(
        {
            "p": [["a"] * 2, ["a"] * 2, ["a"] * 2, [], ["a"]],
            "r": [["b"] * 2, ["b"] * 2, ["b"] * 2, [], ["b"]],
        },
        ("p", "r"),
    )
    by_turn = ["ok", "too_short", "ok", "prompt_too_long", "too_short", "empty_response", "ok"]
    used = np.array([1, 0, 1, 0, 0, 0, 1], dtype=bool)
    finite = np.array([True, True, False, False, False])
    assert turns.statuses(by_turn, used, finite) == [
        "ok",
        "truncated",
        "too_short",
        "empty_response",
        "not_finite",
    ]
