"""Streams of unknown length: written part by part, joined part by part, resumed, checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, IterableDataset, Value

from hf_superfilter import Length, RandomSample, Threshold, TopK, score, select
from hf_superfilter.runs import stream as module


def rows_of(count, start=0):
    for number in range(start, count):
        yield {"prompt": f"question {number}", "response": "x" * (number % 97 + 1)}


def streamed(count, start=0):
    return IterableDataset.from_generator(rows_of, gen_kwargs={"count": count, "start": start})


def lengths(count):
    return [float(number % 97 + 1) for number in range(count)]


def test_a_stream_of_unknown_length_is_scored_and_selected_from(tmp_path):
    table = score(streamed(5_000), [Length()], tmp_path)
    assert table["length"][:] == lengths(5_000)
    assert len(select(table, TopK("length", 0.1)).rows) == 500
    assert len(select(table, TopK("length", 7)).rows) == 7
    assert len(select(table, [Threshold("length", below=50), RandomSample(20)]).rows) == 20
    assert select(table, TopK("length", 1)).subset["response"][:] == ["x" * 97]


def test_a_stream_goes_on_behind_what_it_has_written(tmp_path):
    source = tmp_path / "source.parquet"
    Dataset.from_list(list(rows_of(1_000))).to_parquet(source, batch_size=100)
    read = []

    def watched(row):
        read.append(row["prompt"])
        if len(read) == 650 and not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            raise OSError("the power went")
        return row

    def stream():
        features = Features({"prompt": Value("string"), "response": Value("string")})
        loaded = Dataset.from_parquet(str(source)).to_iterable_dataset()
        return loaded.map(watched, features=features)

    with pytest.raises(OSError, match="the power went"):
        score(stream(), [Length()], tmp_path / "run", chunk_size=100)
    read.clear()
    table = score(stream(), [Length()], tmp_path / "run", chunk_size=100)
    assert table["prompt"][:] == [f"question {number}" for number in range(1_000)]
    assert len(read) < 600, "what was written before the crash is not read again"


def test_another_stream_in_the_same_folder_is_refused(tmp_path):
    score(streamed(10), [Length()], tmp_path)
    with pytest.raises(ValueError, match="holds the rows of another stream"):
        score(streamed(10, start=1), [Length()], tmp_path)


def truncate(rows):
    path = rows / "000001.arrow"
    path.write_bytes(path.read_bytes()[:-64])


def swap_two_parts_of_one_size(rows):
    (rows / "000001.arrow").rename(rows / "aside")
    (rows / "000002.arrow").rename(rows / "000001.arrow")
    (rows / "aside").rename(rows / "000002.arrow")


def copy_the_state_of_another_part(rows):
    (rows / "000002.json").write_bytes((rows / "000001.json").read_bytes())


def put_no_json(rows):
    (rows / "000003.json").write_text("[]")


def put_no_arrow(rows):
    path = rows / "000000.arrow"
    path.write_bytes(b"\0" * path.stat().st_size)


def lose_a_part(rows):
    (rows / "000002.arrow").unlink()


def damage_the_end(rows):
    (rows / "end.json").write_text("nothing")


DAMAGES = [
    (truncate, "000001"),
    (swap_two_parts_of_one_size, "000001"),
    (copy_the_state_of_another_part, "000002"),
    (put_no_json, "000003"),
    (put_no_arrow, "000000"),
    (lose_a_part, None),
    (damage_the_end, None),
]


@pytest.mark.parametrize(
    ("damage", "named"), DAMAGES, ids=lambda value: getattr(value, "__name__", None)
)
def test_damaged_rows_of_a_stream_are_named_and_read_again(tmp_path, damage, named, caplog):
    responses = [f"{number:03}" for number in range(50)]
    rows = Dataset.from_dict({"prompt": ["?"] * 50, "response": responses})

    def scored():
        return score(rows.to_iterable_dataset(), [Length()], tmp_path, chunk_size=10)

    scored()
    damage(tmp_path / "rows")
    assert scored()["response"][:] == responses
    assert named is None or f"{named} is damaged or of another place" in caplog.text
    caplog.clear()
    assert scored()["length"][:] == [3.0] * 50 and not caplog.text


def replays_of(table):
    """How many operations the blocks of a table repeat when they are loaded or copied."""
    blocks = [block for row in table.data.blocks for block in row]
    return sum(len(getattr(block, "replays", None) or []) for block in blocks)


def test_the_history_of_a_streams_table_grows_with_its_parts_not_with_their_square(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "GROWTH", 10**9)  # parts stay as tiny as chunks
    replays = {}
    for count in (10, 40):
        folder = tmp_path / str(count)
        table = score(streamed(10 * count), [Length(), Length(name="again")], folder, chunk_size=10)
        assert len(list((folder / "rows").glob("*.arrow"))) == count
        assert table["again"][:] == lengths(10 * count)
        replays[count] = replays_of(select(table, TopK("length", 0.5)).table)
    assert 0 < replays[40] <= 5 * replays[10], replays


def test_the_parts_of_a_long_stream_grow(tmp_path):
    table = score(streamed(1_000), [Length()], tmp_path, chunk_size=10)
    states = [json.loads(path.read_text()) for path in sorted((tmp_path / "rows").glob("0*.json"))]
    assert len(states) < 60, "100 parts of 10 rows if they did not grow"
    for state in states:
        assert state["rows_to"] - state["rows_from"] <= max(10, state["rows_from"] // module.GROWTH)
    assert states[-1]["rows_to"] == 1_000 and table["length"][:] == lengths(1_000)


MEMORY = """
import ctypes, gc, sys
import pyarrow as pa
from datasets import IterableDataset
from hf_superfilter import Length, TopK, score, select

def rows(count):
    for number in range(count):
        yield {"prompt": "a question " * 20, "response": "an answer " * (number % 30 + 1)}

def held():
    "Bytes of this process that no file backs, without what allocators keep for later."
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

def measure(count):
    stream = IterableDataset.from_generator(rows, gen_kwargs={"count": count})
    table = score(stream, [Length()], f"{sys.argv[1]}/{count}")
    selection = select(table, TopK("length", 0.1))
    assert len(selection.rows) == count // 10
    return held()

measure(10_000)
few, many = map(int, sys.argv[2:])
print((measure(many) - measure(few)) / (many - few))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_further_row_of_a_stream_costs_less_than_24_bytes_of_memory(tmp_path):
    command = [sys.executable, "-c", MEMORY, tmp_path, "30000", "120000"]
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) <= 24, f"{done.stdout} bytes a row"
