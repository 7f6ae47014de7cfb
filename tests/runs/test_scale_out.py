"""Many processes on one run folder: launched, by hand, frozen, killed; stores without leases."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from processes import Forked

from hf_superfilter import Length, score
from hf_superfilter.runs.store import Store

SCORE = """
import resource, signal, sys, time
from datasets import Dataset
from hf_superfilter import Length, score
from hf_superfilter.runs import chunks, locks
locks.LEASE, chunks.MAX_BYTES, chunks.MIN_BYTES = 1.5, 4_000, 2_000

def slow(batch):
    time.sleep(sum(map(len, batch["response"])) * {per_byte})
    lengths = [float(len(text)) for text in batch["response"]]
    return {{"slow": lengths, "slow_seen": batch["length"]}}

rows = Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[3])
if len(sys.argv) > 4:  # a disk with little room
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    table = score(rows, [Length(), slow], sys.argv[2])
except OSError as error:
    sys.exit(str(error))  # a traceback would not fit into the file of errors either
if table is not None:
    table.to_parquet(sys.argv[2].removeprefix("file://") + "/table.parquet")
"""
IFD_OF_ROWS = """
import sys
import numpy as np
from datasets import Dataset
from hf_superfilter import IFD, score
from hf_superfilter.runs import chunks, locks
locks.LEASE, chunks.MAX_BYTES, chunks.MIN_BYTES = 1.5, 8_000, 2_000

rows = Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[3])
table = score(rows, [IFD("embedded:weak", dtype="float32")], sys.argv[2])
if table is None:  # not the main process of a launch
    sys.exit()
columns = [table[name][:] for name in ("ifd", "ifd_ppl", "ifd_tokens")]
np.save(sys.argv[2] + "/scores.npy", np.stack(columns))
"""
RECIPE = """
dataset: embedded:sample
score:
  - IFD: {model: "embedded:weak", dtype: float32}
select:
  - TopK: {by: ifd, k: 0.15}
"""


def environment(tmp_path):
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def program(tmp_path):
    """Write the program that scores, and the rows; answer the command line for a folder."""

    def write(responses, per_byte=2e-5):
        (tmp_path / "program.py").write_text(SCORE.format(per_byte=per_byte))
        Dataset.from_dict({"prompt": ["?"] * len(responses), "response": responses}).to_parquet(
            tmp_path / "rows.parquet"
        )
        return lambda folder: [
            tmp_path / "program.py",
            tmp_path / "rows.parquet",
            folder,
            tmp_path / "cache",
        ]

    return write


STARTED = []


@pytest.fixture(autouse=True)
def _no_process_stays():
    """End what a failed test left running: a process frozen or waiting for another."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def fork(command, tmp_path, **launch):
    """Run a program in a process forked from this one, or in several as torchrun does."""
    STARTED.append(Forked(command, tmp_path, environment=environment(tmp_path), **launch))
    return STARTED[-1]


def torchrun(command, tmp_path):
    """Run a program in two processes by the command, whose errors go to a file: a pipe could fill,
    and be left open.
    """
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone")
    with (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *map(str, [*launcher, *command])],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    process.errors = tmp_path / "errors.txt"
    STARTED.append(process)
    return process


def ended(process):
    """Wait for a process, and answer its exit code and its errors."""
    return process.wait(timeout=300), process.errors.read_text()


def done(process):
    code, errors = ended(process)
    assert code == 0, errors[-3000:]


def until(seen, process):
    while not seen():
        assert process.poll() is None, process.errors.read_text()[-3000:]
        time.sleep(0.01)


