"""Learning percentage by an embedded model, held to LLaMA-2-13B's published one on the same rows of
Dolly.

`python -m benchmarks.learning_percentage FOLDER` fine-tunes `embedded:strong` for 3 epochs on 2,000
rows and prints tables; `--learning-rate`, `--batch-rows` and `--model` try other settings, each in
a folder of its own. The rows and the published perplexities lie in ../shared/data, beside the
project.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import rows as shared
from hf_superfilter import LearningPercentage, format_pairs, rank_consistency, score
from hf_superfilter.data.columns import numbers_of
from hf_superfilter.runs.manifest import read_manifest

if TYPE_CHECKING:
    from datasets import Dataset

STRONG, SMALLEST = "llama2-13b", "opt-350m"


def dolly(count: int, seed: int = 0) -> "Dataset":
    """Random rows of Dolly that have a place in the published scores, in the paper's template."""
    from datasets import Dataset

    known = [row for row in shared.real_rows("instruct/dolly.jsonl.zst") if row["idx"] is not None]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(known))[:count])
    kept = [
        {key: known[i][key] for key in ("idx", "instruction", "input", "output")}
        for i in drawn.tolist()
    ]
    return format_pairs(Dataset.from_list(kept), "alpaca", template="alpaca")


def published(model: str, idx: np.ndarray) -> dict[str, np.ndarray]:
    """A model's published LP(1), LP_app and first perplexity of the same rows; nan where it is
    undefined.
    """
    scores = np.load(shared.SHARED / "scores/dolly_ppl.npz")
    before, first, last = (
        scores[f"{model}/{epoch}"][idx].astype(float) for epoch in ("pre", "ep1", "ep3")
    )
    before[before == 1] = np.nan  # rows without a scored token were given perplexity 1
    learned = np.where(before == last, np.nan, before - last)
    return {"lp_1": (before - first) / learned, "lp_app": (before - first) / before, "ppl": before}


def table(
    title: str, target: np.ndarray, ours: dict[str, np.ndarray], largest: bool = False
) -> None:
    print(
        f"\n{title}\n\n| by | rows | Spearman | overlap of the lowest 10% (chance 0.10) "
        "|\n|---|---:|---:|---:|"
    )
    for name, values in ours.items():
        found = rank_consistency(values, target, largest=largest)
        cells = [
            f"{found[k]:.2f} ({found[k + '_low']:.2f} to {found[k + '_high']:.2f})"
            for k in ("spearman", "overlap@0.10")
        ]
        print(f"| {name} | {found['pairs']:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--batch-rows", type=int, default=128)
    options = parser.parse_args()
    if not shared.SHARED.is_dir():
        print("skipped: the published scores of ../shared/data are not here")
        return
    rows = dolly(options.rows)
    scorer = LearningPercentage(
        options.model, learning_rate=options.learning_rate, batch_rows=options.batch_rows
    )
    began = time.perf_counter()
    scored = score(rows, [scorer], options.folder)
    if scored is None:
        return
    entry = read_manifest(options.folder)["scorers"]["lp"]
    made = entry["made_with"]
    print(
        f"{scorer!r} on {len(rows):,} rows: {made['training_steps']} steps in "
        f"{made['training_seconds']:.0f} s, scored "
        f"4 times in {entry['seconds']:.0f} s ({time.perf_counter() - began:.0f} s now), "
        f"{made['threads']} thread(s)"
    )
    losses = (
        next(iter(sorted(options.folder.glob("lp/prepared-*/loss.jsonl")))).read_text().splitlines()
    )
    by_epoch = np.array_split([json.loads(line)["loss"] for line in losses], scorer.epochs)
    print("mean loss by epoch:", ", ".join(f"{part.mean():.3f}" for part in by_epoch))
    medians = [
        np.nanmedian(numbers_of(scored, f"lp_ppl_{number}")) for number in range(scorer.epochs + 1)
    ]
    print("median perplexity:", ", ".join(f"{value:.1f}" for value in medians))
    print("lp_1:", entry["beyond"], entry["status"])
    idx = np.array(scored["idx"][:])
    lengths = np.array([len(text) for text in scored["response"][:]], dtype=float)
    small, strong = published(SMALLEST, idx), published(STRONG, idx)
    for column in ("lp_1", "lp_app"):
        ours = {
            f"{options.model}, {column}": numbers_of(scored, column),
            "response length, longest lowest": -lengths,
            f"perplexity before training, {options.model}, highest lowest": -numbers_of(
                scored, "lp_ppl_0"
            ),
            f"{SMALLEST}'s published {column}": small[column],
        }
        table(f"{column} against {STRONG}'s published one", strong[column], ours)
    own = {
        "response length, longest lowest": -lengths,
        "perplexity before training": -numbers_of(scored, "lp_ppl_0"),
    }
    table("lp_1 of our own against", numbers_of(scored, "lp_1"), own)


if __name__ == "__main__":
    main()
