"""Messages in every form that training data has them: read whole, or refused by name."""

import json

import pytest
from datasets import Dataset, Features, Json, List
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter import SuperfilterError, format_pairs
from hf_superfilter.data.messages import compact_json, read_messages

ASK = {"role": "user", "content": "Go."}
CALL = {"name": "add", "arguments": {"a": 1}}
WRITTEN = '[{"name":"add","arguments":{"a":1}}]'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def formatted(*messages, **options):
    """Format one chat whose messages are stored as JSON, as load_rows stores mixed ones."""
    rows = Dataset.from_list(
        [{"messages": list(messages)}], features=Features({"messages": List(Json())})
    )
    row = format_pairs(rows, **options)[0]
    return list(zip(row["prompt"], row["response"], strict=True))


def response(message, **options):
    ((prompt, text),) = formatted(ASK, {"role": "assistant", **message}, **options)
    assert prompt == "Go.\n"
    return text


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_belongs_to_the_response_unless_it_is_dropped(key):
    message = {"content": "4", key: "two and two"}
    assert response(message) == "two and two\n4"
    assert response(message, reasoning="drop") == "4"
    assert response(message, reasoning="only") == "two and two"
    assert response({"content": None, key: "two and two"}) == "two and two"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": "a", "signature": "s"}, {"type": "text", "text": "b"}],
        [{"type": "reasoning", "value": "a"}, {"type": "text", "value": "b"}],
        "<think>\na\n</think>\n\nb",
        "a\n</think>b",
        "[THINK]a[/THINK]b",
        "<seed:think>a</seed:think>b",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
    ],
)
def test_reasoning_is_known_as_a_typed_part_and_in_tags(content):
    assert response({"content": content}, reasoning="drop") == "b"
    assert response({"content": content}, reasoning="only") == "a"


def test_reasoning_that_several_fields_repeat_counts_once():
    # Servers of several versions write one text under two names, and in tags of the text as well.
    message = {"content": "4", "reasoning": "two and two", "reasoning_content": "two and two"}
    assert response(message) == "two and two\n4"
    tagged = "<think>\ntwo and two\n</think>\n\n4"
    assert response({**message, "content": tagged}) == tagged
    assert response({**message, "content": tagged}, reasoning="only") == "two and two"
    assert response({**message, "thinking": "2 + 2"}) == "2 + 2\ntwo and two\n4"


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_reasoning_in_parts_is_read_whole(kind):
    parts = [{"type": kind, kind: "two "}, {"type": kind, kind: "and two"}]
    assert response({"content": "4", "reasoning_content": parts}) == "two and two\n4"


def test_reasoning_in_tags_stays_as_it_is_written_when_it_is_kept():
    assert response({"content": "<think>\na\n</think>\n\nb"}) == "<think>\na\n</think>\n\nb"


def test_dropped_reasoning_is_dropped_from_later_prompts_too():
    first = {"role": "assistant", "content": "4", "reasoning_content": "two and two"}
    chat = [ASK, first, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "5"}]
    assert formatted(*chat)[1][0] == "Go.\ntwo and two\n4\nAnd?\n"
    assert formatted(*chat, reasoning="drop")[1][0] == "Go.\n4\nAnd?\n"
    assert [text for _, text in formatted(*chat, reasoning="only")] == ["two and two", ""]


