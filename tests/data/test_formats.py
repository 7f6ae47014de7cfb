import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Json,
    List,
    Value,
    load_from_disk,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_superfilter import detect_format, format_pairs

ROWS = [
    {"instruction": "Add.", "input": "2 2", "output": "4"},
    {"instruction": "Say hi.", "input": "", "output": "hi"},
    {"instruction": "Say no.", "input": None, "output": "no"},
]
TURNS = [
    ("system", "Be brief."),
    ("user", "One?"),
    ("assistant", "1"),
    ("user", "Two?"),
    ("assistant", "2"),
]
CHAT = [
    {"role": by, "content": text} for by, text in [*TURNS, ("user", "Three?"), ("assistant", "3")]
]
CHATML = (
    "{{ bos_token }}{% for t in tools or [] %}[{{ t.name }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls %}"
    "<call>{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML
)
STANFORD = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
CHATTY = {"template": "chat", "columns": {"system": "output"}}
TEXT = st.text(st.characters(codec="utf-8"))
CALLS = [("human", "Go."), ("function_call", "{}"), ("observation", "3"), ("gpt", "Three.")]
SHAREGPT = [{"from": by, "value": text} for by, text in CALLS]


def pairs(rows, *args, **options):
    table = format_pairs(Dataset.from_list(rows), *args, **options)
    prompt, response = options.get("into", ("prompt", "response"))
    return list(zip(table[prompt], table[response], strict=True))


def turns(messages, **options):
    ((prompts, responses),) = pairs([{"messages": messages}], **options)
    return list(zip(prompts, responses, strict=True))


def tokenizer(adds_bos, chat_template=CHATML):
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<s>": 0, "?": 1}, unk_token="?"))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", chat_template=chat_template
    )


def test_the_default_prompt_is_the_authors_form_and_the_response_is_unchanged():
    assert pairs(ROWS) == [("Add.\n2 2\n", "4"), ("Say hi.\n", "hi"), ("Say no.\n", "no")]


def test_the_alpaca_template_has_stanfords_words_with_and_without_an_input():
    paired = STANFORD.replace(
        " task.", " task, paired with an input that provides further context."
    )
    wanted = [
        paired.format("Add.\n\n### Input:\n2 2"),
        STANFORD.format("Say hi."),
        STANFORD.format("Say no."),
    ]
    assert [prompt for prompt, _ in pairs(ROWS, template="alpaca")] == wanted


@pytest.mark.parametrize(
    ("name", "row", "wanted"),
    [
        ("dolly", {"instruction": "a", "context": "b", "response": "c"}, ("a\nb\n", "c")),
        (
            "prompt-completion",
            {"prompt": "The sky is", "completion": " blue"},
            ("The sky is", " blue"),
        ),
        (
            "prompt-completion",
            {"prompt": CHAT[1:4], "completion": CHAT[4:5]},
            (["One?\n1\nTwo?\n"], ["2"]),
        ),
        ("text", {"text": "Once\u2028upon"}, ("", "Once\u2028upon")),
        ("messages", {"messages": CHAT[1:3]}, (["One?\n"], ["1"])),
        (
            "messages",
            {"messages": {"role": ["user", "assistant"], "content": ["7", "8"]}},
            (["7\n"], ["8"]),
        ),
        ("sharegpt", {"conversations": SHAREGPT}, (["Go.\n", "Go.\n{}\n3\n"], ["{}", "Three."])),
        ("sharegpt", {"conversations": SHAREGPT[3:]}, ([""], ["Three."])),
    ],
)
def test_every_format_is_detected_and_read(name, row, wanted):
    assert detect_format(row) == name
    assert pairs([row], into=("a", "b")) == pairs([row], name, into=("a", "b")) == [wanted]


def test_a_row_of_none_asks_nothing_and_a_none_output_is_an_empty_response():
    rows = [*ROWS, dict.fromkeys(ROWS[0]), {"instruction": "a", "input": None, "output": None}]
    assert pairs(rows)[3:] == [("", ""), ("a\n", "")]
    assert pairs(rows, template="alpaca")[3] == ("", "")


