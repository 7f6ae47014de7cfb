"""Near-duplicates of real data sets, and what they share with benchmarks.

`python -m benchmarks.duplicates` prints both; it asserts nothing.
"""

import json
import tempfile
import time
from pathlib import Path

import datasets

from hf_superfilter import Decontaminate, NearDuplicates, format_pairs, load_rows, select

from .rows import SHARED

ROWS = ("nc/alpaca_46k", "instruct/dolly", "instruct/gsm8k_solutions")
MORE_ROWS = ("instruct/gsm8k_train", "instruct/selfinstruct_user")
SETTINGS = ({}, {"ngram": 8, "share": 0.7})


def pairs(name):
    return format_pairs(load_rows(SHARED / f"{name}.jsonl.zst"))


def benchmark_files(folder):
    """The problems of GSM8K's test split, and the prompts of AlpacaEval without its answers."""
    prompts = sorted(set(load_rows(SHARED / "nc/alpaca_eval.jsonl.zst")["instruction"]))
    path = Path(folder) / "alpaca_eval.jsonl"
    path.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in prompts))
    return [str(SHARED / "instruct/gsm8k_test.jsonl.zst"), str(path)]


def report(name, rows, selector):
    start = time.perf_counter()
    step = select(rows, selector).steps[0]
    seconds = time.perf_counter() - start
    words = {key: value for key, value in selector.settings().items() if key != "against"}
    print(f"{name}, {type(selector).__name__} {words or ''}")
    print(f"    {step.rows_in:,} -> {step.rows_out:,} rows in {seconds:.1f} s")
    for fact, value in step.facts.items():
        print(f"    {fact}: {str(value)[:200]}")


def main():
    datasets.disable_progress_bars()
    for name in ROWS:
        report(name, pairs(name), NearDuplicates())
    with tempfile.TemporaryDirectory() as folder:
        against = benchmark_files(folder)
        for name in (*ROWS, *MORE_ROWS):
            for settings in SETTINGS:
                report(name, pairs(name), Decontaminate(against, **settings))


if __name__ == "__main__":
    main()
