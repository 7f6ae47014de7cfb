"""Which scorer tells clean text from which kind of noise: `python -m benchmarks.separation`. Prints
a Markdown table.

Clean are the documents from which noise was made; the embedded models never read them. A cell is
the AUC, the
probability that a clean document, drawn at random, is scored as better than one of that kind: 1
tells them apart, 0.5 is chance, 0 prefers the noise. Scores are kept in a run folder, so that a
second run, or one with a scorer more, only does what is missing.
"""

import argparse
import math
import os
import random
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import rows as beside

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from datasets import Dataset

from hf_superfilter import AskLLM, Density, Embed, Length, Perplexity, score

CLEAN = ("digitalgov", "openstax")
# Title -> scorers, column, and the sign that makes high good. A scorer more is a line more.
COLUMNS = {
    "perplexity, weak": ([Perplexity("embedded:weak", name="ppl_weak")], "ppl_weak", -1),
    "perplexity, strong": ([Perplexity("embedded:strong", name="ppl_strong")], "ppl_strong", -1),
    "Ask-LLM, weak": ([AskLLM("embedded:weak", name="ask_weak")], "ask_weak", 1),
    "Ask-LLM, strong": ([AskLLM("embedded:strong", name="ask_strong")], "ask_strong", 1),
    "the same, yes against no": ([], "ask_strong_relative", 1),
    "density": ([Embed("embedded:weak"), Density()], "density", 1),
    "length": ([Length()], "length", 1),
}


def documents(clean: int, each: int, seed: int = 0) -> Dataset:
    """Clean documents, and some of every kind of noise, as rows without a prompt."""
    noisy, rng = beside.real_rows("text/noisy.jsonl.zst"), random.Random(seed)
    bases = {row["base"] for row in noisy}
    sources = [
        row
        for name in CLEAN
        for row in beside.real_rows(f"text/{name}.jsonl.zst")
        if row["id"] in bases
    ]
    chosen = [("clean", row["text"]) for row in rng.sample(sources, min(clean, len(sources)))]
    for kind in sorted({row["kind"] for row in noisy}):
        mine = [row["text"] for row in noisy if row["kind"] == kind]
        chosen += [(kind, text) for text in rng.sample(mine, min(each, len(mine)))]
    return Dataset.from_list(
        [{"kind": kind, "prompt": "", "response": text} for kind, text in chosen]
    )


def auc(clean: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The AUC and half of its 95% interval (Hanley and McNeil, 1982); ties count half, undefined
    values as worst.
    """
    a, b = np.nan_to_num(clean, nan=-math.inf), np.nan_to_num(noise, nan=-math.inf)
    above = (a[:, None] > b).mean() + (a[:, None] == b).mean() / 2
    q1, q2, n, m = above / (2 - above), 2 * above**2 / (1 + above), len(a), len(b)
    variance = (above * (1 - above) + (n - 1) * (q1 - above**2) + (m - 1) * (q2 - above**2)) / (
        n * m
    )
    return float(above), 1.96 * math.sqrt(max(variance, 0.0))


def as_text(table: Dataset) -> str:
    """The table of AUCs as Markdown."""
    kinds, values = (
        np.array(table["kind"][:]),
        {title: s * np.array(table[c][:]) for title, (_, c, s) in COLUMNS.items()},
    )
    lines = [
        "| clean against | rows | " + " | ".join(COLUMNS) + " |",
        "|---|---:|" + "---:|" * len(COLUMNS),
    ]
    averages: dict[str, list[float]] = {title: [] for title in COLUMNS}
    for kind in sorted(set(kinds.tolist()) - {"clean"}):
        cells = []
        for title, column in values.items():
            value, half = auc(column[kinds == "clean"], column[kinds == kind])
            averages[title].append(value)
            cells.append(f"{value:.2f} ±{half:.2f}")
        lines.append(f"| {kind} | {(kinds == kind).sum()} | " + " | ".join(cells) + " |")
    lines.append(
        f"| mean of kinds | {len(table)} | "
        + " | ".join(f"{np.mean(a):.2f}" for a in averages.values())
        + " |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=int, default=400, help="clean documents")
    parser.add_argument("--each", type=int, default=100, help="documents of each kind of noise")
    parser.add_argument("--folder", type=Path, help="run folder to keep the scores in")
    options = parser.parse_args()
    if not beside.SHARED.is_dir():
        print("skipped: the real documents of ../shared/data are not here")
        return
    rows = documents(options.clean, options.each)
    scorers = [scorer for several, _, _ in COLUMNS.values() for scorer in several]
    with tempfile.TemporaryDirectory() as scratch:
        print(as_text(score(rows, scorers, options.folder or scratch)))


if __name__ == "__main__":
    main()