@pytest.mark.parametrize("cell", [5, 0.5, ["a"], True])
def test_a_cell_that_is_not_text_is_refused_with_column_type_and_value(cell):
    with pytest.raises(
        TypeError, match=re.escape(f"column 'answer' holds {type(cell).__name__} {cell}, not str")
    ):
        pairs([{"instruction": "a", "answer": cell}], columns={"output": "answer"})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(TEXT.filter(bool), TEXT, TEXT), min_size=1, max_size=20))
def test_any_text_passes_through_unchanged_in_the_order_of_the_rows(cells):
    rows = [dict(zip(ROWS[0], row, strict=True)) for row in cells]
    plain = [(a + "\n" + (b + "\n" if b else ""), c) for a, b, c in cells]
    assert pairs(rows) == plain
    # Where nothing is asked, a template's own words are no prompt.
    templated = [
        (f"{{{a}|{b}}}", c) if (a + b).strip() else text
        for (a, b, c), text in zip(cells, plain, strict=True)
    ]
    assert pairs(rows, template="{{{instruction}|{input}}}") == templated


def test_the_choice_of_auto_is_logged_and_follows_the_documented_order(caplog):
    with caplog.at_level(logging.INFO, "hf_superfilter.data.formats"):
        format_pairs(Dataset.from_list(ROWS))
    assert "format 'alpaca', from the columns instruction, input, output" in caplog.text
    assert (
        detect_format(["text", "prompt", "completion", "instruction", "output", "messages"])
        == "messages"
    )
    assert detect_format(["text", "response", "instruction", "output"]) == "alpaca"


@pytest.mark.parametrize(
    ("answer", "material"),
    [("output", "input"), ("output", "context"), ("response", "input"), ("response", "context")],
)
def test_the_material_of_an_instruction_is_read_under_either_name(answer, material):
    assert pairs([{"instruction": "Add.", material: "2 2", answer: "4"}]) == [("Add.\n2 2\n", "4")]


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"prompt": "a", "response": "b", "system_prompt": "c"}, "'system_prompt'"),
        ({"question": "a", "answer": "b", "context": "c"}, "'context'"),
        ({"instruction": "a", "output": "b", "context": "c", "input": "d"}, "'context'"),
        ({"instruction": "a", "output": "b", "input": None, "source": "d"}, None),
    ],
)
def test_a_column_that_may_belong_to_the_prompt_and_is_not_read_is_told(row, unread, caplog):
    format_pairs(Dataset.from_list([row]))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == (unread is not None)
    assert unread is None or f"does not read {unread}, which may belong to the prompt" in told[0]


@pytest.mark.parametrize("is_stream", [False, True])
def test_messages_as_json_text_are_messages_in_every_column_of_a_format(is_stream):
    ask, answers = CHAT[1:2], [[{"role": "assistant", "content": text}] for text in "12"]
    chosen, rejected = ([*ask, *answer] for answer in answers)
    for row in (
        {"prompt": ask, "completion": answers[0]},
        {"prompt": ask, "chosen": chosen, "rejected": rejected},
        {"chosen": chosen, "rejected": rejected},
    ):
        rows = Dataset.from_list([{name: json.dumps(cell) for name, cell in row.items()}])
        table = format_pairs(rows.to_iterable_dataset() if is_stream else rows)
        (formatted,) = table
        assert formatted["prompt"] == ["One?\n"] and formatted["response"] == ["1"]
        assert formatted.get("response_rejected", ["2"]) == ["2"]


def test_json_text_is_no_chat_where_a_prompt_only_speaks_of_one(caplog):
    chat = json.dumps([{"role": "user", "content": "One?"}])
    assert pairs([{"instruction": "Count.", "input": chat, "output": "1"}]) == [
        (f"Count.\n{chat}\n", "1")
    ]
    assert pairs([{"prompt": "[1]", "completion": "a"}]) == [("[1]", "a")]
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    assert pairs([{"prompt": chat, "response": "a"}]) == [(chat, "a")]
    assert "'prompt' holds messages as JSON text, which is scored as it stands" in caplog.text


