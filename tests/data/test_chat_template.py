"""Chat templates: how each wants its messages, and where its conversation is not what is scored."""

import logging

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_superfilter import format_pairs

CALL = {"function": {"name": "add", "arguments": {"a": 1, "b": None, "word": "None"}}}
WRITTEN = '{"a":1,"b":null,"word":"None"}'
CHAT = [
    {"role": "user", "content": "One and nothing?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "1"},
    {"role": "assistant", "content": "It is 1."},
]
OPENING = "{% for m in messages %}<{{ m.role }}>"
CLOSING = "<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
CALLS = "{% for c in m.tool_calls %}[{{ c.function.name }}{{ ARGUMENTS }}]{% endfor %}"
TO_JSON = CALLS.replace("ARGUMENTS", "c.function.arguments | tojson")
PRINTED = CALLS.replace("ARGUMENTS", "c.function.arguments")
JOINED = CALLS.replace("ARGUMENTS", "'' + c.function.arguments")
IN_JSON = WRITTEN.replace(",", ", ").replace(":", ": ")
# A thought that is empty before the last answer, and left out before all others.
THINKS = (
    OPENING + "{% if m.role == 'assistant' and loop.last %}"
    "(think {{ m.reasoning_content }}){% endif %}{{ m.content }}" + CLOSING
)


def tokenizer(chat_template):
    core = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=chat_template)


def formatted(chats, chat_template, caplog, **options):
    """The prompts and responses of chats, and what the log says of the template."""
    rows = Dataset.from_list([{"messages": chat} for chat in chats])
    with caplog.at_level(logging.WARNING, logger="hf_superfilter"):
        table = format_pairs(
            rows, "messages", template="chat", tokenizer=tokenizer(chat_template), **options
        )
    assert set(table.column_names) == {"messages", "prompt", "response"}
    lines = [record.getMessage() for record in caplog.records]
    return table, [line for line in lines if "chat template" in line]


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("{{ m.content }}" + TO_JSON, f"[add{IN_JSON}]"),
        ("{{ m.content }}" + PRINTED, f"[add{WRITTEN}]"),
        ("{{ m.content }}" + JOINED, f"[add{WRITTEN}]"),
        ("{{ m.content | trim }}" + TO_JSON, f"[add{IN_JSON}]"),
        ("{{ '' + m.content }}" + TO_JSON, f"[add{IN_JSON}]"),
        ("{% if 'x' in m.content %}x{% endif %}" + TO_JSON, f"[add{IN_JSON}]"),
        ("{% if m.content is none %}" + JOINED + "{% else %}{{ m.content }}{% endif %}",
         f"[add{WRITTEN}]"),
        ("{% if m.content is defined %}{{ m.content }}{% else %}" + TO_JSON + "{% endif %}",
         f"[add{IN_JSON}]"),
        ("{{ m.content }}", f'[{{"name":"add","arguments":{WRITTEN}}}]'),
    ],
    ids=["json", "printed", "joined", "trimmed", "added", "searched", "none", "missing", "text"],
)  # fmt: skip
def test_an_earlier_tool_call_stands_in_the_prompt_of_any_template(body, written, caplog):
    table, _ = formatted([CHAT], OPENING + body + CLOSING, caplog)
    answer = "" if "'x' in" in body else "1"
    asked = "" if "'x' in" in body else "One and nothing?"
    assert table[0]["prompt"] == [
        f"<user>{asked}<end><assistant>",
        f"<user>{asked}<end><assistant>{written}<end><tool>{answer}<end><assistant>",
    ]


def test_a_template_whose_conversation_is_prompts_and_responses_says_nothing(caplog):
    chat = [CHAT[0], CHAT[3], CHAT[0], CHAT[3]]
    assert formatted([chat], OPENING + "{{ m.content }}" + CLOSING, caplog)[1] == []


