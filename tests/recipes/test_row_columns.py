"""What selectors compute of each row: processes of a run share it, and its folder keeps it."""

import json
import re
import signal
import time

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets
from near_copies import edited
from processes import Forked

from hf_superfilter import Decontaminate, NearDuplicates, Recipe, Threshold, score, select
from hf_superfilter.cli._run_folders import selection_in

PROGRAM = """
import sys
from hf_superfilter import Recipe
from hf_superfilter.runs import chunks, locks
locks.LEASE, chunks.MAX_BYTES, chunks.MIN_BYTES = 1.5, 1_500, 800
Recipe.read("recipe.yaml").run("run")
"""
RECIPE = """
dataset: {rows}
score: [Length]
select:
  - Decontaminate: {{against: [{benchmark}]}}
  - NearDuplicates: {{by: length, threshold: 0.6}}
"""


@pytest.fixture
def recipe(tmp_path, sample):
    """A recipe on rows with copies, some of which a benchmark holds."""
    texts = edited(sample["output"][:100])
    rows = {"instruction": ["Say it."] * 200, "input": [""] * 200, "output": texts}
    Dataset.from_dict(rows).to_json(tmp_path / "rows.jsonl")
    answers = {"answer": sample["output"][20:60]}
    Dataset.from_dict(answers).to_json(tmp_path / "benchmark.jsonl")
    files = {"rows": tmp_path / "rows.jsonl", "benchmark": tmp_path / "benchmark.jsonl"}
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(**files))
    return Recipe.read(tmp_path / "recipe.yaml")


def plain(recipe):
    """Select without a run: one process, nothing on disk."""
    return select(recipe.load_pairs()[0].add_column("length", lengths(recipe)), recipe.select)


def lengths(recipe):
    return [len(text) for text in recipe.load_pairs()[0]["response"]]


def told(selection):
    return [(step.rows_in, step.rows_out, step.facts) for step in selection.steps]


def equal(one, other):
    assert one.rows.tolist() == other.rows.tolist()
    assert one.dropped_by.tolist() == other.dropped_by.tolist()
    assert one.stands_for == other.stands_for
    assert told(one) == told(other)


def start(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return Forked(["program.py"], tmp_path)


def logged(tmp_path):
    path = tmp_path / "run/selectors/run.log.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_processes_that_share_a_folder_select_what_one_does_also_after_a_kill(tmp_path, recipe):
    killed = start(tmp_path)
    while len(logged(tmp_path)) < 3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    chunks = list(tmp_path.glob("run/selectors/*/0*.parquet"))
    finished = {path: path.stat().st_mtime_ns for path in chunks}
    others = [start(tmp_path) for _ in range(2)]
    assert [process.wait(timeout=300) for process in others] == [0, 0]
    processes = {line["process"].rsplit(":", 1)[1] for line in logged(tmp_path)}
    assert str(killed.pid) in processes and len(processes) > 1
    assert 3 <= len(finished) < len(list(tmp_path.glob("run/selectors/*/0*.parquet")))
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in finished.items())
    wanted = plain(recipe)
    selected = pq.read_table(tmp_path / "run/selected.parquet").to_pylist()
    assert selected == wanted.subset.to_list()
    assert 0 < len(wanted) < 180 and wanted.steps[0].facts["rows hit"] > 40
    equal(selection_in(str(tmp_path / "run")), wanted)


def test_a_damaged_chunk_is_named_and_computed_again(tmp_path, recipe, caplog):
    wanted = recipe.run(tmp_path / "run")
    equal(wanted, plain(recipe))
    for column in (tmp_path / "run/selectors").glob("*_*"):
        chunk = next(column.glob("*.parquet"))
        contents = chunk.read_bytes()
        chunk.write_bytes(contents[:-50])
        caplog.clear()
        equal(recipe.run(tmp_path / "run"), wanted)
        assert f"{column.name}/{chunk.name} is damaged" in caplog.text
        assert len(chunk.read_bytes()) > 100


def test_the_columns_are_for_the_selectors_only(tmp_path, recipe):
    selection = recipe.run(tmp_path / "run")
    own = {"instruction", "input", "output", "prompt", "response", "length"}
    assert set(selection.table.column_names) == own
    for file in ("scored.parquet", "selected.parquet"):
        assert set(pq.read_schema(tmp_path / "run" / file).names) <= own
    names = sorted(path.name for path in (tmp_path / "run/selectors").glob("*_*"))
    assert re.fullmatch(r"overlap_[0-9a-f]{8} signature_[0-9a-f]{8}", " ".join(names))
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    assert list(manifest["scorers"]) == ["length"]


def test_a_finished_run_is_selected_from_without_computing_anything_again(tmp_path, recipe):
    selection = recipe.run(tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/selectors/*/*")}
    equal(recipe.run(tmp_path / "run"), selection)
    equal(selection_in(str(tmp_path / "run")), selection)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_another_benchmark_or_setting_in_the_same_folder_is_computed_anew(tmp_path, recipe):
    before = recipe.run(tmp_path / "run")
    Dataset.from_dict({"answer": ["Nobody says these nine words in just this order."]}).to_json(
        tmp_path / "benchmark.jsonl"
    )
    clean = recipe.run(tmp_path / "run")
    assert before.steps[0].facts["rows hit"] > 0 == clean.steps[0].facts["rows hit"]
    text = (tmp_path / "recipe.yaml").read_text().replace("threshold: 0.6", "threshold: 0.9")
    strict = Recipe.from_yaml(text)
    equal(strict.run(tmp_path / "run"), plain(strict))
    assert len(strict.run(tmp_path / "run")) > len(clean)


def test_a_missing_benchmark_is_named_before_anything_is_scored(tmp_path, recipe):
    (tmp_path / "benchmark.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"benchmark\.jsonl"):
        recipe.run(tmp_path / "run")
    assert not list(tmp_path.glob("run/length/*.parquet"))


def test_selectors_read_the_columns_where_a_table_has_them(tmp_path, sample):
    texts = edited(sample["output"][:30])
    table = Dataset.from_dict({"text": texts, "x": [float(len(text)) for text in texts]})
    duplicates = NearDuplicates(0.6, by="x", columns=["text"])
    clean = Decontaminate(["embedded:sample"], columns=["text"])
    scorers = [duplicates.row_scorer(), clean.row_scorer()]
    wide = score(table, scorers, tmp_path / "run", chunk_size=7)
    for steps in ([duplicates], [clean], [Threshold("x", above=90), duplicates]):
        equal(select(wide, steps), select(table, steps))
    # No text is looked at: equal digests are equal texts, and a row without hits is clean.
    name, other = (scorer.name for scorer in scorers)
    same = Dataset.from_dict(
        {name: [wide[name][0]] * 60}, features=wide.select_columns(name).features
    )
    blind = concatenate_datasets([table, same, Dataset.from_dict({other: [""] * 60})], axis=1)
    assert len(select(blind, duplicates)) == 1 and len(select(blind, clean)) == 60
