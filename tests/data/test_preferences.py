"""Rows with two answers to one prompt, and rows with a verdict on one answer."""

import logging

import pytest
from datasets import Dataset, Features, Json, List, Value

from hf_superfilter import SuperfilterError, detect_format, format_pairs

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Sky?"}
BLUE, GREEN = ({"role": "assistant", "content": text} for text in ("blue", "green"))
TURNS = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
SHAREGPT = [*TURNS, {"from": "human", "value": "Sky?"}]
SIDES = {"chosen": "blue", "rejected": "green"}
CHAT_SIDES = {"chosen": [BLUE], "rejected": [GREEN]}


def formatted(row, *args, **options):
    table = format_pairs(Dataset.from_list([row]), *args, **options)
    return tuple(table[0][name] for name in ("prompt", "response", "response_rejected"))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "The sky is ", **SIDES}, "The sky is "),
        ({"chosen": "The sky is blue", "rejected": "The sky is green"}, "The sky is"),
        ({"instruction": "Sky?", "input": "Now", **SIDES}, "Sky?\nNow\n"),
        ({"instruction": "Sky?", "input": "", "output": "old", **SIDES}, "Sky?\n"),
        ({"question": "Sky?", "system": "Be brief.", **SIDES}, "Be brief.\nSky?\n"),
        ({"input": "Sky?", **SIDES}, "Sky?\n"),
        ({"prompt": [ASK], **CHAT_SIDES}, ["Sky?\n"]),
        ({"prompt": "Sky?", **CHAT_SIDES}, ["Sky?\n"]),
        ({"chosen": [SYSTEM, ASK, BLUE], "rejected": [SYSTEM, ASK, GREEN]}, ["Be brief.\nSky?\n"]),
        (
            {"prompt": "Sky?", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN], "messages": [ASK]},
            ["Sky?\n"],
        ),
        ({"messages": [ASK], "chosen": BLUE, "rejected": GREEN}, ["Sky?\n"]),
        ({"messages": [ASK], **SIDES}, ["Sky?\n"]),
        (
            {
                "conversations": SHAREGPT,
                "chosen": {"from": "gpt", "value": "blue"},
                "rejected": {"from": "gpt", "value": "green"},
            },
            ["Hi.\nHello.\nSky?\n"],
        ),
        (
            {
                "input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [BLUE],
                "non_preferred_output": [GREEN],
            },
            ["Sky?\n"],
        ),
    ],
)
def test_a_preference_in_any_layout_gives_its_prompt_and_both_answers(row, prompt):
    assert detect_format(row) == "preference"
    is_chat = isinstance(prompt, list)
    blue, green = ("blue", "green")
    if prompt == "The sky is":
        blue, green = (" blue", " green")
    expected = (prompt, [blue], [green]) if is_chat else (prompt, blue, green)
    assert formatted(row) == formatted(row, "preference") == expected


def test_the_history_of_a_preference_is_context():
    row = {"instruction": "Sky?", "history": [["Hi.", "Hello."]], **SIDES}
    assert formatted(row) == (["Hi.\nHello.\nSky?\n"], ["blue"], ["green"])


def test_equal_answers_are_both_kept():
    row = {"chosen": [ASK, BLUE], "rejected": [ASK, BLUE]}
    assert formatted(row) == (["Sky?\n"], ["blue"], ["blue"])


def test_a_preference_over_several_turns_is_refused_by_its_roles():
    row = {"chosen": [ASK, BLUE, ASK, BLUE], "rejected": [ASK, GREEN]}
    with pytest.raises(SuperfilterError, match="'chosen' has assistant, user, assistant after"):
        formatted(row)


def test_formatting_again_changes_nothing():
    for row in ({"prompt": [ASK], **CHAT_SIDES}, {"messages": [ASK], **CHAT_SIDES}):
        once = format_pairs(Dataset.from_list([row]))
        assert format_pairs(once).select_columns(once.column_names).to_list() == once.to_list()


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_a_label_of_kto_says_which_side_the_last_answer_is_on(label, name):
    empty = ""
    text = {"prompt": "Sky? ", "completion": "blue", name: label}
    sides = ("blue", empty) if label else (empty, "blue")
    assert formatted(text) == ("Sky? ", *sides)
    chat = {"messages": [ASK, GREEN, ASK, BLUE], name: label}
    assert formatted(chat) == (["Sky?\ngreen\nSky?\n"], [sides[0]], [sides[1]])


def test_a_label_that_is_not_true_or_false_is_no_verdict(caplog):
    with caplog.at_level(logging.INFO, "hf_superfilter.data.formats"):
        table = format_pairs(Dataset.from_list([{"messages": [ASK, BLUE], "label": 3}]))
    assert "response_rejected" not in table.column_names
    assert "from the columns messages; not read: label" in caplog.text
    rows = Dataset.from_dict(
        {"messages": [[ASK, BLUE]], "label": [None]},
        Features({"messages": List(Json()), "label": Value("bool")}),
    )
    with pytest.raises(SuperfilterError, match="column 'label' holds None: a label is true or"):
        format_pairs(rows)


def test_a_preference_column_of_another_name_is_named_aloud(caplog):
    row = {"prompt": "Sky?", "response": "blue", "answer_rejected": "green"}
    with caplog.at_level(logging.WARNING, "hf_superfilter.data.formats"):
        format_pairs(Dataset.from_list([row]))
    assert "the columns answer_rejected look like two answers to compare" in caplog.text
    named = {"chosen": "response", "rejected": "answer_rejected"}
    assert formatted(row, columns=named) == ("Sky?", "blue", "green")
