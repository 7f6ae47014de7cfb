"""Rows from every kind of place, and one clear sentence for every file that cannot be read."""

import bz2
import csv
import gzip
import json
import lzma
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_superfilter import embedded_sample, format_pairs, load_rows

ROWS = [
    {"instruction": "Say it.\u2028Twice", "output": "it\x85it", "tags": ["a", "b"]},
    {"instruction": "用中文", "output": "", "tags": []},
    {"instruction": None, "output": "x", "tags": None},
]


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def zipped(data):
    return gzip.compress(data, mtime=0)  # without the clock, so that test names stay the same


ENCODED = {
    "rows.jsonl": as_lines(ROWS),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": as_lines(ROWS),
    "one-line-array.jsonl": json.dumps(ROWS).encode(),
    "blank-lines.jsonl": b"\n" + as_lines(ROWS).replace(b"\n", b"\r\n\n"),
    "no-last-newline.jsonl": as_lines(ROWS).rstrip(b"\n"),
    "byte-order-mark.jsonl": b"\xef\xbb\xbf" + as_lines(ROWS),
    "rows.jsonl.gz": zipped(as_lines(ROWS)),
    "rows.json.gz": zipped(json.dumps(ROWS).encode()),
    "rows.jsonl.zst": zstd(as_lines(ROWS)),
    "rows.json.zst": zstd(json.dumps(ROWS).encode()),
    "rows.jsonl.xz": lzma.compress(as_lines(ROWS)),
    "rows.json.xz": lzma.compress(json.dumps(ROWS).encode()),
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
    front = "configs:\n- config_name: one\n  data_files: x.parquet\n"
    front += "- config_name: two\n  data_files: y.parquet\n"
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
    ("bad.jsonl.gz", zipped(b'{"a": 1}\n\n{"a"\n'), "line 3 is not JSON"),
    (
        "bad.json",
        b'[{"a": 1},\n{"a": }]',
        r"the file is not JSON \(Expecting value, line 2 of it\)",
    ),
    ("number.jsonl", b'{"a": 1}\n5\n', "line 2 is '5': every row has to be a JSON object"),
    ("list.json", b'[{"a": 1}, "x"]', "entry 2 is 'x': every row has to be a JSON object"),
    (
        "latin.jsonl",
        b'{"a": 1}\n' + '{"a": "é"}'.encode("latin-1"),
        "line 2, byte 8: 'utf-8' codec can't decode",
    ),
    ("latin.csv", "a,b\n1,é\n".encode("latin-1"), "line 2, byte 3: 'utf-8' codec can't decode"),
    ("half.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "half.csv' cannot be read: .*truncated data"),
    ("wide.jsonl", '{"a": 1}\n'.encode("utf-16-be"), "line 1 is not JSON"),
    ("packed.jsonl", zipped(b'{"a": 1}\n'), "compressed by gzip: rename it to end in .gz"),
    ("packed.csv", bz2.compress(b"a,b\n1,2\n"), "compressed by bzip2: rename it to end in .bz2"),
    ("book.csv", b"PK\x03\x04\x14\x00\x06\x00\x80\x81", "an Excel workbook or a zip archive"),
    (
        "keys.jsonl",
        b'{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}\n',
        "line 2 .*the key 'c' stands twice",
    ),
    ("keys.json", b'[{"a": 1, "a": 1}]', "the key 'a' stands twice in one object"),
    ("digits.jsonl", b'{"a": ' + b"1" * 5_000 + b"}", "line 1 cannot be read"),
    ("twice.csv", b"a,b,a\n1,2,3\n", "two columns are called 'a': rename one"),
    ("short.csv", b'a,b\n"x\ny",2\n3\n', "Expected 2 fields in line 4, saw 1: '3'"),
    ("not.jsonl.gz", b"plain", "not.jsonl.gz' cannot be read"),
    ("not.jsonl.zst", b"plain", "not.jsonl.zst' cannot be read"),
    ("not.jsonl.xz", b"plain", "not.jsonl.xz' cannot be read"),
    ("cut.csv.gz", zipped(b"a,b\n1,2\n" * 99)[:-9], "cut.csv.gz' cannot be read"),
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tabs.tsv", b"question\tanswer\n1;2\ta,b\n"),
        ("TABS.TSV", b"question\tanswer\n1;2\ta,b\n"),
        ("commas.tsv", b'question,answer\n1;2,"a,b"\n'),
        ("semicolons.csv", b'question;answer\n"1;2";a,b\n'),
        ("bars.csv", b'question|answer\n1;2|"a,b"\n'),
        ("tabs.csv", b"question\tanswer\n1;2\ta,b\n"),
        ("excel.csv", b'\xef\xbb\xbfsep=;\r\nquestion;answer\r\n"1;2";a,b\r\n'),
        ("excel_commas.csv", b'sep=,\nquestion,answer\n1;2,"a,b"\n'),
        ("unicode.csv", "question\tanswer\r\n1;2\ta,b\r\n".encode("utf-16")),
        ("unicode.tsv.gz", zipped("question\tanswer\n1;2\ta,b\n".encode("utf-16"))),
        ("unicode.jsonl", '{"question": "1;2", "answer": "a,b"}\n'.encode("utf-16")),
        ("tabs.tsv.bz2", bz2.compress(b"question\tanswer\n1;2\ta,b\n")),
        ("lines.ndjson", b'{"question": "1;2", "answer": "a,b"}\n'),
        ("LINES.JSONL", b'{"question": "1;2", "answer": "a,b"}\n'),
    ],
)
def test_rows_are_the_same_under_every_separator_and_suffix(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert load_rows(tmp_path / name).to_list() == [{"question": "1;2", "answer": "a,b"}]


@pytest.mark.parametrize("header", ["question", "a;b|c", "all, of it"])
def test_a_header_that_names_no_one_separator_is_read_with_commas(tmp_path, header):
    cells = next(csv.reader([header]))
    (tmp_path / "x.csv").write_text(f"{header}\n" + ",".join("x" for _ in cells) + "\n")
    assert load_rows(tmp_path / "x.csv").column_names == cells


def test_text_columns_are_known_in_other_case_too(tmp_path):
    (tmp_path / "x.csv").write_text("Question, Answer ,n\n007,1e5,3\n")
    assert load_rows(tmp_path / "x.csv").to_list() == [
        {"Question": "007", " Answer ": "1e5", "n": 3}
    ]


def test_an_uneven_row_between_semicolons_is_named_by_its_line(tmp_path):
    (tmp_path / "x.csv").write_text("sep=;\na;b\n1;2\n1;2;3\n")
    with pytest.raises(ValueError, match="Expected 2 fields in line 4, saw 3: '1;2;3'"):
        load_rows(tmp_path / "x.csv")


def test_a_file_that_is_one_object_with_all_rows_is_recognised_in_the_error(tmp_path):
    (tmp_path / "x.json").write_text('{"data": [{"instruction": "a", "output": "b"}]}')
    with pytest.raises(ValueError, match=r"'data' holds lists of objects: .*as JSON Lines"):
        format_pairs(load_rows(tmp_path / "x.json"))


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
def test_offline_a_name_is_refused_without_waiting_for_the_hub(name, monkeypatch):
    waits = []
    monkeypatch.setattr("hf_superfilter.hub_client.time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(
        FileNotFoundError, match=f"no data set '{name}': it is neither a file or .* HF_HUB_OFFLINE"
    ):
        load_rows(name)
    assert waits == []


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


# Text stays text

AWKWARD = [
    "007",
    "1.50",
    "nan",
    "NaN",
    "8",
    "12345678901234567890123",
    "1e3",
    "True",
    "None",
    "N/A",
]


def csv_of(columns):
    """A CSV file as RFC 4180 writes it, every cell in quotes."""
    lines = [columns, *zip(*columns.values(), strict=True)]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
    return "\r\n".join(quoted) + "\r\n"


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_csv_column_that_a_format_reads_is_text_as_it_stands_in_the_file(tmp_path, place):
    written = {"instruction": AWKWARD, "output": AWKWARD[::-1], "question": AWKWARD}
    (tmp_path / "rows.csv").write_text(csv_of(written), newline="")
    rows = load_rows(tmp_path / "rows.csv" if place == "file" else tmp_path)
    assert rows.to_dict() == written
    assert {repr(feature) for feature in rows.features.values()} == {"Value('string')"}


@pytest.mark.parametrize("place", ["file", "folder"])
def test_the_whole_csv_column_decides_whether_it_is_numbers(tmp_path, place):
    words_first = [*("word",) * 10_500, "007", "8"]
    numbers_first = [*map(str, range(10_501)), "six"]
    columns = {
        "output": words_first,
        "input": numbers_first,
        "note": words_first,
        "mark": numbers_first,
        "score": [f"{number}.50" for number in range(10_502)],
        "id": [str(number) for number in range(10_502)],
        "zip": [f"{number:05d}" for number in range(10_502)],
        "huge": [str(10**22 + number) for number in range(10_502)],
        "good": ["True", "False"] * 5_251,
    }
    (tmp_path / "rows.csv").write_text(csv_of(columns), newline="")
    rows = load_rows(tmp_path / "rows.csv" if place == "file" else tmp_path)
    for name in ("output", "input", "note", "mark", "zip", "huge"):
        assert rows[name][:] == columns[name], name
    assert rows["score"][:] == [number + 0.5 for number in range(10_502)]
    assert rows["id"][:] == list(range(10_502))
    assert rows["good"][:] == [True, False] * 5_251


def test_a_column_of_names_is_no_column_of_numbers_because_of_a_nan(tmp_path):
    (tmp_path / "x.csv").write_text("cook,ppl,far\nnan,nan,1e400\nNaN,-1.5e-3,2\n,inf,3\n")
    rows = load_rows(tmp_path / "x.csv")
    assert rows["cook"][:] == ["nan", "NaN", None]
    assert rows["far"][:] == ["1e400", "2", "3"], "a number that no float64 holds"
    assert str(rows["ppl"][:]) == "[nan, -0.0015, inf]"


def test_a_column_can_be_named_as_text(tmp_path):
    (tmp_path / "x.csv").write_text("q,a\n1,2\n3,4\n")
    assert load_rows(tmp_path / "x.csv", text_columns=["a"]).to_dict() == {
        "q": [1, 3],
        "a": ["2", "4"],
    }


def test_an_empty_cell_is_null_and_an_empty_text_in_quotes_is_empty(tmp_path):
    (tmp_path / "x.csv").write_text('instruction,output\na,\nb,""\n')
    assert load_rows(tmp_path / "x.csv")["output"][:] == [None, ""]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(json_text, min_size=1, max_size=8))