def test_columns_are_renamed_before_detection_and_a_system_text_is_read_only_when_named():
    rows = [{"question": "a", "output": "b", "system": "Be brief."}]
    named = {"instruction": "question", "system": "system"}
    assert pairs(rows, columns={"instruction": "question"}) == [("a\n", "b")]
    assert pairs(rows, columns=named) == [("Be brief.\na\n", "b")]
    assert pairs(rows, columns=named, template="{system}|{instruction}") == [("Be brief.|a", "b")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "alpacca"}, r"format 'alpacca' is unknown: did you mean 'alpaca'\?"),
        (
            {"template": "alpcaa"},
            r"template 'alpcaa' is unknown: .*'alpaca'\? \(there are: alpaca, chat, none\)",
        ),
        (
            {"template": "Q: {question}"},
            r"template 'Q: \{question\}' .* your own text with \{instruction\}",
        ),
        ({"template": "{instruction} {inptu}"}, "'inptu'.* fields are instruction, input, system"),
        ({"template": "{instruction} {"}, "Single '{'.* braces are doubled"),
        (CHATTY, "tokenizer=None has no chat template"),
        ({**CHATTY, "tokenizer": tokenizer(True, None)}, "has no chat template"),
        (
            {**CHATTY, "tokenizer": tokenizer(True, NO_SYSTEM)},
            r"refuses the turns system, user \(no system role\): re",
        ),
        (
            {"columns": {"instrction": "a"}},
            r"'instrction' is unknown: did you mean 'instruction'\?",
        ),
        (
            {"columns": {"instruction": "inptu"}},
            r"'inptu' is unknown: did you mean 'input'\?.*instruction",
        ),
        (
            {"format": "dolly"},
            "the column for 'response', 'response' is unknown: .*: input, instruction, output",
        ),
        ({"into": ("instruction", "response")}, "would write over a column that is read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_that_says_what_to_do(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        format_pairs(Dataset.from_list(ROWS), **options)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"role": "user", "content": "Hi"}, "messages"),
        ({"from": "human", "value": "Hi"}, "conversations"),
    ],
)
def test_messages_under_another_name_are_recognised_in_the_error(row, named):
    rows = Dataset.from_list([{"chat": [row]}])
    with pytest.raises(ValueError, match="no format fits") as error:
        format_pairs(rows)
    assert f"'chat' holds messages: name it with columns={{'{named}': 'chat'}}" in str(error.value)
    assert f"--columns {named}=chat" in str(error.value)
    assert "JSON Lines" not in str(error.value)


def test_columns_of_no_format_and_rows_of_no_data_set_are_refused():
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*dolly: instruction, response"):
        detect_format(["a", "b"])
    with pytest.raises(TypeError, match="type list: make one"):
        format_pairs(ROWS)


def test_every_assistant_turn_is_a_response_to_all_that_stands_before_it():
    first = "Be brief.\nOne?\n"
    assert turns(CHAT) == [
        (first, "1"),
        (first + "1\nTwo?\n", "2"),
        (first + "1\nTwo?\n2\nThree?\n", "3"),
    ]


def test_a_chat_alternates_in_the_alpaca_template_and_is_one_instruction_in_an_own_one():
    (first, _), (second, _), _ = turns(CHAT, template="alpaca")
    assert first == STANFORD.format("Be brief.\nOne?")
    assert second == first + "\n1\n\n### Instruction:\nTwo?\n\n### Response:"
    assert (
        turns(CHAT, template="{system}|{instruction}|{input}")[1][0] == "Be brief.|One?\n1\nTwo?|"
    )