def test_a_thought_before_the_last_answer_is_said_once_with_its_rows_and_place(caplog):
    short = [CHAT[0], CHAT[3]]
    _, lines = formatted([short, [*short, *short]], THINKS, caplog)
    assert lines == [
        "behind a prompt the chat template writes something else than the response in 2 of 2 "
        "rows; row 0 is the first: message 2, character 38: 'It is 1.' is scored, and the whole "
        "conversation has '(think )It is 1.<end>'"
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["m.{}", "m['{}']", "m.get('{}')"])
def test_an_earlier_thought_reaches_a_template_under_the_field_that_it_reads(field, read, caplog):
    # As gpt-oss reads `thinking`, and Qwen3 `reasoning_content`, whatever the data calls it.
    writes = f"({{{{ {read.format(field)} or '' if not reasoning_effort }}}})"
    thought = {"role": "assistant", "content": "a", "reasoning": "hm"}
    chat = [CHAT[0], thought, CHAT[0], CHAT[3]]
    template = OPENING + writes + "{{ m.content }}" + CLOSING
    table, lines = formatted([chat], template, caplog)
    assert table[0]["prompt"][1].startswith(
        "<user>()One and nothing?<end><assistant>(hm)a<end><user>"
    )
    assert not [line for line in lines if "leaves out" in line]


def test_earlier_thoughts_that_a_template_leaves_out_are_said(caplog):
    thought = {**CHAT[3], "reasoning_content": "hm"}
    chat = [CHAT[0], thought, CHAT[0], CHAT[3]]
    _, lines = formatted([[CHAT[0], CHAT[3]], chat], THINKS, caplog)
    left_out = [line for line in lines if "leaves out" in line]
    assert left_out == [
        "the chat template leaves out parts of earlier messages in 1 of 2 rows; row 1 is the "
        "first: the reasoning of message 2 (assistant)"
    ]


def test_a_prompt_that_the_conversation_does_not_begin_with_is_said(caplog):
    opens = OPENING + "{{ m.content }}" + CLOSING.replace("<assistant>", "<assistant><think>")
    _, lines = formatted([[CHAT[0], CHAT[3]]], opens, caplog)
    assert lines == [
        "the chat template writes a prompt otherwise once the conversation goes on in 1 of 1 "
        "rows; row 0 is the first: message 2, character 38: '<think>' is scored, and the whole "
        "conversation has 'It is 1.<end>'"
    ]


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_message_that_a_template_passes_over_is_said(role, caplog):
    passes = "{% for m in messages if m.role in ('user', 'assistant') %}<{{ m.role }}>"
    chat = [CHAT[0], {"role": role, "content": "Be brief."}, CHAT[3]]
    _, lines = formatted([chat], passes + "{{ m.content }}" + CLOSING, caplog)
    assert lines == [
        "the chat template leaves out parts of earlier messages in 1 of 1 rows; row 0 is the "
        f"first: the text of message 2 ({role})"
    ]


def test_tool_schemas_that_a_template_cannot_take_make_their_row_unreadable(caplog):
    rows = Dataset.from_list(
        [
            {"messages": CHAT[:1] + CHAT[3:], "tools": '["add"]'},
            {"messages": CHAT[:1] + CHAT[3:], "tools": '[{"name": "add"}]'},
        ]
    )
    reads = "{% if tools %}{{ tools | tojson }}{% endif %}" + OPENING + "{{ m.content }}" + CLOSING
    table = format_pairs(rows, template="chat", tokenizer=tokenizer(reads))
    assert "Tools should either be a JSON schema" in table[0]["unreadable_reason"]
    assert table[1]["prompt"] == ['[{"name": "add"}]<user>One and nothing?<end><assistant>']


def test_a_stream_says_the_first_difference_once(caplog):
    rows = Dataset.from_list([{"messages": [CHAT[0], CHAT[3]]}] * 3).to_iterable_dataset()
    with caplog.at_level(logging.WARNING, logger="hf_superfilter"):
        table = format_pairs(rows, template="chat", tokenizer=tokenizer(THINKS))
        assert [row["response"] for row in table] == [["It is 1."]] * 3
    lines = [line for line in caplog.messages if line.startswith("behind a prompt")]
    assert len(lines) == 1