def test_any_text_comes_back_from_csv_as_it_was(tmp_path, texts):
    (tmp_path / "x.csv").write_text(csv_of({"output": texts, "n": texts}), "utf-8", newline="")
    assert load_rows(tmp_path / "x.csv", text_columns=["n"]).to_dict() == {
        "output": texts,
        "n": texts,
    }


LINES = 'instruction,output\r\n"two\r\nlines\u2028",007\r\n用中文,"a, b"\r\n'.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "plain.csv": LINES,
        "mark.csv": b"\xef\xbb\xbf" + LINES,
        "packed.csv.gz": zipped(LINES),
        "packed.csv.zst": zstd(LINES),
        "packed.csv.xz": lzma.compress(LINES),
        "mark.csv.xz": lzma.compress(b"\xef\xbb\xbf" + LINES),
    }.items(),
)
def test_csv_in_every_wrapping_gives_the_same_rows(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert load_rows(tmp_path / name).to_list() == [
        {"instruction": "two\r\nlines\u2028", "output": "007"},
        {"instruction": "用中文", "output": "a, b"},
    ]


def test_the_index_that_pandas_writes_gets_the_name_that_pandas_gives_it(tmp_path):
    (tmp_path / "x.csv").write_text(",output\n0,a\n1,b\n")
    assert load_rows(tmp_path / "x.csv").to_dict() == {"Unnamed: 0": [0, 1], "output": ["a", "b"]}


# What no column can hold


def test_integers_beyond_64_bits_are_kept_exactly(tmp_path):
    numbers = [2**63, -(2**64), 10**40, None, 5]
    (tmp_path / "x.jsonl").write_bytes(as_lines([{"output": "a", "id": n} for n in numbers]))
    rows = load_rows(tmp_path / "x.jsonl")
    assert rows["id"][:] == numbers and rows["output"][:] == ["a"] * 5


def test_a_text_in_a_column_of_mixed_types_is_not_taken_for_a_value(tmp_path):
    rows = [
        {"note": "4", "messages": [{"role": "user", "content": "42"}]},
        {"note": 4, "messages": [{"role": "user", "content": [{"type": "text", "text": "true"}]}]},
        {"note": "null", "messages": [{"role": "user", "content": '{"a": 1e3}'}]},
        {"note": 2**63, "messages": [{"role": "user", "content": "007"}]},
        {"note": 1.5, "messages": []},
    ]
    (tmp_path / "x.jsonl").write_bytes(as_lines(rows))
    loaded = load_rows(tmp_path / "x.jsonl")
    assert loaded["note"][:] == [row["note"] for row in rows]
    assert loaded["messages"][:] == [row["messages"] for row in rows]


def test_what_cannot_be_held_where_no_format_reads_is_null_and_named(tmp_path):
    rows = [{"output": "a", "meta": "fine"}, {"output": "b", "meta": "\ud83d\ude00 \udfff"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match=r"1 cells .* line 2, column 'meta'.*'\\udfff', at char"):
        loaded = load_rows(tmp_path / "x.jsonl")
    assert loaded.to_dict() == {"output": ["a", "b"], "meta": ["fine", None]}
    (tmp_path / "y.json").write_text(json.dumps([{"x": "a"}, {"x": [2**70]}]))
    with pytest.warns(UserWarning, match=r"entry 2, column 'x'.* beyond 64 bits inside of a list"):
        assert load_rows(tmp_path / "y.json")["x"][:] == ["a", None]
    (tmp_path / "z.jsonl").write_text('{"x": "a"}\n{"x": 18446744073709551616}\n')
    with pytest.warns(UserWarning, match=r"line 2, column 'x'.* beyond 64 bits among other types"):
        assert load_rows(tmp_path / "z.jsonl")["x"][:] == ["a", None]


def test_what_cannot_be_held_where_a_format_reads_makes_the_row_unreadable(tmp_path):
    rows = [{"instruction": f"say {n}", "output": "x"} for n in range(6)]
    rows[1]["output"] = "half \ud83d"
    rows[3]["output"] = 8
    rows[4]["instruction"] = True
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_rows(tmp_path / "x.jsonl")
    assert loaded["output"][:] == ["x", None, "x", None, "x", "x"]
    reasons = loaded["unreadable_reason"][:]
    assert [number for number, reason in enumerate(reasons) if reason] == [1, 3, 4]
    assert reasons[1].startswith("line 2, column 'output': a lone surrogate, '\\ud83d', at")
    assert reasons[3] == "line 4, column 'output': holds int 8, not text"
    assert reasons[4] == "line 5, column 'instruction': holds bool True, not text"


def test_an_emoji_written_as_two_escapes_is_no_lone_surrogate(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"output": "\\ud83d\\ude00"}\n')
    assert load_rows(tmp_path / "x.jsonl").to_list() == [{"output": "😀"}]


def test_a_csv_file_on_the_hub_is_text_too_and_again_without_the_hub(hub, monkeypatch):
    import datasets
    from huggingface_hub import HfApi, constants

    HfApi().create_repo("me/answers", repo_type="dataset")
    HfApi().upload_file(
        path_or_fileobj=b"output,mark\n007,1\nNaN,2\n",
        path_in_repo="rows.csv",
        repo_id="me/answers",
        repo_type="dataset",
    )
    expected = {"output": ["007", "NaN"], "mark": [1, 2]}
    assert load_rows("me/answers").to_dict() == expected
    assert load_rows("me/answers", revision="main").to_dict() == expected
    hub.stop()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_rows("me/answers").to_dict() == expected
