"""What shared beginnings save: `python -m benchmarks.prefixes`. Prints a table; asserts nothing.

Rows with one prompt and many responses, scored with and without trees of tokens, interleaved in one
process. Compare CPU-seconds: machines are shared and noisy. `embedded:strong`, and a random model
of GPT-2's 124M shape on fewer rows.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.rows import as_pairs, gpt2_shaped, real_rows
from hf_superfilter import CausalLM
from hf_superfilter.models.prefix_tree import families
from hf_superfilter.models.tokenization import Window

DATA = ("instruct/gsm8k_solutions.jsonl.zst", "nc/alpaca_eval.jsonl.zst")


def possible(lm: CausalLM, windows: list[Window]) -> tuple[float, float]:
    """Shares saved of the tokens, and of the products with weights: the vocabulary reads scored
    positions alone.
    """
    scored = [window for window in windows if window.scored]
    tokens = sum(len(window.ids) for window in scored)
    saved = families([window.ids for window in scored])[1].sum() / tokens
    head = lm.model.get_input_embeddings().weight.numel()
    layers = sum(w.numel() for w in lm.model.get_decoder().parameters() if w.ndim == 2) - head
    return saved, saved * layers / (
        layers + head * sum(window.scored for window in scored) / tokens
    )


def measure(lm: CausalLM, windows: list[Window], rounds: int) -> tuple[float, float, float]:
    """Shares saved of the CPU-seconds and of the wall time; the largest relative difference."""
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    nats = {}
    fast_paths = lm.fast_paths
    without_trees = replace(fast_paths, paths=tuple(set(fast_paths.paths) - {"trees"}))
    for _ in range(rounds):
        for shares in times:
            lm.fast_paths = fast_paths if shares else without_trees
            start, busy = time.perf_counter(), time.process_time()
            nats[shares] = lm.losses(windows)[0]
            times[shares].append((time.process_time() - busy, time.perf_counter() - start))
    cpu, wall = 1 - np.median(np.array(times[True]) / np.array(times[False]), axis=0)
    return float(cpu), float(wall), float(np.nanmax(np.abs(nats[True] / nats[False] - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=120, help="of each data set; a sixth of it for the large model"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    print(
        "| model | rows of | scorer | tokens saved | products saved | CPU-s saved | wall saved | "
        "largest difference |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, model, rows in (
            ("embedded:strong", "embedded:strong", args.rows),
            ("GPT-2 124M shape", gpt2_shaped(Path(folder)), args.rows // 6),
        ):
            lm = CausalLM(model, dtype=args.dtype)
            for data in DATA:
                pairs = lm.windows(*as_pairs(real_rows(data, rows)))
                given = [pair.given for pair in pairs]
                for scorer, windows in (
                    ("perplexity", given),
                    ("IFD", given + [pair.alone for pair in pairs]),
                ):
                    tokens, products = possible(lm, windows)
                    cpu, wall, off = measure(lm, windows, args.rounds)
                    print(
                        f"| {name}, {str(lm.dtype).removeprefix('torch.')} | {rows} of "
                        f"{data.split('.')[0]} | {scorer} "
                        f"| {tokens:.1%} | {products:.1%} | {cpu:.1%} | {wall:.1%} | {off:.0e} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
