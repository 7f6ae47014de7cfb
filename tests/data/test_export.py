"""What comes out of a selection: the source's own columns, in a file that a trainer reads."""

import csv
import datetime as dt
import decimal
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetInfo, Features, Image, Value, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_superfilter import Length, TopK, export, format_pairs, load_rows, score, select

CALL = {"type": "function", "function": {"name": "light", "arguments": {"room": "A", "x": None}}}
TOOLS = '[{"type": "function", "function": {"name": "light"}}]'
HI = [{"role": "user", "content": "Hi."}]
HELLO = [{"role": "assistant", "content": "Hello!"}]
ROUNDS = [
    {"role": "system", "content": "Be kind."},
    *HI,
    *HELLO,
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye."},
]
WORK = [
    {"role": "user", "content": "Dark."},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "on", "name": "light"},
    {"role": "assistant", "content": "Done.", "reasoning_content": "It is on."},
]
SOURCES = {
    "alpaca": {"instruction": "Add.", "input": "2 2", "output": "4", "id": 7},
    "no-input": {"instruction": "Say hi.", "input": "", "output": "Hi"},
    "dolly": {"instruction": "Add.", "context": "", "response": "4", "category": "math"},
    "question": {"question": "1+1?", "answer": "2"},
    "pair": {"prompt": "1+1=", "response": "2"},
    "texts": {"prompt": "1+1=", "completion": "2"},
    "chats": {"prompt": HI, "completion": HELLO},
    "messages": {"messages": ROUNDS},
    "tools": {"messages": WORK, "tools": TOOLS},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello!"}]
    },
    "preference": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "preferred-chat": {"prompt": HI, "chosen": HELLO, "rejected": [{**HELLO[0], "content": "No."}]},
    "kto": {"prompt": HI, "completion": HELLO, "label": True},
    "weighted": {"messages": [*HI, {**HELLO[0], "weight": 0}, *ROUNDS[3:]]},
    "text": {"text": "Once upon a time."},
    "picture": {"messages": [{"role": "user", "content": [{"type": "image"}]}, *HELLO]},
    "reasoning": {"messages": [*HI, {**HELLO[0], "reasoning_content": "Greet."}]},
}


def rows_of(name, tmp_path, copies=1):
    path = tmp_path / "source.jsonl"
    path.write_text(f"{json.dumps(SOURCES[name])}\n" * copies)
    return load_rows(path)


def selection_of(name, tmp_path, **options):
    rows = format_pairs(rows_of(name, tmp_path, copies=2), **options)
    return select(score(rows, [Length()], tmp_path / "run"), TopK("length", 2))


def read_jsonl(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


# The source's own columns


@pytest.mark.parametrize("name", SOURCES)
def test_a_subset_holds_the_columns_of_the_source_and_the_scores(name, tmp_path):
    selection = selection_of(name, tmp_path)
    assert selection.subset.remove_columns("length").to_list() == [SOURCES[name]] * 2
    assert {"prompt", "response"} <= set(selection.table.column_names)
    path = export(selection, tmp_path / "x.jsonl")
    assert [{k: v for k, v in row.items() if k != "length"} for row in read_jsonl(path)] == [
        SOURCES[name]
    ] * 2


def test_columns_that_no_format_knows_are_own_columns_too(tmp_path):
    rows = Dataset.from_dict({"q": ["1+1?", "2+2?"], "a": ["2", "4"], "n": [1, 2]})
    rows = format_pairs(rows, "alpaca", columns={"instruction": "q", "output": "a"})
    assert select(rows, TopK("n", 1)).subset.to_list() == [{"q": "2+2?", "a": "4", "n": 2}]
    path = export(
        select(rows, TopK("n", 1)),
        tmp_path / "x.jsonl",
        "alpaca",
        format="alpaca",
        columns={"instruction": "q", "output": "a"},
    )
    assert read_jsonl(path) == [{"instruction": "2+2?", "input": "", "output": "4", "n": 2}]


def test_a_recorded_source_decides_what_its_columns_are():
    rows = Dataset.from_dict({"prompt": ["a"], "response": ["b"], "output": ["b"], "n": [1]})
    both = select(rows, TopK("n", 1), source_columns=["prompt", "response", "output"])
    assert both.subset.column_names == ["prompt", "response", "output", "n"]
    neither = select(rows, TopK("n", 1), source_columns=["output"])
    assert neither.subset.column_names == ["output", "n"]


# Layouts

HI_HELLO = [*HI, *HELLO]
LAYOUTS = {
    ("alpaca", "messages"): {
        "messages": [
            {"role": "user", "content": "Add.\n2 2"},
            {"role": "assistant", "content": "4"},
        ],
        "id": 7,
    },
    ("alpaca", "prompt-completion"): {"prompt": "Add.\n2 2\n", "completion": "4", "id": 7},
    ("alpaca", "alpaca"): SOURCES["alpaca"],
    ("alpaca", "sharegpt"): {
        "conversations": [{"from": "human", "value": "Add.\n2 2"}, {"from": "gpt", "value": "4"}],
        "id": 7,
    },
    ("dolly", "alpaca"): {"instruction": "Add.", "input": "", "output": "4", "category": "math"},
    ("question", "prompt-completion"): {"prompt": "1+1?\n", "completion": "2"},
    ("pair", "prompt-completion"): {"prompt": "1+1=", "completion": "2"},
    ("texts", "messages"): {
        "messages": [
            {"role": "user", "content": "1+1="},
            {"role": "assistant", "content": "2"},
        ]
    },
    ("texts", "prompt-completion"): SOURCES["texts"],
    ("chats", "prompt-completion"): SOURCES["chats"],
    ("chats", "messages"): {"messages": HI_HELLO},
    ("chats", "alpaca"): {"instruction": "Hi.", "input": "", "output": "Hello!"},
    ("messages", "messages"): SOURCES["messages"],
    ("messages", "sharegpt"): {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hi."},
            {"from": "gpt", "value": "Hello!"},
            {"from": "human", "value": "And?"},
            {"from": "gpt", "value": "Bye."},
        ]
    },
    ("sharegpt", "messages"): {"messages": HI_HELLO},
    ("sharegpt", "sharegpt"): SOURCES["sharegpt"],
    ("reasoning", "messages"): SOURCES["reasoning"],
    ("preference", "preference"): SOURCES["preference"],
    ("preferred-chat", "preference"): SOURCES["preferred-chat"],
}


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=map("-".join, LAYOUTS))
def test_a_layout_holds_the_same_conversation(name, layout, tmp_path):
    rows = rows_of(name, tmp_path)
    (written,) = read_jsonl(export(rows, tmp_path / "x.jsonl", layout))
    assert written == LAYOUTS[name, layout]
    export(rows, tmp_path / "x.parquet", layout)
    assert load_rows(tmp_path / "x.parquet").to_list() == [LAYOUTS[name, layout]]


