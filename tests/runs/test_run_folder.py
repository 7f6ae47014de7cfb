"""A run folder belongs to one setting, and every file in it says where it belongs."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from hf_superfilter import Length, score
from hf_superfilter.runs.manifest import read_manifest
from hf_superfilter.runs.store import Store

ROWS = Dataset.from_dict(
    {"prompt": ["?"] * 60, "response": ["x" * (number + 1) for number in range(60)]}
)
LENGTHS = [float(number + 1) for number in range(60)]


class Times:
    """A scorer with a setting: so many times the length. Two of one name are two settings."""

    name = main = "times"

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, batch):
        return {"times": [self.factor * len(text) for text in batch["response"]]}


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_of_two_settings_at_once_one_gets_the_folder_and_its_table_is_not_mixed(tmp_path, url):
    def run(factor, folder, barrier):
        barrier.wait()
        try:
            return score(ROWS, [Times(factor)], folder, chunk_size=7)["times"][:]
        except ValueError as error:
            return str(error)

    for attempt in range(8):
        folder, barrier = url.format(tmp_path / str(attempt)), threading.Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(run, (1, 2), (folder, folder), (barrier, barrier)))
        tables = [result for result in results if isinstance(result, list)]
        refusals = [result for result in results if isinstance(result, str)]
        assert len(refusals) == 1, results
        assert "holds scores named 'times' made with identity" in refusals[0]
        factor = 1 + results.index(tables[0])
        assert tables[0] == [factor * (number + 1) for number in range(60)]
        again = score(ROWS, [Times(factor)], folder, chunk_size=7)
        assert again["times"][:] == tables[0]


def test_of_two_sets_of_rows_at_once_one_gets_the_folder(tmp_path):
    def run(count, barrier):
        barrier.wait()
        try:
            return len(score(ROWS.select(range(count)), [Length()], tmp_path / "run"))
        except ValueError as error:
            return str(error)

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, (59, 60), (barrier, barrier)))
    (refusal,) = [result for result in results if isinstance(result, str)]
    assert "was made with rows" in refusal


def chunk(folder, number):
    return folder / f"length/{number:06d}.parquet"


def rewrite(path, **changes):
    """Write a chunk's file again, whole, with another label."""
    table = pq.read_table(path)
    label = json.loads(table.schema.metadata[b"label"]) | changes
    metadata = {**table.schema.metadata, b"label": json.dumps(label).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def copy_one_over_another(folder, other):
    shutil.copy(chunk(folder, 1), chunk(folder, 2))


def exchange_two(folder, other):
    chunk(folder, 1).rename(folder / "aside")
    chunk(folder, 2).rename(chunk(folder, 1))
    (folder / "aside").rename(chunk(folder, 2))


def take_one_of_another_run_of_the_same_rows(folder, other):
    shutil.copy(chunk(other, 2), chunk(folder, 2))


def take_one_of_other_rows(folder, other):
    rewrite(chunk(folder, 2), rows="sha256:0123456789abcdef")


def take_one_of_another_scorer(folder, other):
    rewrite(chunk(folder, 2), scorer="words")


def take_one_of_other_settings(folder, other):
    rewrite(chunk(folder, 2), fingerprint="0123456789abcdef")


def write_a_parquet_file_of_ones_own(folder, other):
    pq.write_table(pa.table({"length": np.zeros(10)}), chunk(folder, 2))


def write_metadata_that_is_no_json(folder, other):
    table = pq.read_table(chunk(folder, 2))
    pq.write_table(table.replace_schema_metadata({"label": "{", "facts": "{"}), chunk(folder, 2))


def write_metadata_that_is_a_list(folder, other):
    table = pq.read_table(chunk(folder, 2))
    pq.write_table(table.replace_schema_metadata({"label": "[]", "facts": "[]"}), chunk(folder, 2))


def lose_the_facts(folder, other):
    table = pq.read_table(chunk(folder, 2))
    label = {"label": table.schema.metadata[b"label"]}
    pq.write_table(table.replace_schema_metadata(label), chunk(folder, 2))


def truncate(folder, other):
    chunk(folder, 2).write_bytes(chunk(folder, 2).read_bytes()[:-50])


def empty(folder, other):
    chunk(folder, 2).write_bytes(b"")


def put_a_folder_in_its_place(folder, other):
    chunk(folder, 2).unlink()
    chunk(folder, 2).mkdir()


def damage_the_chunk_table(folder, other):
    (folder / "chunks.npy").write_bytes(b"no numpy file")


def write_chunks_that_overlap(folder, other):
    layout = np.load(folder / "chunks.npy")
    layout[0, 2] = layout[0, 1]
    np.save(folder / "chunks.npy", layout)


def write_a_chunk_table_of_texts(folder, other):
    np.save(folder / "chunks.npy", np.array([["a", "b"], ["c", "d"]]))


def write_a_chunk_table_with_objects(folder, other):
    np.save(folder / "chunks.npy", np.array([{"a": 1}]), allow_pickle=True)


def damage_the_manifest(folder, other):
    (folder / "run.json").write_text('{"rows": 60, "scor')


def damage_the_scorers_manifest(folder, other):
    (folder / "length/scorer.json").write_text("[]")


def damage_all_three(folder, other):
    damage_the_manifest(folder, other)
    damage_the_scorers_manifest(folder, other)
    damage_the_chunk_table(folder, other)


DAMAGES = {
    copy_one_over_another: "000002.parquet",
    exchange_two: "000001.parquet",
    take_one_of_another_run_of_the_same_rows: "000002.parquet",
    take_one_of_other_rows: "000002.parquet",
    take_one_of_another_scorer: "000002.parquet",
    take_one_of_other_settings: "000002.parquet",
    write_a_parquet_file_of_ones_own: "000002.parquet",
    write_metadata_that_is_no_json: "000002.parquet",
    write_metadata_that_is_a_list: "000002.parquet",
    lose_the_facts: "000002.parquet",
    truncate: "000002.parquet",
    empty: "000002.parquet",
    put_a_folder_in_its_place: "000002.parquet",
    damage_the_chunk_table: "chunks.npy",
    write_chunks_that_overlap: "chunks.npy",
    write_a_chunk_table_of_texts: "chunks.npy",
    write_a_chunk_table_with_objects: "chunks.npy",
    damage_the_manifest: "run.json",
    damage_the_scorers_manifest: "scorer.json",
    damage_all_three: "run.json",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_foreign_file_is_named_and_made_again(tmp_path, damage, caplog):
    folder, other = tmp_path / "run", tmp_path / "other"
    for each in (folder, other):
        score(ROWS, [Length()], each, chunk_size=10)
    damage(folder, other)
    assert not caplog.text
    assert score(ROWS, [Length()], folder, chunk_size=10)["length"][:] == LENGTHS
    assert f"/{DAMAGES[damage]} is damaged" in caplog.text
    caplog.clear()
    assert score(ROWS, [Length()], folder, chunk_size=10)["length"][:] == LENGTHS
    assert not caplog.text, "it was put right"
    entry = read_manifest(folder)["scorers"]["length"]
    assert entry == read_manifest(other)["scorers"]["length"] | {
        "run": entry["run"], "seconds": entry["seconds"],
    }  # fmt: skip


def test_a_run_folder_may_be_copied_and_goes_on_where_the_copy_stood(tmp_path, caplog):
    score(ROWS, [Length()], tmp_path / "run", chunk_size=10)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    chunk(tmp_path / "copy", 3).unlink()
    before = chunk(tmp_path / "copy", 2).stat().st_mtime_ns
    assert score(ROWS, [Length()], tmp_path / "copy", chunk_size=10)["length"][:] == LENGTHS
    assert chunk(tmp_path / "copy", 2).stat().st_mtime_ns == before and not caplog.text


def test_what_dead_writers_left_is_swept(tmp_path):
    score(ROWS, [Length()], tmp_path, chunk_size=10)
    left = [tmp_path / name for name in ("run.json", "length/000001.parquet", "rows/000000.arrow")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.0a1b2c3d4e5f.unfinished").write_text("half of it")
    lease = tmp_path / "length/000001.lease"
    lease.write_text(f"filelock/2\npid={2**22 + 1}\n")
    score(ROWS, [Length()], tmp_path, chunk_size=10)
    assert not list(tmp_path.rglob("*.unfinished"))


READ_ONLY = """
import sys
from datasets import Dataset
from hf_superfilter import Length, TopK, score, select, write_report
from hf_superfilter.cli.app import main

scratch = sys.argv[1]
rows = Dataset.from_parquet(f"{scratch}/rows.parquet", cache_dir=f"{scratch}/cache")
for name, kind in {"table": rows, "stream": rows.to_iterable_dataset()}.items():
    folder = f"{scratch}/run/{name}"
    table = score(kind, [Length()], folder, chunk_size=10)
    selection = select(table, TopK("length", 0.1), run=folder)
    write_report(selection, f"{scratch}/{name}.html")
    print(f"{sum(table['length'][:]):.0f}", len(selection.rows))
try:
    score(rows, [Length()], f"{scratch}/run/unfinished", chunk_size=10)
except OSError as error:
    print(error)
sys.argv = ["hf-superfilter", "inspect", f"{scratch}/run/table"]
main()
"""


def obey_modes():
    """Take from root, before it starts a program, the right to write where it may not."""
    if os.getuid() == 0:
        drop_bound, may_override_modes = 24, 1
        ctypes.CDLL(None).prctl(drop_bound, may_override_modes, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
def test_finished_runs_that_cannot_be_written_are_read_and_unfinished_ones_say_what_is_missing(
    tmp_path,
):
    ROWS.to_parquet(tmp_path / "rows.parquet")
    for name in ("table", "stream", "unfinished"):
        rows = ROWS.to_iterable_dataset() if name == "stream" else ROWS
        score(rows, [Length()], tmp_path / "run" / name, chunk_size=10)
    chunk(tmp_path / "run/unfinished", 3).unlink()
    paths = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-c", READ_ONLY, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=obey_modes)
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode)
    assert done.returncode == 0, done.stderr[-3000:]
    table, stream, error, *inspected = done.stdout.splitlines()
    assert table == stream == f"{sum(LENGTHS):.0f} 6"
    assert "cannot be written, and 1 of the 6 chunks of 'length' are missing" in error
    assert any("length" in line for line in inspected)
    assert (tmp_path / "table.html").exists() and (tmp_path / "stream.html").exists()


def test_a_memory_store_takes_a_setting_too(tmp_path):
    folder = "memory://run-folder-of-one-setting"
    score(ROWS, [Times(1)], folder)
    with pytest.raises(ValueError, match="holds scores named 'times' made with identity"):
        score(ROWS, [Times(2)], folder)
    store = Store(folder)
    store.write("times/000000.parquet", b"damaged")
    assert score(ROWS, [Times(1)], folder)["times"][:] == [number + 1 for number in range(60)]


def test_a_stream_belongs_to_its_run_too(tmp_path):
    stream = IterableDataset.from_generator(ROWS.to_list)
    assert score(stream, [Length()], tmp_path, chunk_size=10)["length"][:] == LENGTHS
    with pytest.raises(ValueError, match="made with identity"):
        score(stream, [Times(1)], tmp_path, chunk_size=10)
        score(stream, [Times(2)], tmp_path, chunk_size=10)