def test_an_unknown_way_to_treat_reasoning_is_refused():
    with pytest.raises(SuperfilterError, match="reasoning='kep': did you mean 'keep'"):
        response({"content": "a"}, reasoning="kep")


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "function_call": CALL},
        {"content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"tool_calls": [{"id": "1", "type": "function", "function": CALL}]},
        {"tool_calls": [{"id": "1", "function": json.dumps(CALL)}]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [{"name": "add", "parameters": {"a": 1}}]},
        {"content": [{"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}]},
        {"content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
    ],
)
def test_a_tool_call_in_any_form_is_a_response_in_compact_json(message):
    assert response(message) == WRITTEN
    assert response({**message, "reasoning_content": "hm"}) == f"hm\n{WRITTEN}"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"room": "A", "until": null}', '{"room":"A","until":null}'),
        ({"room": "A", "until": None}, '{"room":"A","until":null}'),
        ('{"n": 1e3, "x": 1.50}', '{"n":1e3,"x":1.50}'),
        ('{"id": 123456789012345678901234567890}', '{"id":123456789012345678901234567890}'),
        ('{"arguments": "1e3"}', '{"arguments":"1e3"}'),
        ("1e3", '"1e3"'),
        ("true", '"true"'),
        ('{"a": 1', '"{\\"a\\": 1"'),
        ('{"a": "b  c\\n\\u00f6"}', '{"a":"b  c\\n\\u00f6"}'),
    ],
)
def test_arguments_keep_nulls_types_and_the_spelling_of_numbers(arguments, written):
    message = {"function_call": {"name": "f", "arguments": arguments}}
    assert response(message) == f'[{{"name":"f","arguments":{written}}}]'


@given(VALUES)
def test_compact_json_reads_back_as_the_same_value(value):
    assert json.loads(compact_json(value)) == value
    spaced = json.dumps(value, indent=1)
    expected = value if isinstance(value, dict | list) else spaced
    assert json.loads(compact_json(spaced)) == expected


def test_nulls_that_arrow_fills_in_are_no_arguments():
    calls = [
        {"name": "book", "arguments": {"room": "A", "until": None}},
        {"name": "add", "arguments": {"a": 1}},
    ]
    chats = [[ASK, {"role": "assistant", "tool_calls": [call]}] for call in calls]
    one, both = Dataset.from_dict({"messages": chats[:1]}), Dataset.from_dict({"messages": chats})
    assert format_pairs(one)["response"][0] == [
        '[{"name":"book","arguments":{"room":"A","until":null}}]'
    ]
    assert format_pairs(both)["response"][1] == [WRITTEN]


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("3", "3"),
        ({"sum": 3, "rest": None}, '{"sum":3,"rest":null}'),
        ([{"sum": 3}], '[{"sum":3}]'),
        (3, "3"),
        ([{"type": "text", "text": "3"}], "3"),
        (None, ""),
    ],
)
def test_a_tool_result_in_any_json_form_is_context(content, written):
    chat = [ASK, {"role": "tool", "content": content}, {"role": "assistant", "content": "Done."}]
    assert formatted(*chat) == [(f"Go.\n{written}\n", "Done.")]


@pytest.mark.parametrize("opening", [[], [{"type": "text", "text": "I add."}]])
def test_a_tool_result_within_an_answer_stands_behind_its_call(opening):
    call = {"type": "tool_use", "id": "1", **CALL}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "1"}
    parts = [*opening, call, result, {"type": "text", "text": "It is 1."}]
    asks = "".join([*("I add.\n" for _ in opening), WRITTEN])
    turns = formatted(ASK, {"role": "assistant", "content": parts, "reasoning_content": "hm"})
    assert turns == [
        ("Go.\n", f"hm\n{asks}"),
        (f"Go.\nhm\n{asks}\n1\n", "It is 1."),
    ]
    turns = formatted(ASK, {"role": "assistant", "content": parts, "weight": 0}, {**ASK})
    assert turns == []


@pytest.mark.parametrize("nothing", [None, "", " ", "null", "[]"])
def test_tools_and_calls_as_json_text_without_anything_are_none(nothing):
    chat = json.dumps([ASK, {"role": "assistant", "content": "4", "tool_calls": nothing}])
    table = format_pairs(Dataset.from_dict({"messages": [chat] * 2, "tools": [nothing, "[]"]}))
    assert table["prompt"][:] == [["Go.\n"]] * 2
    assert table["response"][:] == [["4"]] * 2


