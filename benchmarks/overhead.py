"""What goes on top of the model: `python -m benchmarks.overhead`. Prints; asserts nothing.

`score` against `map` on the same rows, in turns, in seconds of CPU; what imports cost and the first
score of one row; how long the process lives after its last line.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars

from hf_superfilter import IFD, score

from .rows import as_pairs, real_rows

FIRST = """
import gc
import time
from hf_superfilter.models import first_import
gc.set_threshold(first_import.YOUNG, first_import.NEVER, first_import.NEVER)  # as there
begin, done = time.process_time(), []

def mark(name):
    done.append((name, time.process_time()))

import numpy; mark("numpy")
import torch; mark("torch")
import transformers.modeling_utils; mark("transformers' modeling_utils, and what it imports")
import transformers.models.gpt2.modeling_gpt2; mark("its GPT-2")
first_import.import_transformers()
import hf_superfilter
scorer = hf_superfilter.IFD("embedded:weak"); mark("hf_superfilter")
lm = scorer.language_model(); mark("loading the model and its self-check")
scorer({"prompt": ["Say hello."], "response": ["Hello there, my friend."]}); mark("one row")
import datasets; mark("datasets and pandas, where the rows are a Dataset")
for name, at in done:
    print(f"  {name}: {at - begin:.2f}")
    begin = at
"""
WHOLE = """
import time
from hf_superfilter import IFD
IFD("embedded:weak")({"prompt": ["Say hello."], "response": ["Hello there, my friend."]})
print(time.process_time())
"""
COMMAND = "from hf_superfilter.__main__ import run; run()"


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def start() -> None:
    run = [sys.executable, "-c"]
    kinds = {"env": environment(), "text": True, "check": True, "capture_output": True}
    print("seconds of CPU, by first use:")
    print(subprocess.run([*run, FIRST], **kinds).stdout, end="")
    whole = [float(subprocess.run([*run, WHOLE], **kinds).stdout) for _ in range(3)]
    print(f"import and the score of one row: {np.median(whole):.2f} s of CPU (median of 3)")


def end(scratch: Path, count: int) -> None:
    """Seconds from the last line that the command prints to the end of its process."""
    prompts, responses = as_pairs(real_rows("instruct/dolly.jsonl.zst", count))
    rows = Dataset.from_dict({"prompt": prompts, "response": responses})
    rows.to_json(file := scratch / "rows.jsonl")
    words = ["score", str(file), "--model", "embedded:weak", "--folder", str(scratch / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    last = time.perf_counter()
    for _ in process.stdout:
        last = time.perf_counter()
    process.wait()
    print(f"score of {count} rows: the process ends {time.perf_counter() - last:.2f} s after its")
    print("last line")


def against_map(scratch: Path, count: int, rounds: int) -> None:
    prompts, responses = as_pairs(real_rows("instruct/dolly.jsonl.zst", count))
    Dataset.from_dict({"prompt": prompts, "response": responses}).to_parquet(
        file := scratch / "rows.parquet"
    )
    rows = Dataset.from_parquet(str(file), cache_dir=str(scratch / "cache"))
    scorer = IFD("embedded:weak")
    scorer(rows[:64])

    def mapped(_: Path) -> None:
        rows.map(scorer, batched=True, batch_size=2_048, load_from_cache_file=False)

    def scored(folder: Path) -> None:
        score(rows, [scorer], folder)

    seconds: dict[str, list[float]] = {"map": [], "score": []}
    for number in range(rounds):
        for name, do in (("map", mapped), ("score", scored)):
            begin = time.process_time()
            do(scratch / f"run-{number}")
            seconds[name].append(time.process_time() - begin)
    ratios = np.array(seconds["score"]) / np.array(seconds["map"])
    print(
        f"score against map, {count:,} rows, IFD of embedded:weak, one thread: "
        f"{np.median(seconds['score']):.1f} against {np.median(seconds['map']):.1f} s of CPU, "
        f"{np.median(ratios):.3f} times ({ratios.min():.3f}-{ratios.max():.3f} of {rounds})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["start", "end", "map"])
    asked = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        if asked.only in (None, "start"):
            start()
        if asked.only in (None, "end"):
            end(Path(name), 20)
        if asked.only in (None, "map"):
            against_map(Path(name), asked.rows, asked.rounds)


if __name__ == "__main__":
    main()