def log_of(folder, scorer):
    if not (Path(folder) / "run.log.jsonl").exists():
        return []
    lines = [json.loads(line) for line in (Path(folder) / "run.log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["scorer"] == scorer]


def whole(folder, responses):
    """The table is there once, in order, and the second scorer saw the columns of the first."""
    table = pq.read_table(Path(folder) / "table.parquet")
    assert table.column("response").to_pylist() == responses
    lengths = [float(len(text)) for text in responses]
    assert table.column("slow").to_pylist() == table.column("slow_seen").to_pylist() == lengths


@pytest.fixture(scope="session")
def few(sample):
    """Rows that three processes share for some seconds."""
    return sample.select(range(160))


def ifd_program(folder, rows):
    """Write the program that scores rows by IFD; answer its command line for one run folder."""
    rows.to_parquet(folder / "rows.parquet")
    (folder / "program.py").write_text(IFD_OF_ROWS)
    return [folder / "program.py", folder / "rows.parquet", folder / "run", folder / "cache"]


@pytest.fixture(scope="session")
def single(tmp_path_factory, few):
    """The scores that one process with one thread gives, as bytes."""
    folder = tmp_path_factory.mktemp("single")
    done(fork(ifd_program(folder, few), folder))
    return (folder / "run/scores.npy").read_bytes()


def test_two_launched_processes_are_two_and_give_the_table_of_one(tmp_path, few, single):
    done(fork(ifd_program(tmp_path, few), tmp_path, processes=2))
    assert len({line["process"] for line in log_of(tmp_path / "run", "ifd")}) == 2
    assert len(list((tmp_path / "run/ifd").glob("*.parquet"))) > 4
    assert (tmp_path / "run/scores.npy").read_bytes() == single, "bit for bit"


def test_another_number_of_processes_than_expected_is_refused(refused, monkeypatch, tmp_path):
    Path("recipe.yaml").write_text(RECIPE)
    said = refused("run", "recipe.yaml", "--expect-processes", 2)
    assert (
        said.startswith("2 processes were expected, and 1 started")
        and "torchrun --nproc-per-node 2" in said
    )


def test_one_of_three_is_frozen_and_the_others_finish_without_it(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(300)]
    command = program(responses, per_byte=1e-4)(tmp_path / "run")
    processes = [fork(command, tmp_path) for _ in range(3)]
    until(lambda: list((tmp_path / "run").glob("slow/*.lease")), processes[0])
    processes[0].send_signal(signal.SIGSTOP)
    done(processes[1])
    done(processes[2])
    whole(tmp_path / "run", responses)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGCONT)
    done(processes[0])
    whole(tmp_path / "run", responses)
    assert not list((tmp_path / "run").rglob("*.lease"))


MOMENTS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]


@pytest.mark.parametrize("seed", MOMENTS)
def test_one_of_three_killed_at_a_random_moment_costs_its_chunk(tmp_path, seed, few, single):
    moment = random.Random(seed)
    command = ifd_program(tmp_path, few)
    processes = [fork(command, tmp_path) for _ in range(3)]
    until(lambda: list((tmp_path / "run").glob("ifd/*.lease")), processes[0])
    time.sleep(moment.uniform(0, 3))
    victim = processes.pop(moment.randrange(3))
    victim.kill()
    victim.wait()
    for process in processes:
        done(process)
    assert (tmp_path / "run/scores.npy").read_bytes() == single, "bit for bit that of one process"
    assert not list((tmp_path / "run").rglob("*.lease"))


def test_a_damaged_chunk_is_named_and_scored_again_by_one_of_several(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(100)]
    command = program(responses)(tmp_path / "run")
    done(fork(command, tmp_path))
    finished = {path: path.read_bytes() for path in (tmp_path / "run/slow").glob("*.parquet")}
    damaged, *others = finished
    damaged.write_bytes(finished[damaged][:-100])
    both = [fork(command, tmp_path) for _ in range(2)]
    codes, errors = zip(*map(ended, both), strict=True)
    assert codes == (0, 0)
    assert any(f"slow/{damaged.name} is damaged" in text for text in errors)
    whole(tmp_path / "run", responses)
    assert all(path.read_bytes() == finished[path] for path in others)
    assert pq.read_table(damaged).equals(pq.read_table(pa.BufferReader(finished[damaged])))


def test_a_full_disk_stops_one_with_a_sentence_and_the_others_finish(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(200)]
    command = program(responses, per_byte=1e-4)(tmp_path / "run")
    full = fork([*command, 1_000], tmp_path)  # no file of more than 1,000 bytes
    other = fork(command, tmp_path)
    code, errors = ended(full)
    assert code == 1
    assert "could not be written" in errors and "make room and run the same command again" in errors
    done(other)
    whole(tmp_path / "run", responses)
    suffixes = {path.suffix for path in (tmp_path / "run/slow").iterdir()}
    assert suffixes == {".parquet", ".json"}, "nothing half-written stays"


