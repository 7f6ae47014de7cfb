"""All scorers side by side on the embedded sample: `python -m benchmarks.methods_table`.

Its 519 rows carry a category and planted defects. For each scorer: CPU milliseconds a row, and of
the tenth that it keeps the share of longest responses, the median length, the most frequent
category and the planted defects; and Spearman with GPT-2's published IFD on Alpaca. Prints a table
in Markdown; asserts nothing.
"""

import argparse
import time
from collections import Counter

import datasets
import numpy as np
from scipy.stats import spearmanr

from hf_superfilter import (
    IFD,
    AskLLM,
    Combine,
    Density,
    Embed,
    Length,
    NearDuplicates,
    Perplexity,
    RandomSample,
    Threshold,
    TopK,
    format_pairs,
    load_rows,
    select,
)

from .rows import SHARED


def scored(rows, model, folder):
    """All columns, and the CPU seconds of each scorer."""
    seconds = {}
    scorers = [
        IFD(model),
        IFD(model, variant="selective", name="sifd"),
        Perplexity(model),
        AskLLM(model),
        Length(),
        Embed(model),
        Density(repetitions=200, buckets=2_000),
        Combine({"ifd": 1, "ask_llm": 1}),
    ]
    table = rows
    for scorer in scorers:
        start = time.process_time()
        prepare = getattr(scorer, "prepare", None)
        ready = prepare(table, f"{folder}/{scorer.name}") if prepare else scorer
        columns = ready(table[:])
        seconds[scorer.name] = time.process_time() - start
        for name, values in columns.items():
            table = table.add_column(name, list(values))
    return table, seconds


SELECTIONS = {
    "IFD, highest below 1": ("ifd", [Threshold("ifd", below=1.0), TopK("ifd", 0.1)]),
    "IFD selective, highest below 1": ("sifd", [Threshold("sifd", below=1.0), TopK("sifd", 0.1)]),
    "Perplexity, lowest": ("ppl", [TopK("ppl", 0.1, largest=False)]),
    "Perplexity, highest": ("ppl", [TopK("ppl", 0.1)]),
    "AskLLM, highest": ("ask_llm", [TopK("ask_llm", 0.1)]),
    "Combine of IFD and AskLLM": (
        "combined",
        [Threshold("ifd", below=1.0), TopK("combined", 0.1)],
    ),
    "Density, lowest": ("density", [TopK("density", 0.1, largest=False)]),
    "Length, longest": ("length", [TopK("length", 0.1)]),
    "NearDuplicates, then IFD": (
        "ifd",
        [Threshold("ifd", below=1.0), NearDuplicates(by="ifd"), TopK("ifd", 0.1)],
    ),
    "random": (None, [RandomSample(0.1)]),
}


def line(name, table, by, steps, seconds, agreement):
    rows = select(table, steps).rows
    lengths = np.array(table["length"][:])
    longest = set(np.argsort(-lengths, kind="stable")[: len(rows)].tolist())
    category = Counter(table[int(row)]["category"] for row in rows).most_common(1)[0]
    planted = Counter(str(table[int(row)]["planted"]) for row in rows)
    defects = sum(count for kind, count in planted.items() if kind not in ("None", ""))
    cost = f"{1_000 * seconds[by] / len(table):.1f}" if by else "0"
    return (
        f"| {name} | {cost} | {agreement.get(by, float('nan')):.2f} | "
        f"{len(longest & set(rows.tolist())) / len(rows):.2f} | {np.median(lengths[rows]):.0f} | "
        f"{category[0]} {category[1] / len(rows):.0%} | {defects} of {len(rows)} |"
    )


def agreements(model, count, folder):
    """Spearman of each column with GPT-2's published IFD."""
    published = load_rows(SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst")
    rows = published.shuffle(seed=0).select(range(count))
    theirs = np.array(rows["ifd_ppl"][:], dtype=float)
    rows = rows.select_columns(["instruction", "input", "output"])
    table, _ = scored(format_pairs(rows), model, folder)
    found = {}
    for column in ("ifd", "sifd", "ppl", "ask_llm", "combined", "density", "length"):
        ours = np.array(table[column][:], dtype=float)
        good = np.isfinite(ours) & np.isfinite(theirs)
        found[column] = spearmanr(ours[good], theirs[good])[0]
    return found


def main():
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--alpaca", type=int, default=200)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    rows = format_pairs(load_rows("embedded:sample"))
    with tempfile.TemporaryDirectory() as folder:
        table, seconds = scored(rows, options.model, f"{folder}/sample")
        agreement = agreements(options.model, options.alpaca, f"{folder}/alpaca")
    print(Counter(str(kind) for kind in rows["planted"]))
    print(f"median length {np.median(table['length'][:]):.0f}")
    print("| selection of a tenth | ms a row | Spearman | longest | median | category | planted |")
    print("|---|---:|---:|---:|---:|---|---:|")
    for name, (by, steps) in SELECTIONS.items():
        print(line(name, table, by, steps, seconds, agreement))


if __name__ == "__main__":
    main()
