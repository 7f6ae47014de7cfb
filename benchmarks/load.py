"""What memory and time the steps take on many rows: `python -m benchmarks.load`.

Every step runs in a process of its own, first on a few rows so that imports do not count, then on
all. Printed are CPU-seconds, microseconds of them a row, and how far two numbers rose above what
they were before: anonymous memory, which the system cannot take back, and all resident memory, in
which the pages of mapped files stand too. Rows of about 300 bytes, and 500 MB in rows of 100 kB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub_server import HubServer

SHORT, LONG = 250, 100_000  # characters of a response
BATCH_BYTES = 10_000_000  # of text written at once
MODEL_ROWS = 1_000  # that a model scores
WIDTH = 64  # of the vectors that one scorer adds

STEP = """
import sys
from benchmarks.load import measure_step
measure_step(*sys.argv[1:])
"""


class Peak(threading.Thread):
    """Watch the peaks of a process's memory, anonymous and resident."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = memory()
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.002):
            self.peak = np.maximum(self.peak, memory())

    def stop(self):
        self.ended.set()
        self.join()
        return np.maximum(self.peak, memory()) - self.before


def memory():
    """Return this process's anonymous and resident bytes."""
    status = Path("/proc/self/status").read_text()
    sizes = [status.split(f"{name}:")[1].split()[0] for name in ("RssAnon", "VmRSS")]
    return np.array([int(size) * 1024 for size in sizes])


def write_rows(path, rows, characters):
    """Write rows of random words to an Arrow file, a few at a time."""
    random = np.random.default_rng(0)
    words = np.array([f"w{number:04d}" for number in range(10_000)])
    schema = pa.schema({"prompt": pa.string(), "response": pa.string()})
    step = max(BATCH_BYTES // characters, 1)
    with pa.ipc.new_stream(str(path), schema) as file:
        for start in range(0, rows, step):
            count = min(step, rows - start)
            drawn = words[random.integers(0, len(words), (count, characters // 6))]
            texts = [" ".join(row.tolist()) for row in drawn]
            prompts = [f"What are the words of row {start + row}?" for row in range(count)]
            file.write_table(pa.table({"prompt": prompts, "response": texts}, schema=schema))


def vectors(batch):
    """Return a vector for each response, the sum of two of a random table."""
    table = np.random.default_rng(0).normal(size=(1_024, WIDTH)).astype(np.float32)
    places = np.array([zlib.crc32(text.encode()) for text in batch["response"]])
    return {"embedding": table[places % 1_024] + table[places // 1_024 % 1_024] / 4}


def measure_step(step, rows_file, folder, name):
    """Run one step on a few rows, then on all, and print what the second one took."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    table = Dataset.from_file(rows_file)
    if step == "score, IFD":
        table = table.select(range(MODEL_ROWS))
    steps = {
        "score": _score,
        "score, vectors": _score_vectors,
        "score, IFD": _score_model,
        "score again": _score,
        "select": _select,
        "report": _report,
        "write_repo": _write_repo,
        "publish": _publish,
        "PerCluster, vectors": _per_cluster,
        "SemDedup, vectors": _sem_dedup,
    }
    few = Path(folder) / f"few of {step}"
    few.mkdir(parents=True)
    small = few / "rows.arrow"
    table.select(range(min(len(table), 1_000))).save_to_disk(small)
    for prepare in (Dataset.load_from_disk(small), table):
        call = steps[step](prepare, few if prepare is not table else Path(folder), name)
        peak, before = Peak(), sum(os.times()[:2])
        peak.start()
        call()
        seconds = sum(os.times()[:2]) - before
        anonymous, resident = peak.stop()
    print(
        f"| {step} | {len(table):,} | {seconds:.1f} | {seconds / len(table) * 1e6:,.1f} "
        f"| {anonymous / 1e6:,.0f} | {resident / 1e6:,.0f} |"
    )


def _score(table, folder, name):
    from hf_superfilter import Length, score

    return lambda: score(table, [Length()], folder / "run")


def _score_vectors(table, folder, name):
    from hf_superfilter import score

    return lambda: score(table, [vectors], folder / "vectors")


def _score_model(table, folder, name):
    from hf_superfilter import IFD, score

    return lambda: score(table, [IFD("embedded:weak")], folder / "ifd")


def _selection(table, folder):
    from hf_superfilter import Length, Threshold, TopK, score, select

    scored = score(table, [Length()], folder / "run")
    return select(scored, [Threshold("length", above=1), TopK("length", 0.5)], run=folder / "run")


def _select(table, folder, name):
    from hf_superfilter import Length, Threshold, TopK, score, select

    scored = score(table, [Length()], folder / "run")
    return lambda: select(scored, [Threshold("length", above=1), TopK("length", 0.5)])


def _report(table, folder, name):
    from hf_superfilter import write_report

    selection = _selection(table, folder)
    return lambda: write_report(selection, folder / "report.html")


def _write_repo(table, folder, name):
    from hf_superfilter import write_repo

    selection = _selection(table, folder)
    return lambda: write_repo(selection, folder / "repo", pairs=True)


def _publish(table, folder, name):
    from hf_superfilter import publish

    selection = _selection(table, folder)
    repo = f"me/{name}" if "few" not in folder.name else "me/few"
    return lambda: publish(selection, repo, pairs=True)


def _per_cluster(table, folder, name):
    from hf_superfilter import PerCluster, score, select

    scored = score(table, [vectors], folder / "vectors")
    return lambda: select(scored, PerCluster(None, 0.1))


def _sem_dedup(table, folder, name):
    from hf_superfilter import SemDedup, score, select

    scored = score(table, [vectors], folder / "vectors")
    return lambda: select(scored, SemDedup(0.1))


def run_steps(steps, scratch, rows, characters, environment):
    """Write rows and run steps on them, each in a process of its own."""
    name = f"rows-{rows}-{characters}"
    folder = scratch / name
    folder.mkdir()
    write_rows(folder / "rows.arrow", rows, characters)
    for step in steps:
        arguments = [step, folder / "rows.arrow", folder, name]
        command = [sys.executable, "-c", STEP, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
        print("\n".join(lines) or done.stderr[-2_000:], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--long", type=int, default=500, help="MB of long texts")
    parser.add_argument("--no-clusters", action="store_true", help="leave k-means out")
    asked = parser.parse_args()
    steps = ["score", "score again", "select", "report", "write_repo", "publish"]
    short = [*steps, "score, vectors"]
    if not asked.no_clusters:
        short += ["PerCluster, vectors", "SemDedup, vectors"]
    with tempfile.TemporaryDirectory() as name, HubServer() as hub:
        environment = hub.environment(Path(name) / "home")
        environment |= {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| step | rows | CPU-seconds | µs a row | MB anonymous | MB resident |")
        print("|---|---:|---:|---:|---:|---:|")
        for rows in asked.rows:
            model = ["score, IFD"] if rows <= 10_000 else []
            run_steps(short + model, Path(name), rows, SHORT, environment)
        if asked.long:
            run_steps(steps, Path(name), asked.long * 10**6 // LONG, LONG, environment)


if __name__ == "__main__":
    main()