@pytest.fixture
def two_nodes(tmp_path):
    """Start a command as one run of two nodes that meet on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    nodes = {"min_nodes": 2, "max_nodes": 2, "run_id": "test", "rdzv_endpoint": meeting}
    return lambda command, **more: [
        fork(command, tmp_path, processes=1, launcher=nodes | more) for _ in range(2)
    ]


def test_two_nodes_with_one_folder_are_one_run(tmp_path, program, two_nodes):
    responses = ["x" * (100 + number % 700) for number in range(100)]
    for node in two_nodes(program(responses, per_byte=2e-4)(tmp_path / "run")):
        done(node)
    whole(tmp_path / "run", responses)
    assert len({line["process"] for line in log_of(tmp_path / "run", "slow")}) == 2


@pytest.mark.slow
def test_two_nodes_go_on_after_a_process_was_killed_twice(tmp_path, program, two_nodes):
    responses = ["x" * (100 + number % 700) for number in range(200)]
    both = two_nodes(program(responses, per_byte=1e-4)(tmp_path / "run"), max_restarts=3)
    for finished in (1, 3):
        until(lambda finished=finished: len(log_of(tmp_path / "run", "slow")) >= finished, both[0])
        os.kill(
            int(log_of(tmp_path / "run", "slow")[-1]["process"].rsplit(":", 1)[1]), signal.SIGKILL
        )
    for node in both:
        done(node)
    whole(tmp_path / "run", responses)


def test_torchrun_starts_again_after_a_process_was_killed(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(200)]
    command = program(responses, per_byte=1e-4)(tmp_path / "run")
    launcher = fork(command, tmp_path, processes=2, launcher={"max_restarts": 2})
    until(lambda: log_of(tmp_path / "run", "slow"), launcher)
    victim = log_of(tmp_path / "run", "slow")[0]["process"].rsplit(":", 1)[1]
    os.kill(int(victim), signal.SIGKILL)
    done(launcher)
    whole(tmp_path / "run", responses)
    assert len({line["process"] for line in log_of(tmp_path / "run", "slow")}) > 2


def test_a_killed_launcher_costs_nothing_that_was_finished(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(200)]
    command = program(responses, per_byte=1e-4)(tmp_path / "run")
    launcher = torchrun(command, tmp_path)
    until(lambda: list((tmp_path / "run").glob("slow/*.parquet")), launcher)
    launcher.kill()
    finished = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/slow").glob("*.parquet")
    }
    done(fork(command, tmp_path))
    launcher.wait()
    whole(tmp_path / "run", responses)
    assert finished
    for name, modified in finished.items():
        assert (tmp_path / "run/slow" / name).stat().st_mtime_ns == modified


@pytest.mark.slow  # seconds are compared, which a busy machine may spoil
def test_on_rows_sorted_by_length_the_slowest_of_four_takes_little_more_than_the_mean(
    tmp_path, program
):
    responses = sorted(("x" * (10 + number * 3) for number in range(400)), key=len)
    command = program(responses, per_byte=4e-5)(tmp_path / "run")
    done(fork(command, tmp_path, processes=4))
    taken = defaultdict(float)
    for line in log_of(tmp_path / "run", "slow"):
        taken[line["process"]] += line["seconds"]
    assert len(taken) == 4
    assert max(taken.values()) <= 1.15 * sum(taken.values()) / 4, taken


def test_without_exclusive_creation_two_processes_share_and_sweep(tmp_path, program):
    responses = ["x" * (100 + number % 700) for number in range(100)]
    (tmp_path / "run").mkdir()
    done(fork(program(responses)(f"file://{tmp_path / 'run'}"), tmp_path, processes=2))
    whole(tmp_path / "run", responses)
    assert not list((tmp_path / "run").rglob("*.lease"))


def test_a_run_folder_may_be_a_url(sample):
    table = score(sample, [Length()], "memory://runs/url", chunk_size=100)
    log = [
        json.loads(line)
        for line in Store("memory://runs/url").read("run.log.jsonl").decode().splitlines()
    ]
    assert len(log) > 5 and sum(line["rows"] for line in log) == len(sample)
    assert table["length"][:] == [float(len(text)) for text in sample["response"]]
    assert (
        score(sample, [Length()], "memory://runs/url", chunk_size=100)["length"][:]
        == table["length"][:]
    )
