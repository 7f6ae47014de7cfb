"""What many processes cost and gain: `python -m benchmarks.scale`. Prints tables; asserts nothing.

Threads against processes (one process with two threads, two with one each, interleaved), the
balance of four processes on rows sorted by length, the memory of a stream, and the price of the
ledger: what SCALE.md multiplies.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars

from benchmarks.rows import as_pairs, real_rows
from hf_superfilter.runs.chunks import Chunks, layout_of
from hf_superfilter.runs.locks import Leases
from hf_superfilter.runs.manifest import digest_columns
from hf_superfilter.runs.store import Store

# Loads the model and scores a few rows, says that it is ready, and starts when all are.
WORKER = """
import json, os, sys, time
from pathlib import Path
from datasets import Dataset
from hf_superfilter import IFD, score
rows, folder, go, cache = sys.argv[1:5]
table, scorer = Dataset.from_parquet(rows, cache_dir=cache), IFD("embedded:strong", dtype="float32")
scorer(table[:32])
Path(f"{go}.{os.getpid()}").touch()
while not Path(go).exists():
    time.sleep(0.01)
begin = time.time()
score(table, [scorer], folder)
print(json.dumps([begin, time.time()]))
"""
SLEEPER = """
import sys, time
from datasets import Dataset
from hf_superfilter import score

def slow(batch):
    time.sleep(sum(map(len, batch["response"])) * 4e-5)
    return {"slow": [0.0] * len(batch["response"])}

score(Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[3]), [slow], sys.argv[2])
"""
STREAM = """
import sys
from datasets import IterableDataset
from hf_superfilter import Length, TopK, score, select

def rows(count):
    for number in range(count):
        yield {"prompt": "a question " * 20, "response": "an answer " * (number % 30 + 1)}

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

