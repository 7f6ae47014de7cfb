"""The source of rows goes with them, from load_rows to the card."""

import json

import pytest
from datasets import Dataset
from publishing import picked

from hf_superfilter import (
    Length,
    TopK,
    format_pairs,
    load_rows,
    publish,
    score,
    select,
    write_repo,
)
from hf_superfilter.runs.manifest import read_manifest
from hf_superfilter.tables.origin import origin_of


@pytest.mark.parametrize("with_run", [True, False])
def test_the_card_of_a_python_path_names_source_and_licence(tmp_path, with_run):
    rows = load_rows("embedded:sample").filter(lambda row: row["output"] != "")
    table = score(format_pairs(rows.map(lambda row: {"own": 1})), [Length()], tmp_path / "run")
    selection = select(table, TopK("length", 5), run=tmp_path / "run" if with_run else None)
    card = (write_repo(selection, tmp_path / "repo") / "README.md").read_text()
    assert "license: apache-2.0" in card and "embedded:sample" in card
    assert "own" in selection.subset.column_names and "prompt" not in selection.subset.column_names


def test_a_run_records_file_and_digest(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    score(format_pairs(load_rows(path)), [Length()], tmp_path / "run")
    source = read_manifest(tmp_path / "run")["source"]
    assert source["dataset"] == str(path) and source["revision"].startswith("sha256:")
    assert source["columns"] == ["question", "answer"]


@pytest.mark.parametrize("as_pattern", [True, False])
def test_rows_of_several_files_carry_their_names_and_a_digest_of_all(
    tmp_path, monkeypatch, as_pattern
):
    monkeypatch.chdir(tmp_path)
    names = ["a.jsonl", "b.jsonl"]
    source = "?.jsonl" if as_pattern else names

    def origin(*texts):
        for name, text in zip(names, texts, strict=True):
            (tmp_path / name).write_text(json.dumps({"question": text, "answer": "b"}) + "\n")
        return origin_of(load_rows(source))

    first, changed = origin("1", "2"), origin("1", "3")
    assert first["dataset"] == ("?.jsonl" if as_pattern else "a.jsonl, b.jsonl")
    assert first["revision"].startswith("sha256:") and first["revision"] != changed["revision"]
    assert origin("1", "2") == first
    table = score(format_pairs(load_rows(source)), [Length()], tmp_path / "run")
    card = (
        write_repo(select(table, TopK("length", 1)), tmp_path / "repo") / "README.md"
    ).read_text()
    assert first["dataset"] in card and first["revision"] in card


def test_rows_of_the_hub_carry_its_commit(hub):
    commit = publish(picked(1, 2, 3), "me/rows", "best", private=False)
    origin = origin_of(load_rows("me/rows", config_name="best").select([0]))
    assert origin == {
        "dataset": "me/rows",
        "revision": commit.oid,
        "config": "best",
        "split": "train",
    }


def test_rows_that_were_not_loaded_have_no_source(tmp_path):
    table = score(Dataset.from_dict({"prompt": ["a"], "response": ["b"]}), Length(), tmp_path)
    assert origin_of(table) is None and "source" not in read_manifest(tmp_path)


def test_another_template_in_the_same_folder_is_called_so(tmp_path):
    rows = load_rows("embedded:sample", split="[:5]")
    score(format_pairs(rows), [Length()], tmp_path / "run")
    with pytest.raises(ValueError, match=r"another template, template='none', not 'alpaca'"):
        score(format_pairs(rows, template="alpaca"), [Length()], tmp_path / "run")
