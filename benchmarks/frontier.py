"""Quality against coverage of `FacilityLocation(k, quality="ifd", weight=)` on real rows.

`python -m benchmarks.frontier` prints a table and writes benchmarks/frontier.png; it asserts
nothing. Beside it stand the two-step selection of Superfiltering.D and random rows.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np
from matplotlib.figure import Figure

from hf_superfilter import (
    IFD,
    Embed,
    FacilityLocation,
    RandomSample,
    Threshold,
    TopK,
    format_pairs,
    load_rows,
    select,
)

from .rows import SHARED

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


def scored(name, count, model):
    rows = load_rows(SHARED / name).shuffle(seed=0).select(range(count))
    pairs = format_pairs(rows)
    table = pairs.map(IFD(model), batched=True, batch_size=512)
    table = table.map(Embed(model), batched=True, batch_size=512)
    pool = [Threshold("ifd", below=1.0), Threshold("embedding_tokens", above=0)]
    return table.select(select(table, pool).rows)


def measures(table, rows):
    """Coverage of all rows by those kept, and their mean rank by IFD."""
    vectors = np.array(table["embedding"][:], dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    coverage = np.maximum(vectors @ vectors[rows].T, 0).max(axis=1).mean()
    ranks = np.argsort(np.argsort(table["ifd"][:])) / len(table)
    return float(coverage), float(ranks[rows].mean())


def draw(points, others, path):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p[1] for p in points], [p[0] for p in points], marker="o", label="one goal")
    for weight, (coverage, quality) in zip(WEIGHTS, points, strict=True):
        axes.annotate(f"{weight:g}", (quality, coverage), xytext=(4, 4), textcoords="offset points")
    for name, (coverage, quality) in others.items():
        axes.plot([quality], [coverage], marker="s", linestyle="none", label=name)
    axes.set_xlabel("mean rank by IFD of the rows kept")
    axes.set_ylabel("coverage of all rows")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--model", default="embedded:weak")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    table = scored("instruct/dolly.jsonl.zst", options.rows, options.model)
    print(f"{len(table):,} Dolly rows with IFD below 1, {options.model}, a tenth kept")
    points = []
    for weight in WEIGHTS:
        rows = select(table, FacilityLocation(0.1, quality="ifd", weight=weight)).rows
        points.append(measures(table, rows))
        print(f"weight {weight:4}: coverage {points[-1][0]:.4f}, quality {points[-1][1]:.4f}")
    others = {
        "best fifth by IFD, then coverage": [TopK("ifd", 0.2), FacilityLocation(0.1)],
        "best tenth by IFD": TopK("ifd", 0.1),
        "at random": RandomSample(0.1),
    }
    others = {name: measures(table, select(table, step).rows) for name, step in others.items()}
    for name, (coverage, quality) in others.items():
        print(f"{name}: coverage {coverage:.4f}, quality {quality:.4f}")
    draw(points, others, Path(__file__).with_name("frontier.png"))


if __name__ == "__main__":
    main()