def test_tool_results_in_a_users_message_stand_before_its_text():
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "3"}]}
    more = {"role": "user", "content": [result, {"type": "text", "text": "And?"}]}
    chat = [ASK, {"role": "assistant", "content": "Wait."}, more]
    answer = {"role": "assistant", "content": "Done."}
    assert formatted(*chat, answer)[1] == ("Go.\nWait.\n3\nAnd?\n", "Done.")
    assert [m.role for m in read_messages([more], "c")] == ["tool", "user"]
    assert [m.role for m in read_messages([{**more, "content": [result]}], "c")] == ["tool"]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "No."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {
            "content": "No.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
        },
        {"content": [{"type": "output_text", "text": "No.", "annotations": []}]},
        {"content": {"type": "text", "text": "No."}},
        {"content": [{"text": "No."}]},
        {"content": [{"type": "text", "text": "N"}, {"type": "text", "text": "o."}]},
    ],
)
def test_refusals_and_text_parts_are_text_joined_without_a_break(message):
    assert response(message) == "No."


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"loss_weight": 0.0}, {"train": False}, {"trainable": False}, {"masked": True}],
)
def test_a_message_that_no_trainer_learns_is_context(mark):
    chat = [
        ASK,
        {"role": "assistant", "content": "Wait.", **mark},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Done.", "weight": 1, "masked": False, "train": None},
    ]
    assert formatted(*chat) == [("Go.\nWait.\nAnd?\n", "Done.")]


def test_media_parts_are_left_out_and_counted(caplog):
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    sound = {"type": "input_audio", "input_audio": {"data": "..."}}
    chat = [
        {"role": "user", "content": [picture, {"type": "text", "text": "What?"}, sound]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    ]
    assert formatted(*chat) == [("What?\n", "A cat.")]
    assert "2 pictures, sounds and files in the rows are left out" in caplog.text


def test_media_in_a_stream_are_left_out_and_named(caplog):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    chat.append({"role": "assistant", "content": "A cat."})
    rows = Dataset.from_list(
        [{"messages": chat}], features=Features({"messages": List(Json())})
    ).to_iterable_dataset()
    (row,) = format_pairs(rows)
    assert (row["prompt"], row["response"]) == (["What?\n"], ["A cat."])
    assert "media_left_out" not in row and "are left out" in caplog.text


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"content": "a", "mood": "glad"}, "column 'messages': the key 'mood' is unknown: .*map"),
        ({"content": "a", "thinkin": "b"}, "the key 'thinkin' is unknown: did you mean 'thinking'"),
        ({"content": [{"type": "poem", "text": "a"}]}, "the part type 'poem' is unknown"),
        ({"content": [{"type": "text", "text": "a", "x": 1}]}, "text part: the key 'x' is unknown"),
        ({"content": [{"type": "text", "text": 1}]}, "holds int 1, not str"),
        ({"content": ["a"]}, "holds str 'a', not dict"),
        (
            {"tool_calls": [{"function": {"name": "f", "args": {"a": 1}}}]},
            "tool call: the key 'args'",
        ),
        ({"tool_calls": [{"name": "f", "mode": "x"}]}, "tool call: the key 'mode' is unknown"),
        ({"content": "a", "weight": "0"}, "weight is '0' in a message: give a number"),
        ({"content": "a", "loss_weight": -1}, "loss_weight is -1 in a message"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(message, sentence):
    with pytest.raises(SuperfilterError, match=sentence):
        response(message)


def test_an_unknown_key_without_a_value_says_nothing():
    assert response({"content": "a", "mood": None, "moods": [], "tone": ""}) == "a"


def test_a_function_call_of_sharegpt_keeps_its_text_and_reaches_a_chat_template_as_a_call():
    text = '{"name": "add", "arguments": {"a": 1}}'
    (message,) = read_messages([{"from": "function_call", "value": text}], "conversations")
    assert message.calls == text and message.text == ""
    assert message.extra["tool_calls"][0]["function"] == CALL
    (broken,) = read_messages([{"from": "function_call", "value": "add(1)"}], "conversations")
    assert broken.calls == "add(1)" and not broken.extra