def test_tool_calls_and_their_schemas_are_held_with_nulls_and_types(tmp_path):
    rows = rows_of("tools", tmp_path)
    (written,) = read_jsonl(export(rows, tmp_path / "x.jsonl", "messages"))
    assert [{k: v for k, v in m.items() if v is not None} for m in written["messages"]] == [
        *WORK[:1],
        WORK[1],
        *WORK[2:],
    ]
    assert json.loads(written["tools"]) == json.loads(TOOLS)
    # what was written is read as the same prompts and responses
    again = format_pairs(load_rows(tmp_path / "x.jsonl"))
    before = format_pairs(rows)
    assert again["response"][:] == before["response"][:]
    assert [p[-1].count('"until"') for p in again["prompt"]] == [0]


@pytest.mark.parametrize(
    ("name", "layout", "reason"),
    [
        ("messages", "alpaca", "one answer at the end, and the row has 2 answers"),
        ("messages", "prompt-completion", "one answer at the end, and the row has 2 answers"),
        ("weighted", "messages", "no answer that is context and not trained on"),
        ("weighted", "sharegpt", "no answer that is context and not trained on"),
        ("tools", "alpaca", "no tools and tool calls"),
        ("tools", "sharegpt", "no reasoning beside an answer"),
        ("reasoning", "alpaca", "no reasoning beside an answer"),
        ("reasoning", "sharegpt", "no reasoning beside an answer"),
        ("picture", "messages", "holds 1 pictures, sounds or files"),
        ("preference", "messages", "one answer, and the row compares two"),
        ("alpaca", "preference", "the row has no rejected one"),
        ("kto", "preference", "one of them is empty"),
        ("kto", "messages", "compares two or has a label"),
        ("text", "messages", "these rows are plain text"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_by_name(name, layout, reason, tmp_path):
    with pytest.raises(ValueError, match=reason) as error:
        export(rows_of(name, tmp_path), tmp_path / "x.jsonl", layout)
    assert layout in str(error.value) and not (tmp_path / "x.jsonl").exists()


def test_pairs_whose_texts_are_json_are_written_as_the_texts_that_were_scored(tmp_path):
    text = json.dumps([{"role": "user", "content": "One?"}])
    rows = Dataset.from_list([{"prompt": text, "response": "1"}])
    (written,) = read_jsonl(export(rows, tmp_path / "x.jsonl", "messages"))
    assert format_pairs(rows)[0]["prompt"] == text
    assert [message["content"] for message in written["messages"]] == [text, "1"]


def test_a_column_that_a_trainer_would_take_for_its_own_is_not_written(tmp_path, caplog):
    rows = Dataset.from_list([{"messages": HI_HELLO, "prompt": "x", "text": "y", "id": 1}])
    path = export(rows, tmp_path / "x.jsonl", "messages")
    assert read_jsonl(path) == [{"messages": HI_HELLO, "id": 1}]
    assert "not written" in caplog.text and "prompt, text" in caplog.text


def test_an_unknown_layout_or_ending_is_refused_before_anything_is_written(tmp_path):
    rows = rows_of("alpaca", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'sharegpt'"):
        export(rows, tmp_path / "x.jsonl", "sharegtp")
    with pytest.raises(ValueError, match=r"ending in \.parquet, \.jsonl, \.csv, or a folder"):
        export(rows, tmp_path / "x.xlsx")
    assert {path.name for path in tmp_path.iterdir()} == {"source.jsonl"}


# Files

TIME = dt.datetime(2026, 11, 27, 8, 30, 0, 123456)
HARD = {
    "tiny": [3e-12, 0.1 + 0.2, -1.7976931348623157e308, None],
    "count": [1, -(2**63), None, 2**53 + 1],
    "text": ["a\u2028b\r\n\x00", '"', "", None],
    "number_text": ["007", "1.50", "nan", "null"],
    "time": [TIME, None, TIME, TIME],
    "good": [True, False, None, True],
    "list": [["a", None], [], None, ["b"]],
    "object": [{"x": 1, "y": [1.5]}, {"x": 2, "y": []}, None, {"x": 3, "y": [3e-12]}],
}


def test_json_lines_hold_what_parquet_holds(tmp_path):
    rows = Dataset.from_dict(HARD)
    written = read_jsonl(export(rows, tmp_path / "x.jsonl"))
    export(rows, tmp_path / "x.parquet")
    parquet = pq.ParquetFile(tmp_path / "x.parquet").read().to_pylist()
    for row in parquet:
        row["time"] = row["time"] and row["time"].isoformat()
    assert written == parquet
    again = load_rows(tmp_path / "x.jsonl")
    for name in HARD.keys() - {"time"}:
        assert again[name][:] == HARD[name], name


def test_csv_holds_what_parquet_holds(tmp_path):
    rows = Dataset.from_dict(HARD)
    path = export(rows, tmp_path / "x.csv")
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell and float(cell) for cell in (row["tiny"] for row in cells)] == [
        *HARD["tiny"][:3],
        "",
    ]
    assert [row["count"] for row in cells] == ["1", str(-(2**63)), "", str(2**53 + 1)]
    assert [row["number_text"] for row in cells] == HARD["number_text"]
    assert [row["time"] for row in cells] == [TIME.isoformat(), "", *[TIME.isoformat()] * 2]
    objects = [row["object"] and json.loads(row["object"]) for row in cells]
    assert objects == [*HARD["object"][:2], "", HARD["object"][3]]
    again = load_rows(path, text_columns=["number_text"])
    for name in ("tiny", "count", "text", "number_text", "good"):
        assert again[name][:] == HARD[name], name


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_and_number_comes_back_from_every_file(tmp_path, cells):
    texts, numbers = map(list, zip(*cells, strict=True))
    features = Features({"output": Value("string"), "score": Value("float64")})
    rows = Dataset.from_dict({"output": texts, "score": numbers}, features=features)
    for name in ("x.jsonl", "x.csv", "x.parquet"):
        again = load_rows(export(rows, tmp_path / name))
        assert again["output"][:] == texts
        if any(number is not None for number in numbers):
            assert again["score"][:] == numbers


def test_an_undefined_number_is_null_in_json_and_nan_in_csv(tmp_path):
    rows = Dataset.from_dict({"output": ["a", "b"], "ifd": [math.nan, 0.5]})
    assert read_jsonl(export(rows, tmp_path / "x.jsonl"))[0]["ifd"] is None
    again = load_rows(export(rows, tmp_path / "x.csv"))["ifd"][:]
    assert np.isnan(again[0]) and again[1] == 0.5


def test_whole_decimals_are_written_as_the_integers_they_are(tmp_path):
    rows = Dataset(pa.table({"id": pa.array([10**30, None], pa.decimal256(76, 0))}))
    assert read_jsonl(export(rows, tmp_path / "x.jsonl")) == [{"id": 10**30}, {"id": None}]
    assert load_rows(tmp_path / "x.jsonl")["id"][0] == decimal.Decimal(10**30)


def test_an_arrow_folder_is_written_and_replaced_and_nothing_else_is(tmp_path):
    rows = Dataset.from_dict({"output": ["a", "b"]})
    for part in (rows, rows.select([1])):
        folder = export(part, tmp_path / "folder")
        assert load_from_disk(folder).to_list() == part.to_list()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a saved Dataset"):
        export(rows, tmp_path / "other")
    assert (tmp_path / "other/notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]


def pictures():
    """Rows with a picture that nobody can open."""
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {
            "instruction": ["Look.", "See."],
            "output": ["A cat.", "A dog!!"],
            "image": pa.array([{"bytes": b"no picture", "path": "x.png"}] * 2, cell),
        }
    )
    features = Features(
        {"instruction": Value("string"), "output": Value("string"), "image": Image()}
    )
    return Dataset(table, info=DatasetInfo(features=features))


def test_pictures_are_carried_and_never_decoded(tmp_path):
    table = score(format_pairs(pictures()), [Length()], tmp_path / "run")
    selection = select(table, TopK("length", 1), run=tmp_path / "run")
    for name in ("x.parquet", "folder"):
        export(selection, tmp_path / name)
    again = load_rows(tmp_path / "x.parquet")
    assert again.features["image"] == Image()
    stored = again.with_format("arrow")[0].column("image")[0].as_py()
    assert stored == {"bytes": b"no picture", "path": "x.png"}
    with pytest.raises(ValueError, match=r"cannot hold the column 'image'.* write \.parquet"):
        export(selection, tmp_path / "x.jsonl")
    written = export(selection.subset.remove_columns("image"), tmp_path / "x.jsonl", "messages")
    assert read_jsonl(written)[0]["messages"][1] == {"role": "assistant", "content": "A dog!!"}


# The command


def test_the_command_writes_a_layout(tmp_path, command, refused):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"q": f"{n}?", "a": "x" * n}) + "\n" for n in range(1, 9))
    )
    (tmp_path / "recipe.yaml").write_text(
        "dataset: rows.jsonl\nformat: alpaca\ncolumns: {instruction: q, output: a}\n"
        "score: [Length]\nselect:\n- TopK: {by: length, k: 2}\n"
    )
    assert command("run", "recipe.yaml", "--folder", "run")[0] == 0
    assert load_rows(tmp_path / "run/selected.parquet").column_names == ["q", "a", "length"]
    options = ["select", "run", "--by", "length", "--k", "1", "--to"]
    assert command(*options, "best.jsonl", "--as", "messages")[0] == 0
    assert read_jsonl(tmp_path / "best.jsonl") == [
        {
            "messages": [
                {"role": "user", "content": "8?"},
                {"role": "assistant", "content": "x" * 8},
            ],
            "length": 8,
        }
    ]
    assert command(*options, "best")[0] == 0
    assert load_from_disk(tmp_path / "best").to_list() == [{"q": "8?", "a": "x" * 8, "length": 8}]
    assert "did you mean 'messages'" in refused(*options, "x.jsonl", "--as", "mesages")
    assert "--to FILE" in refused("select", "run", "--by", "length", "--k", "1", "--as", "alpaca")