folder, count = sys.argv[1], int(sys.argv[2])
small = IterableDataset.from_generator(rows, gen_kwargs={"count": 20_000})
score(small, [Length()], folder + "/small")
before = anonymous()
large = IterableDataset.from_generator(rows, gen_kwargs={"count": count})
table = score(large, [Length()], folder + "/large")
select(table, TopK("length", 0.1))
print((anonymous() - before) / count)
"""


def start(program: str, *arguments: object, threads: int = 1) -> subprocess.Popen:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def rows_a_second(rows: Path, count: int, folder: Path, processes: int, threads: int) -> float:
    """Rows/s from the common start to the end of the last process."""
    folder.mkdir()
    go = folder / "go"
    workers = [
        start(WORKER, rows, folder / "run", go, folder / "cache", threads=threads)
        for _ in range(processes)
    ]
    while len(list(folder.glob("go.*"))) < processes:
        if any(worker.poll() for worker in workers):
            raise SystemExit("a worker died")
        time.sleep(0.05)
    go.touch()
    times = [json.loads(worker.communicate()[0]) for worker in workers]
    return count / (max(end for _, end in times) - min(begin for begin, _ in times))


def threads_or_processes(scratch: Path, count: int, rounds: int) -> None:
    prompts, responses = as_pairs(real_rows("instruct/dolly.jsonl.zst", count))
    Dataset.from_dict({"prompt": prompts, "response": responses}).to_parquet(
        rows := scratch / "rows.parquet"
    )
    ways = {"1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1)}
    speeds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name, (processes, threads) in ways.items():
            speeds[name].append(
                rows_a_second(rows, count, scratch / f"{number}-{processes}", processes, threads)
            )
    one, two = (np.array(speeds[name]) for name in ways)
    print(
        f"\n| IFD, embedded:strong, float32, {count:,} Dolly rows | rows/s | times (range of "
        f"{rounds}) |"
    )
    print("|---|---:|---:|")
    print(f"| 1 process x 2 threads | {np.median(one):.1f} | 1 |")
    ratios = two / one
    print(
        f"| 2 processes x 1 thread | {np.median(two):.1f} | {np.median(ratios):.2f} "
        f"({ratios.min():.2f}–{ratios.max():.2f}) |"
    )


def balance(scratch: Path) -> None:
    """Four processes on 400 rows sorted by length; each sleeps in proportion to the text, so cores
    do not matter.
    """
    texts = ["x" * (10 + number * 3) for number in range(400)]
    Dataset.from_dict({"prompt": ["?"] * 400, "response": texts}).to_parquet(
        rows := scratch / "sorted.parquet"
    )
    workers = [start(SLEEPER, rows, scratch / "sorted", scratch / "cache") for _ in range(4)]
    for worker in workers:
        worker.wait()
    seconds: dict[str, float] = defaultdict(float)
    for line in map(json.loads, (scratch / "sorted/run.log.jsonl").read_text().splitlines()):
        seconds[line["process"]] += line["seconds"]
    taken = np.array(list(seconds.values()))
    print(
        f"\nSorted by length, {len(taken)} processes: the slowest takes "
        f"{taken.max() / taken.mean():.2f} times the mean"
    )


def stream(scratch: Path, count: int) -> None:
    answer = start(STREAM, scratch / "stream", count).communicate()[0]
    print(
        f"\nA stream of {count:,} rows, scored and selected from: {float(answer):.1f} bytes of "
        "memory a row"
    )


def timed(do: Callable[[], object], times: int) -> float:
    """Milliseconds of one of `times` that are done at once."""
    begin = time.perf_counter()
    do()
    return (time.perf_counter() - begin) * 1_000 / times


def ledger(scratch: Path, chunks_count: int, rows: int) -> None:
    """The price of a chunk of so many rows with IFD's columns, in a folder of so many chunks."""
    store, random = Store(scratch / "ledger"), np.random.default_rng(0)
    chunks = Chunks(store, "ifd", np.arange(0, (chunks_count + 1) * rows, rows))
    columns = {f"ifd{part}": random.random(rows) for part in ("", "_ppl", "_ppl_alone", "_tokens")}
    columns["ifd_status"] = np.array(["ok"] * rows)
    again = Chunks(store, "ifd", chunks.starts)
    facts = {"seconds": 1.0, "tokens": 1.0, "process": "node:1"}
    numbers = range(chunks_count)
    prices = {
        "write": timed(
            lambda: [chunks.write(number, columns, facts) for number in numbers], chunks_count
        )
    }
    size = store.path(chunks.object(0)).stat().st_size
    prices["read and check, once"] = timed(again.pending, chunks_count)
    prices["list once more, when all are known"] = timed(again.pending, chunks_count)
    with Leases(store, "ifd") as leases:
        prices["lease, take and give back"] = timed(
            lambda: [(leases.take(str(n)), leases.release(str(n))) for n in numbers], chunks_count
        )
    prices["merge into one table"] = timed(again.read, chunks_count)
    print(
        f"\n| of one chunk of {rows:,} rows, {size:,} bytes, among {chunks_count:,} | milliseconds "
        "|\n|---|---:|"
    )
    for name, price in prices.items():
        print(f"| {name} | {price:.3f} |")
    prompts, responses = as_pairs(real_rows("instruct/dolly.jsonl.zst"))
    table = Dataset.from_dict({"prompt": prompts, "response": responses})
    megabytes = sum(map(len, prompts + responses)) / 1e6
    for name, do in (
        ("digest", lambda: digest_columns(table, ["prompt", "response"])),
        ("layout", lambda: layout_of(table, 2_048)),
    ):
        print(f"\n{name} of the text: {megabytes / timed(do, 1) * 1_000:,.0f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["threads", "balance", "stream", "ledger"])
    asked = parser.parse_args()
    disable_progress_bars()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        parts = {
            "threads": lambda: threads_or_processes(Path(name), asked.rows, asked.rounds),
            "balance": lambda: balance(Path(name)),
            "stream": lambda: stream(Path(name), 200_000),
            "ledger": lambda: ledger(Path(name), 2_000, 2_048),
        }
        for part, do in parts.items():
            if asked.only in (None, part):
                do()


if __name__ == "__main__":
    main()
