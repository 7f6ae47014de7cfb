"""What Demonstration ranks by, and what a tree saves: `python -m benchmarks.demonstration`.

Dolly rows in front of 32 other Dolly rows: Spearman with the length of the response and with IFD,
the rows of the best tenth, and CPU seconds of the same rows with and without the tree of shared
beginnings. Prints Markdown; asserts nothing.
"""

import argparse
import dataclasses
import time
from collections import Counter

import datasets
import numpy as np
from scipy.stats import spearmanr

from hf_superfilter import IFD, Demonstration, format_pairs, load_rows

from .rows import SHARED


def cpu_seconds(scorer, batch):
    start = time.process_time()
    columns = scorer(batch)
    return time.process_time() - start, columns


def compare_paths(scorer, batch):
    """CPU seconds with shared beginnings and without, and the largest difference."""
    lm = scorer.language_model()
    paths = lm.fast_paths
    scorer({name: column[:2] for name, column in batch.items()})
    with_trees, ours = cpu_seconds(scorer, batch)
    lm.fast_paths = dataclasses.replace(
        paths, paths=tuple(path for path in paths.paths if path != "trees")
    )
    without, plain = cpu_seconds(scorer, batch)
    lm.fast_paths = paths
    difference = np.nanmax(np.abs(ours["demonstration"] - plain["demonstration"]))
    return with_trees, without, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    dolly = load_rows(SHARED / "instruct/dolly.jsonl.zst").shuffle(seed=0)
    held_out = format_pairs(dolly.select(range(1_000, 1_064)))
    rows = format_pairs(dolly.select(range(options.rows)))
    scorer = Demonstration(options.model, on=held_out)
    print(scorer.cost(rows))
    seconds, columns = cpu_seconds(scorer, rows[:])
    gains = columns["demonstration"]
    good = np.isfinite(gains)
    print(f"{1_000 * seconds / len(rows):.0f} CPU ms a row; {good.sum()} scored")
    print(f"median {np.nanmedian(gains):.3f} nats, above 0: {(gains > 0).mean():.1%}")
    print(f"median error {np.nanmedian(columns['demonstration_error']):.3f} nats")
    lengths = np.array([len(text) for text in rows["response"]])
    prompts = np.array([len(text) for text in rows["prompt"]])
    ifd = IFD(options.model)(rows[:])
    others = {
        "response length": lengths,
        "prompt length": prompts,
        "tokens of the row": columns["demonstration_tokens"],
        "IFD": ifd["ifd"],
        "perplexity": ifd["ifd_ppl"],
        "share of rows helped": columns["demonstration_share"],
    }
    print("| Spearman with | demonstration |\n|---|---:|")
    for name, values in others.items():
        both = good & np.isfinite(values)
        print(f"| {name} | {spearmanr(gains[both], values[both])[0]:.2f} |")
    kept = np.argsort(-np.where(good, gains, -np.inf))[: len(rows) // 10]
    print(f"kept: median response {np.median(lengths[kept]):.0f} of {np.median(lengths):.0f}")
    for name, numbers in (("all", range(len(rows))), ("kept", kept)):
        print(name, Counter(rows[int(n)]["category"] for n in numbers).most_common(5))
    for number in kept[:3]:
        print(repr(rows[int(number)]["prompt"][:100]), repr(rows[int(number)]["response"][:100]))
    for model in ("embedded:weak", options.model):
        few = rows.select(range(24))[:]
        timed = compare_paths(dataclasses.replace(scorer, model=model, dtype="float32"), few)
        print(f"{model}: {timed[0]:.1f} s with trees, {timed[1]:.1f} s without, {timed[2]:.1e}")


if __name__ == "__main__":
    main()
