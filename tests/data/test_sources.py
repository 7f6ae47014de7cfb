"""Rows from every kind of place, and one clear sentence for every kind of file that cannot be read."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_superfilter import embedded_sample, load_rows

ROWS = [
    {"instruction": "Say it.\u2028Twice", "output": "it\x85it", "tags": ["a", "b"]},
    {"instruction": "用中文", "output": "", "tags": []},
    {"instruction": None, "output": "x", "tags": None},
]


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


ENCODED = {
    "rows.jsonl": as_lines(ROWS),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": as_lines(ROWS),
    "one-line-array.jsonl": json.dumps(ROWS).encode(),
    "blank-lines.jsonl": b"\n" + as_lines(ROWS).replace(b"\n", b"\r\n\n"),
    "no-last-newline.jsonl": as_lines(ROWS).rstrip(b"\n"),
    "byte-order-mark.jsonl": b"\xef\xbb\xbf" + as_lines(ROWS),
    "rows.jsonl.gz": gzip.compress(as_lines(ROWS)),
    "rows.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "rows.jsonl.zst": zstd(as_lines(ROWS)),
    "rows.json.zst": zstd(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", ENCODED)
def test_json_in_every_wrapping_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(ENCODED[name])
    rows = load_rows(tmp_path / name)
    assert rows.to_list() == ROWS
    assert rows.features["tags"] == List(Value("string"))


json_text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(json_text, min_size=1, max_size=8))
def test_any_text_comes_back_from_a_json_line_as_it_was(tmp_path, texts):
    (tmp_path / "x.jsonl").write_bytes(as_lines([{"text": text} for text in texts]))
    assert load_rows(tmp_path / "x.jsonl")["text"][:] == texts


def test_a_key_that_the_first_row_lacks_becomes_a_column(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(as_lines([{"a": 1}, {"a": 2, "input": "x"}, {"b": 1.5}]))
    assert load_rows(tmp_path / "x.jsonl").to_dict() == {
        "a": [1, 2, None],
        "input": [None, "x", None],
        "b": [None, None, 1.5],
    }


def test_a_column_of_mixed_types_keeps_every_value(tmp_path):
    rows = [
        {"calls": [{"arguments": {"x": 1}}]},
        {"calls": [{"arguments": "as text"}]},
        {"calls": []},
    ]
    (tmp_path / "x.jsonl").write_bytes(as_lines(rows))
    assert load_rows(tmp_path / "x.jsonl").to_list() == rows


def test_a_csv_keeps_answers_that_look_like_missing_values(tmp_path):
    (tmp_path / "x.csv").write_text('instruction,output,ifd\n"a, b\nc",None,0.5\nd,N/A,\ne,,nan\n')
    rows = load_rows(tmp_path / "x.csv")
    assert rows["output"][:] == ["None", "N/A", None]
    assert rows["instruction"][0] == "a, b\nc"
    assert rows.features["ifd"] == Value("float64")


def test_a_parquet_file_gives_its_rows_and_what_it_holds_now(tmp_path):
    for rows in (ROWS, ROWS[:1]):
        Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
        assert load_rows(tmp_path / "x.parquet").to_list() == rows


def test_the_embedded_sample_has_a_name_and_its_misspelling_a_hint():
    assert load_rows("embedded:sample").to_list() == load_rows(embedded_sample()).to_list()
    with pytest.raises(ValueError, match="did you mean 'embedded:sample'"):
        load_rows("embedded:smple")


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.jsonl").write_bytes(as_lines(ROWS))
    assert len(load_rows("~/x.jsonl")) == 3


# Folders


def test_a_saved_dataset_and_a_saved_dict_are_read_from_their_folders(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load_rows(tmp_path / "one").to_list() == ROWS
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(
        tmp_path / "two"
    )
    assert len(load_rows(tmp_path / "two")) == 3
    assert len(load_rows(tmp_path / "two", split="test")) == 1
    with pytest.raises(
        ValueError, match=r"no split 'tests': did you mean 'test'\? \(there are: test, train\)"
    ):
        load_rows(tmp_path / "two", split="tests")


def test_several_splits_without_a_train_ask_for_a_choice(tmp_path):
    DatasetDict(a=Dataset.from_list(ROWS), b=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path)
    with pytest.raises(
        ValueError, match="no split 'train': there are: a, b; choose one with split"
    ):
        load_rows(tmp_path)


@pytest.fixture
def configs(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"x": [3]}), tmp_path / "y.parquet")
    front = "configs:\n- config_name: one\n  data_files: x.parquet\n- config_name: two\n  data_files: y.parquet\n"
    (tmp_path / "README.md").write_text(f"---\n{front}---\n")
    return tmp_path


def test_a_folder_as_on_the_hub_loads_by_configuration(configs):
    assert load_rows(configs, config="one")["x"][:] == [1, 2]
    assert load_rows(str(configs), config="two", split="train")["x"][:] == [3]


@pytest.mark.parametrize("config", [None, "onee"])
def test_a_missing_or_unknown_configuration_lists_what_there_is(configs, config):
    with pytest.raises(ValueError, match=r"cannot be loaded: .*'one', 'two'"):
        load_rows(configs, config=config)


def test_a_folder_without_data_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set in the folder"):
        load_rows(tmp_path)
    (tmp_path / "notes.foo").write_text("x")
    with pytest.raises(FileNotFoundError, match="no data set in the folder"):
        load_rows(tmp_path)


def test_a_folder_with_a_damaged_file_says_what_is_wrong_with_it(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(ValueError, match="cannot be loaded: JSON parse error"):
        load_rows(tmp_path)


# Files that cannot be read


UNREADABLE = [
    (
        "bad.jsonl",
        b'{"a": 1}\n{"a": }\n{"a": 2}\n',
        r"bad.jsonl' cannot be read: line 2 is not JSON .*'{\"a\": }'",
    ),
    ("bad.jsonl.gz", gzip.compress(b'{"a": 1}\n\n{"a"\n'), "line 3 is not JSON"),
    (
        "bad.json",
        b'[{"a": 1},\n{"a": }]',
        r"the file is not JSON \(Expecting value, line 2 of it\)",
    ),
    ("number.jsonl", b'{"a": 1}\n5\n', "line 2 is '5': every row has to be a JSON object"),
    ("list.json", b'[{"a": 1}, "x"]', "entry 2 is 'x': every row has to be a JSON object"),
    ("latin.jsonl", '{"a": "é"}'.encode("latin-1"), "'utf-8' codec can't decode"),
    ("huge.jsonl", b'{"a": 1180591620717411303424}', "int too large"),
    ("not.jsonl.gz", b"plain", "not.jsonl.gz' cannot be read"),
    ("not.jsonl.zst", b"plain", "not.jsonl.zst' cannot be read"),
    ("not.parquet", b"plain", "not.parquet' cannot be read"),
    ("empty.parquet", b"", "empty.parquet' cannot be read"),
    ("empty.csv", b"", "empty.csv' cannot be read: No columns"),
    ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
    ("empty.jsonl", b"", "empty.jsonl' has no rows"),
    ("blank.jsonl", b"\n\n", "blank.jsonl' has no rows"),
    ("empty.json", b"[]", "empty.json' has no rows"),
    ("header.csv", b"a,b\n", "header.csv' has no rows"),
    ("rows.txt", b"a", r"of an unknown type: give one of \.json, \.jsonl"),
]


@pytest.mark.parametrize(
    ("name", "content", "complaint"), UNREADABLE, ids=[name for name, _, _ in UNREADABLE]
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        load_rows(tmp_path / name)


def test_a_parquet_file_without_rows_says_so(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        load_rows(tmp_path / "x.parquet")


def test_a_file_is_one_split_called_train(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(as_lines(ROWS))
    assert len(load_rows(tmp_path / "x.jsonl", split="train")) == 3
    with pytest.raises(ValueError, match=r"no split 'test': there are: train"):
        load_rows(tmp_path / "x.jsonl", split="test")


# What is not there


def test_a_missing_file_lists_what_there_is(tmp_path):
    (tmp_path / "alpaca.jsonl").write_bytes(b"")
    (tmp_path / "other.csv").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError,
        match=r"did you mean 'alpaca\.jsonl'\? \(there are: alpaca\.jsonl, other\.csv\)",
    ):
        load_rows(tmp_path / "alpacca.jsonl")
    with pytest.raises(FileNotFoundError, match="there are: none"):
        load_rows(tmp_path / "no" / "such" / "folder.jsonl")


def test_a_folder_of_many_files_is_not_listed_whole(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02d}").touch()
    with pytest.raises(FileNotFoundError, match=r"28, 29 and 20 more$"):
        load_rows(tmp_path / "wanted.jsonl")


@pytest.mark.parametrize("name", ["nobody/nothing-at-all", "nothing-at-all", "data/file.txt"])
def test_an_unreachable_hub_id_says_where_was_looked(name):
    with pytest.raises(
        FileNotFoundError, match=f"no data set '{name}': it is neither a file or folder here nor"
    ):
        load_rows(name)


def test_offline_another_revision_than_the_cached_one_is_refused(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    sha, other = "a" * 40, "b" * 40
    Dataset.from_list(ROWS).to_parquet(tmp_path / "x.parquet")
    source = tmp_path / "source" / "somebody___rows"
    datasets.load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), cache_dir=str(source))
    made = next(path.parent for path in source.rglob("*.arrow"))
    home = tmp_path / "somebody___rows" / "default" / "0.0.0" / sha
    home.parent.mkdir(parents=True)
    made.rename(home)
    next(home.glob("*.arrow")).rename(home / "rows-train.arrow")
    info = json.loads((home / "dataset_info.json").read_text())
    (home / "dataset_info.json").write_text(
        json.dumps(
            {**info, "builder_name": "parquet", "dataset_name": "rows", "config_name": "default"}
        )
    )
    assert load_rows("somebody/rows", revision=sha).to_list() == ROWS
    with pytest.raises(FileNotFoundError, match=f"not at revision '{other}'"):
        load_rows("somebody/rows", revision=other)
