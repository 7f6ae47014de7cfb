"""What starts our scorers besides score(): wrong launchers, workers of map, Ray."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from processes import Forked
from test_readme import ROOT, blocks

from hf_superfilter import IFD

RECIPE = """
dataset: embedded:sample
score:
  - Length
select:
  - TopK: {by: length, k: 0.15}
"""
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run(command, folder, **environment):
    """A Python command in a folder, with one thread, outside the launcher of this test if any."""
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    clean |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")} | environment
    command = [sys.executable, *map(str, command)]
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, timeout=900
    )


# Launchers


def test_a_world_size_that_no_launcher_stands_behind_is_refused(refused, monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    Path("recipe.yaml").write_text(RECIPE)
    error = refused("run", "recipe.yaml")
    missing = "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    assert f"WORLD_SIZE is 2, but {missing} are not set" in error


def test_accelerate_launch_on_cpus_starts_one_process_which_expect_processes_refuses(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2]
    command = ["-m", "hf_superfilter", "run", "recipe.yaml", "--expect-processes"]
    done = run([*launch, *command, 2], tmp_path)
    assert done.returncode != 0
    assert "2 processes were expected, and 1 started" in done.stderr
    assert "torchrun --nproc-per-node 2" in done.stderr


# Dataset.map

WORKERS = """
import torch
from datasets import disable_progress_bars
from hf_superfilter import IFD, embedded_sample, format_pairs, load_rows

if __name__ == "__main__":
    disable_progress_bars()
    rows = format_pairs(load_rows(embedded_sample())).select(range(16))
    rows.to_parquet("rows.parquet")
    rows = rows.from_parquet("rows.parquet")  # map keeps results of rows that lie in a file
    scorer = IFD("embedded:weak", dtype="float32")
    alone = scorer(rows[:])["ifd"].tolist()  # and torch's threads are at work in the parent
    several = rows.map(scorer, batched=True, num_proc=2)
    again = rows.map(scorer, batched=True, num_proc=2)
    pairs = zip(alone, several["ifd"][:], strict=True)
    equal = all(abs(one - two) < 1e-5 or one != one and two != two for one, two in pairs)
    print(equal, again.cache_files == several.cache_files)
"""


def test_workers_of_map_neither_hang_nor_score_again_what_is_cached(tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    # Threads that wait asleep leave the two processors to the workers.
    done = run(["workers.py"], tmp_path, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


LAUNCHED_MAP = """
from hf_superfilter import IFD, embedded_sample, format_pairs, load_rows
from hf_superfilter.runs import distributed

distributed._warn_that_all_score_all.cache_clear()  # this process was forked from others' tests
rows = format_pairs(load_rows(embedded_sample())).select(range(8))
scored = rows.map(IFD("embedded:weak"), batched=True, batch_size=2, load_from_cache_file=False)
assert len(scored["ifd"]) == 8
"""


def test_map_in_a_launch_scores_every_row_and_says_once_what_shares_them(tmp_path):
    (tmp_path / "launched.py").write_text(LAUNCHED_MAP)
    launch = Forked(["launched.py"], tmp_path, processes=2)
    assert launch.wait(timeout=300) == 0
    warning = "each of the 2 launched processes scores every row: hf_superfilter.score("
    assert launch.errors.read_text().count(warning) == 2, "once in each process"


# Ray

RAY = """
import ray
ray.init(num_cpus=2, include_dashboard=False)
{block}
selection.table.to_parquet("table.parquet")
selection.subset.to_parquet("subset.parquet")
print(sorted(scores.columns()))
"""


@pytest.mark.slow
def test_ray_data_scores_with_our_scorers_as_they_are(tmp_path, sample):
    pytest.importorskip("ray", reason="pip install hf-superfilter[ray]")
    (tmp_path / "pairs").mkdir()
    sample.to_parquet(tmp_path / "pairs/rows.parquet")
    (tmp_path / "ray_data.py").write_text(
        RAY.format(block=blocks("py", ROOT / "docs/scaling.md")[0])
    )
    done = run(["ray_data.py"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = (
        sample.map(IFD("embedded:weak"), batched=True),
        pq.read_table(tmp_path / "table.parquet").to_pydict(),
    )
    assert done.stdout.strip().endswith(
        str(sorted(set(mine.column_names) - set(sample.column_names)))
    )
    assert (
        theirs["response"] == mine["response"][:] and theirs["ifd_status"] == mine["ifd_status"][:]
    )
    np.testing.assert_allclose(
        theirs["ifd"], mine["ifd"][:], rtol=2e-2
    )  # bfloat16, in other batches
    assert pq.read_metadata(tmp_path / "subset.parquet").num_rows == 51