def test_tool_calls_are_responses_in_compact_json_and_results_are_context():
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 1, "b": None}},
    }
    written = {
        "id": "c2",
        "type": "function",
        "function": {"name": "say", "arguments": '{"text": "ö"}'},
    }
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Next.", "tool_calls": [written]},
    ]
    rows = Dataset.from_list(
        [{"messages": messages}], features=Features({"messages": List(Json())})
    )
    first, second = (
        '[{"name":"add","arguments":{"a":1,"b":null}}]',
        'Next.\n[{"name":"say","arguments":{"text":"ö"}}]',
    )
    assert format_pairs(rows)[0]["response"] == [first, second]
    assert format_pairs(rows)[0]["prompt"][1] == f"Go.\n{first}\n3\n"
    rendered = format_pairs(rows, template="chat", tokenizer=tokenizer(True))[0]["prompt"][1]
    assert (
        rendered
        == '<user>Go.<end><assistant><call>add{"a": 1, "b": null}<end><tool>3<end><assistant>'
    )


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        [{"type": "text", "value": "ab"}, {"type": "image_url", "value": "c"}],
        {"type": ["text", "image", "text"], "text": ["a", None, "b"]},
    ],
)
def test_typed_parts_of_a_turn_are_joined_and_images_left_out(content):
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": content},
    ]  # text beside parts
    table = format_pairs(
        Dataset.from_list([{"messages": messages}], features=Features({"messages": List(Json())}))
    )
    assert table["prompt"][:] + table["response"][:] == [["Go.\n"], ["ab"]]


def test_chats_without_an_assistant_turn_have_empty_lists_of_text():
    table = format_pairs(
        Dataset.from_list([{"messages": CHAT[:2]}, {"messages": None}, {"messages": []}])
    )
    assert table["prompt"][:] == table["response"][:] == [[], [], []]
    assert table.features["response"] == List(Value("string"))


