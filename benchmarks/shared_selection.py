"""Near-duplicates and contamination of many short rows, by one process and by two on one folder.

`python -m benchmarks.shared_selection --rows 1000000` writes rows of two Alpaca instructions each,
one in a hundred of them a copy with a word changed, and searches them for copies and for the test
problems of GSM8K. Every process prints the CPU-seconds of the part that processes share and of the
part that each does for itself, and by how much its anonymous memory rose; the rows kept have to be
the same. Asserts nothing but that.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from .load import Peak
from .rows import SHARED, real_rows

BATCH = 10_000
COPIES = 100  # one row in so many is a copy of the row before


def write_rows(path, count):
    """Write rows of two random instructions each, some of them copies of the row before."""
    texts = np.array([row["instruction"] for row in real_rows("nc/alpaca_46k.jsonl.zst")])
    random = np.random.default_rng(0)
    schema = pa.schema({"prompt": pa.string(), "response": pa.string()})
    with pa.ipc.new_stream(str(path), schema) as file:
        for start in range(0, count, BATCH):
            drawn = texts[random.integers(0, len(texts), (min(BATCH, count - start), 2))]
            drawn[COPIES - 1 :: COPIES] = drawn[COPIES - 2 :: COPIES]
            prompts, responses = drawn.T.tolist()
            for place in range(COPIES - 1, len(responses), COPIES):
                responses[place] += " Please."
            file.write_table(pa.table({"prompt": prompts, "response": responses}, schema=schema))


def measure(rows_file, folder):
    """Select in a run folder, and print what it took as JSON."""
    from datasets import Dataset, disable_progress_bars

    from hf_superfilter import Decontaminate, NearDuplicates
    from hf_superfilter.recipes.row_columns import row_columns, select_in_run

    disable_progress_bars()
    rows = Dataset.from_file(rows_file)
    selectors = [Decontaminate([str(SHARED / "instruct/gsm8k_test.jsonl.zst")]), NearDuplicates()]
    few = rows.select(range(1_000))  # imports do not count
    select_in_run(few, selectors, f"{folder}-few-{os.getpid()}")
    peak = Peak()
    peak.start()
    start = time.process_time()
    columns = row_columns(rows, selectors, folder)
    shared = time.process_time() - start
    selection = select_in_run(rows, selectors, folder, columns=columns)
    facts = {
        "shared": round(shared, 1),
        "own": round(time.process_time() - start - shared, 1),
        "anonymous_mb": round(peak.stop()[0] / 1e6),
        "kept": len(selection),
        "digest": hashlib.sha256(selection.rows.tobytes()).hexdigest()[:16],
        "facts": [str(step.facts)[:200] for step in selection.steps],
    }
    print(json.dumps(facts))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure(*options.worker)
        return
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        rows_file = f"{folder}/rows.arrow"
        write_rows(rows_file, options.rows)
        for processes in options.processes:
            worker = ["--worker", rows_file, f"{folder}/run-{processes}"]
            command = [sys.executable, "-m", "benchmarks.shared_selection", *worker]
            start = time.perf_counter()
            running = [
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                for _ in range(processes)
            ]
            results = [json.loads(process.communicate()[0]) for process in running]
            seconds = time.perf_counter() - start
            print(f"{options.rows:,} rows, {processes} process(es), {seconds:.0f} s on the clock")
            for result in results:
                print(f"    {result}", flush=True)
            digests |= {result["digest"] for result in results}
    processor = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].split("\n")[0]
    print(f"the same rows in all: {len(digests) == 1}; {processor}")


if __name__ == "__main__":
    main()