# Training


@pytest.fixture(scope="module")
def learner(chat):
    """A small model with a chat template that every conversation fits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat)
    tokenizer.pad_token = tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(chat), tokenizer


TRAINED = [
    ("messages", "source", "jsonl"),
    ("sharegpt", "source", "parquet"),
    ("texts", "source", "jsonl"),
    ("alpaca", "messages", "parquet"),
    ("tools", "messages", "jsonl"),
    ("dolly", "prompt-completion", "jsonl"),
    ("chats", "prompt-completion", "parquet"),
    ("messages", "sharegpt", "jsonl"),
    ("question", "alpaca", "jsonl"),
    ("preference", "preference", "jsonl"),
    ("preferred-chat", "preference", "parquet"),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own defaults
@pytest.mark.parametrize(("name", "layout", "ending"), TRAINED, ids=map("-".join, TRAINED))
def test_trl_trains_a_step_on_it(name, layout, ending, tmp_path, learner):
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    path = export(selection_of(name, tmp_path), tmp_path / f"x.{ending}", layout)
    kind = {"jsonl": "json", "parquet": "parquet"}[ending]
    rows = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "hf"))
    model, tokenizer = learner
    is_preference = layout == "preference"
    config = (DPOConfig if is_preference else SFTConfig)(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    options = {}
    if layout == "alpaca":
        options["formatting_func"] = lambda row: f"{row['instruction']}\n{row['output']}"
    trainer = (DPOTrainer if is_preference else SFTTrainer)(
        model, args=config, train_dataset=rows, processing_class=tokenizer, **options
    )
    assert math.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_picture_in_either_answer_of_a_preference_is_refused_not_dropped(side, tmp_path):
    answers = {name: [{"role": "assistant", "content": "Red."}] for name in ("chosen", "rejected")}
    parts = [{"type": "image"}, {"type": "text", "text": "Red."}]
    answers[side] = [{"role": "assistant", "content": parts}]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Colour?"}], **answers}])
    with pytest.raises(ValueError, match=r"row 0 does not fit the layout 'preference'.*1 pictures"):
        export(rows, tmp_path / "x.jsonl", layout="preference")