@pytest.mark.parametrize(
    ("messages", "error", "sentence"),
    [
        (
            [{"role": "assistent", "content": "a"}],
            ValueError,
            "the role 'assistent' .*did you mean 'assistant'",
        ),
        ([{"role": "user", "content": 3}], TypeError, "column 'messages' holds int 3"),
        ("[]", TypeError, r"column 'messages' holds str '\[\]', not list"),
        (["a"], TypeError, "column 'messages' holds str 'a', not dict"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(messages, error, sentence):
    with pytest.raises(error, match=sentence):
        turns(messages)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_chat_prompt_has_one_bos_and_ends_where_the_assistant_speaks(adds_bos):
    made = tokenizer(adds_bos)
    (first, one), (second, two), _ = turns(CHAT, template="chat", tokenizer=made)
    assert first == "<s>" * (not adds_bos) + "<system>Be brief.<end><user>One?<end><assistant>"
    assert (second, one, two) == (first + "1<end><user>Two?<end><assistant>", "1", "2")
    assert made(first).input_ids.count(made.bos_token_id) == 1
    assert pairs(ROWS[:1], template="chat", tokenizer=tokenizer(True)) == [
        ("<user>Add.\n2 2<end><assistant>", "4")
    ]


def test_a_tokenizer_may_be_a_folder_and_tools_reach_its_template(tmp_path):
    tokenizer(True).save_pretrained(tmp_path)
    rows = [{"messages": CHAT[1:3], "tools": json.dumps([{"name": "add"}])}]
    assert pairs(rows, template="chat", tokenizer=tmp_path)[0][0] == [
        "[add]<user>One?<end><assistant>"
    ]


def test_every_source_column_stays_with_its_type_and_every_row_in_its_place():
    columns = {"id": [3, 1], "any": [[1, "a"], None], "messages": [CHAT[1:3], [{"role": "user"}]]}
    rows = Dataset.from_dict(
        columns, Features({"id": Value("int32"), "any": Json(), "messages": List(Json())})
    )
    table = format_pairs(rows)
    assert table.remove_columns(["prompt", "response"])[:] == rows[:]
    assert table.features == Features(
        {**rows.features, **dict.fromkeys(["prompt", "response"], List(Value("string")))}
    )
    assert table["response"][:] == [["1"], []]


def test_a_column_of_that_name_is_overwritten_unless_it_is_read_and_would_change():
    once = format_pairs(Dataset.from_list([{**ROWS[0], "prompt": "old"}]))
    assert (
        once.to_list()
        == format_pairs(once).to_list()
        == [{**ROWS[0], "prompt": "Add.\n2 2\n", "response": "4"}]
    )
    assert pairs([{"instruction": "a", "response": "b"}]) == [("a\n", "b")]


def test_a_prompt_that_is_read_and_changes_is_kept_beside_the_new_one():
    for row in ({"prompt": "a", "completion": "b"}, {"prompt": CHAT[:2], "completion": CHAT[2:3]}):
        table = format_pairs(Dataset.from_list([row]), template="alpaca")
        assert table[0]["source_prompt"] == row["prompt"]
        assert "### Instruction:" in str(table[0]["prompt"])
        again = format_pairs(table, template="alpaca")
        assert again.select_columns(table.column_names).to_list() == table.to_list()


def test_an_empty_data_set_gets_the_two_columns():
    assert format_pairs(Dataset.from_list(ROWS).select([])).column_names == [
        *ROWS[0],
        "prompt",
        "response",
    ]
    assert format_pairs(Dataset.from_dict({"messages": []})).features["prompt"] == List(
        Value("string")
    )


@pytest.mark.parametrize("format", ["numpy", "pandas", "arrow", "torch"])
def test_a_formatted_data_set_is_read_as_it_is_stored(format):
    table = format_pairs(Dataset.from_list([{"messages": CHAT[1:3]}]).with_format(format))
    assert table[:] == {"messages": [CHAT[1:3]], "prompt": [["One?\n"]], "response": [["1"]]}


def test_streams_of_known_and_unknown_columns_are_formatted():
    def stream():
        yield {"instruction": "Say hi.", "output": "hi"}  # `input` comes later
        yield from ROWS

    prompts = [row["prompt"] for row in format_pairs(IterableDataset.from_generator(stream))]
    assert prompts[:2] == ["Say hi.\n", "Add.\n2 2\n"]
    known = format_pairs(Dataset.from_list([{"messages": CHAT}]).to_iterable_dataset())
    assert known.features["prompt"] == List(Value("string"))
    assert [row["response"] for row in known] == [["1", "2", "3"]]
    with pytest.raises(ValueError, match=r"no format fits the columns \[\]"):
        format_pairs(IterableDataset.from_generator(lambda: iter(())))


def test_every_split_of_a_dict_is_formatted():
    rows = Dataset.from_list(ROWS)
    table = format_pairs(DatasetDict(train=rows, test=rows.select([1])))
    assert isinstance(table, DatasetDict) and table["test"]["prompt"][:] == ["Say hi.\n"]
    stream = format_pairs(IterableDatasetDict(train=rows.to_iterable_dataset()))
    assert (
        isinstance(stream, IterableDatasetDict) and next(iter(stream["train"]))["response"] == "4"
    )


AGAIN = """
import sys
import hf_superfilter.data.pairs
assert not {"datasets", "transformers", "torch"} & set(sys.modules)
from datasets import load_from_disk
for template in ("none", "chat", "own {instruction}"):
    rows = load_from_disk(sys.argv[1])
    table = hf_superfilter.data.pairs.format_pairs(rows, template=template, tokenizer=sys.argv[2])
    print(table.cache_files[0]["filename"])
"""


def test_another_process_finds_the_cached_result_and_the_import_alone_is_light(tmp_path):
    tokenizer(True).save_pretrained(tmp_path / "tokenizer")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    rows, folder = load_from_disk(str(tmp_path / "rows")), str(tmp_path / "tokenizer")
    here = [
        format_pairs(rows, template=template, tokenizer=folder).cache_files[0]["filename"]
        for template in ("none", "chat", "own {instruction}")
    ]
    command = [sys.executable, "-c", AGAIN, tmp_path / "rows", folder]
    options = {"capture_output": True, "check": True, "cwd": Path(__file__).parents[2]}
    there = subprocess.run(command, **options, text=True).stdout
    assert there.split() == here and len(set(here)) == 3


def test_a_prompt_and_a_response_column_stay_as_they_are():
    rows = Dataset.from_dict({"prompt": ["a", "b"], "response": ["x", "y"]})
    assert detect_format(rows.column_names) == "pairs"
    assert format_pairs(rows).to_dict() == rows.to_dict()
    named = format_pairs(rows.rename_column("prompt", "q"), "pairs", columns={"prompt": "q"})
    assert named.to_dict() == {"q": ["a", "b"], "response": ["x", "y"], "prompt": ["a", "b"]}
    with pytest.raises(ValueError, match="has its prompts already"):
        format_pairs(rows, template="alpaca")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("question-answer", {"question": "a", "answer": "b"}),
        ("question-response", {"system_prompt": "", "question": "a", "response": "b"}),
        ("query-response", {"query": "a", "response": "b"}),
        ("problem-solution", {"problem": "a", "solution": "b", "answer": "c"}),
    ],
)
def test_questions_under_other_names_are_read(name, row):
    assert detect_format(row) == name
    assert pairs([row]) == pairs([row], name) == [("a\n", "b")]


def test_a_chat_under_conversation_and_a_system_column_of_a_chat_are_read():
    row = {"conversation": CHAT[1:3], "system": "Be brief."}
    assert pairs([row]) == [(["Be brief.\nOne?\n"], ["1"])]
    assert pairs([{**row, "conversation": CHAT[:3]}]) == [(["Be brief.\nOne?\n"], ["1"])]
    orca = {"system_prompt": "Be brief.", "question": "a", "response": "b"}
    assert pairs([orca]) == [("Be brief.\na\n", "b")]


def test_the_rounds_of_a_history_are_responses_too():
    rows = [{**ROWS[0], "history": [["One?", "1"]]}, {**ROWS[1], "history": None}]
    assert pairs(rows) == [
        (["One?\n", "One?\n1\nAdd.\n2 2\n"], ["1", "4"]),
        (["Say hi.\n"], ["hi"]),
    ]
    with pytest.raises(ValueError, match=r"column 'history' holds the round \['One"):
        pairs([{**ROWS[0], "history": [["One?"]]}])


def test_a_conversational_prompt_and_completion_of_trl_are_read():
    row = {"prompt": CHAT[:4], "completion": CHAT[4:5]}
    table = format_pairs(Dataset.from_list([row]))
    assert table[0]["prompt"] == ["Be brief.\nOne?\n1\nTwo?\n"] and table[0]["response"] == ["2"]
    assert table[0]["source_prompt"] == CHAT[:4]


@pytest.mark.parametrize(
    "schemas",
    ['[{"name": "add", "limit": null, "step": 1e3}]', '[ {"name":"add","limit":null,"step":1e3} ]'],
)
def test_tool_schemas_stand_behind_the_system_text_as_they_are_written(schemas):
    written = '[{"name":"add","limit":null,"step":1e3}]\n'
    row = {"conversations": SHAREGPT, "tools": schemas}
    assert pairs([row])[0][0][0] == f"{written}Go.\n"
    row = {"messages": CHAT[:3], "functions": schemas}
    assert pairs([row])[0][0] == [f"Be brief.\n{written}One?\n"]
    assert f"### Instruction:\nBe brief.\n{written}One?" in pairs([row], template="alpaca")[0][0][0]
    assert pairs([row], template="{system}|{instruction}")[0][0] == [
        f"Be brief.\n{written[:-1]}|One?"
    ]


def test_no_tools_are_no_prompt():
    for tools in ("", "[]", None):
        assert pairs([{"messages": CHAT[1:3], "tools": tools}])[0][0] == ["One?\n"]
    with pytest.raises(ValueError, match="column 'tools' holds 'add': tool schemas are a list"):
        pairs([{"messages": CHAT[1:3], "tools": "add"}])


CLOCK = "{{ strftime_now('%d %b %Y') }} {% if think %}<think>{% endif %}" + CHATML


def test_a_template_that_asks_the_clock_gets_one_date_and_template_kwargs_reach_it():
    from hf_superfilter.data.templates import date_in_template

    made = tokenizer(True, "\n" + CLOCK)
    ((prompt, _),) = pairs(ROWS[1:2], template="chat", tokenizer=made)
    assert prompt == "\n26 Jul 2024 <s><user>Say hi.<end><assistant>"
    ((prompt, _),) = pairs(
        ROWS[1:2], template="chat", tokenizer=made, template_kwargs={"think": True}
    )
    assert prompt.startswith("\n26 Jul 2024 <think><s>")
    assert date_in_template("chat", made) == "2024-07-26"
    assert date_in_template("chat", tokenizer(True)) is None
    assert date_in_template("none", None) is None
    with pytest.raises(ValueError, match=r"template_kwargs=.* are for template='chat', not 'none'"):
        pairs(ROWS, template_kwargs={"think": True})


def test_a_fixed_date_follows_every_directive_of_strftime():
    import datetime

    directives = "%A %a %B %b %d %-d %H:%M:%S %j %m %-m %p %U %w %W %y %Y 100%%"
    made = tokenizer(True, "{{ strftime_now('" + directives + "') }}" + CHATML)
    ((prompt, _),) = pairs(ROWS[1:2], template="chat", tokenizer=made)
    assert prompt.split("<s>")[0] == datetime.datetime(2024, 7, 26).strftime(directives)


def test_a_template_without_a_place_for_tools_or_reasoning_loses_no_tools():
    without = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    rows = [{"messages": CHAT[:3], "tools": '[{"name": "add"}]'}]
    ((prompt,), _) = pairs(rows, template="chat", tokenizer=tokenizer(True, without))[0]
    assert prompt == '<system>Be brief.\n[{"name":"add"}]<user>One?'


def test_reasoning_reaches_a_chat_template_under_its_own_name():
    thinking = (
        "{% for m in messages %}<{{ m.role }}>({{ m.reasoning_content }})"
        "{{ m.content }}{% endfor %}"
    )
    chat = [{**CHAT[1]}, {**CHAT[2], "thinking": "one"}, *CHAT[3:5]]
    options = {"template": "chat", "tokenizer": tokenizer(True, thinking)}
    assert turns(chat, **options)[1] == ("<user>()One?<assistant>(one)1<user>()Two?", "2")
    dropped = turns(chat, reasoning="drop", **options)
    assert dropped[1] == ("<user>()One?<assistant>()1<user>()Two?", "2")


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("question-answer", {"Question": "q", "Answer": "a"}),
        ("question-answer", {" question ": "q", "answer\t": "a"}),
        ("alpaca", {"INSTRUCTION": "q", "Output": "a", "input": ""}),
        ("query-answer", {"query": "q", "answer": "a"}),
        ("input-output", {"input": "q", "output": "a"}),
        ("inputs-targets", {"inputs": "q", "targets": "a"}),
    ],
)
def test_columns_are_found_in_other_case_and_with_blanks_around(format, row):
    assert detect_format(row) == format
    pairs = format_pairs(Dataset.from_list([row]))
    assert (pairs["prompt"][0], pairs["response"][0]) == ("q\n", "a")
    assert set(row) < set(pairs.column_names)


def test_of_names_that_differ_in_case_the_exact_one_is_read_and_two_others_are_none():
    rows = Dataset.from_dict({"Question": ["no"], "question": ["q"], "Answer": ["a"]})
    assert format_pairs(rows)["prompt"][0] == "q\n"
    with pytest.raises(ValueError, match="no format fits"):
        detect_format(["Question", "QUESTION", "answer"])


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_messages_written_as_json_text_are_read_as_the_messages(column):
    keys = {"messages": ("role", "content"), "conversations": ("from", "value")}[column]
    chat = [dict(zip(keys, turn, strict=True)) for turn in TURNS]
    as_text = Dataset.from_dict({column: [json.dumps(chat), None]})
    as_list = Dataset.from_dict({column: [chat, None]})
    read = [format_pairs(rows).remove_columns(column).to_list() for rows in (as_text, as_list)]
    assert read[0] == read[1]
    assert read[0][0]["response"] == ["1", "2"]
