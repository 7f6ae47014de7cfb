"""Sources of other kinds: rows in memory, lists, patterns, parts of splits, URLs of the Hub."""

import json

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from publishing import picked

from hf_superfilter import (
    Length,
    SuperfilterError,
    format_pairs,
    load_rows,
    publish,
    score,
)

ROWS = [{"question": f"{number}?", "answer": "b" * number} for number in range(1, 5)]
TABLE = Dataset.from_list(ROWS)
LOADED = [DatasetDict({"train": TABLE}), TABLE.to_iterable_dataset()]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, row in enumerate(ROWS):
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ROWS,
        lambda folder: pd.DataFrame(ROWS, index=[7, 5, 3, 1]),
        lambda folder: Dataset.from_list(ROWS),
        lambda folder: [folder / f"part-{number}.jsonl" for number in range(4)],
        lambda folder: "part-*.jsonl",
        lambda folder: str(folder / "part-?.jsonl"),
        lambda folder: f"{folder}/**/part-[0-9].jsonl",
    ],
)
def test_all_kinds_of_sources_give_the_same_rows(files, make):
    assert load_rows(make(files)).to_list() == ROWS


@pytest.mark.parametrize("source", [3, {}, [], [1], Length])
def test_what_is_no_source_is_refused_in_one_sentence(source):
    with pytest.raises(SuperfilterError, match=r"load_rows got .*: give a name"):
        load_rows(source)


@pytest.mark.parametrize("loaded", LOADED, ids=["splits", "stream"])
def test_what_is_loaded_already_is_sent_to_format_pairs(loaded):
    kind = type(loaded).__name__
    with pytest.raises(TypeError, match=f"load_rows got {kind}, .*: give it to format_pairs"):
        load_rows(loaded)


@pytest.mark.parametrize("rows_of", [list, tuple, pd.DataFrame])
def test_rows_in_memory_keep_what_only_a_later_one_has_and_values_of_several_types(rows_of):
    rows = [
        {"id": 1, "messages": [{"role": "user", "content": "a"}]},
        {"id": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]},
        {"id": None, "messages": [], "label": True},
    ]
    whole = [row | {"label": row.get("label")} for row in rows]
    assert load_rows(rows_of(rows)).to_list() == whole


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ([{"a": 1}, {2: 3}], "row 1 has the key 2: the names of columns are text"),
        ([{"a": "x"}, {"a": "\ud800"}], "row 1, column 'a': a lone surrogate"),
        ([{"a": 10**80}], "row 0, column 'a': an integer of more than 76 digits"),
        ([{"a": {"b": 2**70}}], "row 0, column 'a': an integer beyond 64 bits inside"),
        (pd.DataFrame({"a": []}), "the frame has no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of the frame are called 'a'"),
        ("", "the source is an empty text"),
    ],
)
def test_rows_in_memory_that_no_column_holds_are_named(source, complaint):
    with pytest.raises(SuperfilterError, match=complaint):
        load_rows(source)
    if not isinstance(source, str):
        with pytest.raises(SuperfilterError, match=complaint):
            score(source, [Length()], "unused")


def test_a_part_of_a_split_without_a_row_is_refused(files):
    with pytest.raises(SuperfilterError, match=r"holds no row: there are 1 rows in 'train'"):
        load_rows("part-1.jsonl", split="train[5:]")


def test_the_folder_one_stands_in_is_a_source(files):
    assert sorted(row["question"] for row in load_rows(".")) == [row["question"] for row in ROWS]


def test_parts_of_splits_are_read_as_datasets_reads_them(tmp_path, caplog):
    train, test = Dataset.from_list(ROWS), Dataset.from_list(ROWS[:2])
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "saved")
    saved = tmp_path / "saved"
    with caplog.at_level("INFO", "hf_superfilter"):
        assert len(load_rows(saved)) == 4
    assert "there are also: test" in caplog.text
    assert load_rows(saved, split="train[1:3]").to_list() == ROWS[1:3]
    assert load_rows(saved, split="[:50%]").to_list() == ROWS[:2]
    assert len(load_rows(saved, split="train+test")) == 6
    for split in ("dev[:2]", "train[:x]", "train[", "train+dev"):
        with pytest.raises(SuperfilterError, match="cannot be read"):
            load_rows(saved, split=split)


def test_an_address_of_the_hub_is_read(hub):
    publish(picked(1, 2), "me/rows", "best")
    assert len(load_rows("hf://datasets/me/rows", config_name="best")) == 2
    (path,) = [name for name in hub.files("dataset", "me/rows") if name.endswith(".parquet")]
    assert len(load_rows(f"hf://datasets/me/rows/{path}")) == 2
    assert len(load_rows(f"hf://datasets/me/rows@main/{path}")) == 2
    with pytest.raises(SuperfilterError, match="give hf://datasets/user/name"):
        load_rows("hf://models/me/rows")


def test_files_of_other_columns_and_patterns_without_files_are_refused(files):
    (files / "part-9.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(SuperfilterError, match="has the columns"):
        load_rows("part-*.jsonl")
    with pytest.raises(SuperfilterError, match="no file fits"):
        load_rows("other-*.jsonl")


@pytest.mark.parametrize("kind", [list, pd.DataFrame])
def test_score_takes_lists_of_dicts_and_frames(tmp_path, kind):
    rows = kind([{"prompt": "a", "response": "bb"}])
    assert score(rows, [Length()], tmp_path)["length"][:] == [2]


def test_columns_named_the_wrong_way_round_are_noticed():
    rows = Dataset.from_dict({"question_text": ["a"], "output": ["b"]})
    right = format_pairs(rows, columns={"instruction": "question_text"})
    assert right["prompt"][:] == ["a\n"]
    with pytest.raises(SuperfilterError, match="instruction=question_text"):
        format_pairs(rows, columns={"question_text": "instruction"})


def test_the_options_of_score_reach_the_scorer_and_the_rows(command, tmp_path):
    options = ["--limit", "3", "--max-length", "64", "--dtype", "float32", "--device", "cpu"]
    code, _, error = command(
        *("score", "embedded:sample", "--model", "embedded:weak", "--folder", "run"),
        *(*options, "--set", "IFD.variant=bos"),
    )
    assert code == 0, error
    assert len(load_rows(tmp_path / "run/scored.parquet")) == 3
    recipe = (tmp_path / "run/recipe.yaml").read_text()
    for line in ("variant: bos", "max_length: 64", "dtype: float32", "device: cpu"):
        assert line in recipe


@pytest.mark.parametrize("scorer", [Length, [Length], "length", ["length"], 3, [None]])
def test_what_is_no_scorer_is_refused_in_one_sentence(tmp_path, scorer):
    rows = Dataset.from_dict({"prompt": ["a"], "response": ["b"]})
    with pytest.raises(SuperfilterError, match="not a scorer: give"):
        score(rows, scorer, tmp_path)
