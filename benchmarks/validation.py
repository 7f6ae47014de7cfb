"""Validate selections of real rows: `python -m benchmarks.validation dolly --folder runs/dolly`.

Prints what `docs/validation-trials.md` quotes. Everything is scored and trained here; finished
parts are kept in the folder, and several processes may share it once the rows are scored.
"""

import argparse
import gzip
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rows import SHARED
from hf_superfilter import (
    IFD,
    Density,
    Embed,
    FacilityLocation,
    InversePropensity,
    PerCluster,
    SemDedup,
    Threshold,
    TopK,
    format_pairs,
    load_rows,
    score,
    select,
    validate,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_superfilter import Selection

DATA = {"dolly": ("instruct/dolly.jsonl.zst", 6_000), "alpaca": ("nc/alpaca_46k.jsonl.zst", 10_000)}
TARGET = ("instruct/selfinstruct_user.jsonl.zst", "instruct/selfinstruct_seed.jsonl.zst")
PUBLISHED_LP, PUBLISHED_IFD = (
    "scores/dolly_lp_selected.json.gz",
    "nc/scores_gpt2_ifd_alpaca.jsonl.zst",
)
BASE_ARMS = "selected,random,random-tokens,random-lengths,longest,ppl-high,ppl-low,full,untrained"
HELD_OUT = 1_500
MIDDLE = 50  # the band of perplexity lies around this percentile


def scored(data: str, folder: str, *, vectors: bool) -> "Dataset":
    """Rows drawn by seed 0, scored by both embedded models, and embedded where arms need it.

    `ifd` is the weak model's: it agrees better with large models than the strong one's does.
    """
    file, count = DATA[data]
    pairs = format_pairs(load_rows(SHARED / file), columns=COLUMNS).shuffle(seed=0)
    scorers = [
        IFD("embedded:weak", max_length=512),
        IFD("embedded:strong", max_length=512, name="ifd_strong"),
    ]
    if vectors:
        scorers += [Embed("embedded:weak"), Density()]
    return score(pairs.select(range(count)), scorers, folder)


COLUMNS = {"instruction": "instruction", "input": "input", "output": "output"}


def below_one(table: "Dataset", by: str, k: float) -> "Selection":
    return select(table, [Threshold(by, below=1.0), TopK(by, k)])


def other_arms(table: "Dataset", data: str, k: float, *, vectors: bool) -> dict:
    """Selections of the same share, by other means."""
    half = 50 * k
    band = Threshold("ifd_ppl", above=MIDDLE - half, below=MIDDLE + half, percentiles=True)
    arms = {
        "IFD by strong": below_one(table, "ifd_strong", k),
        "perplexity band": select(table, band),
    }
    if vectors:
        one = Threshold("ifd", below=1.0)
        arms |= {
            "IFD, no near-duplicates": select(
                table, [one, SemDedup(threshold=0.95), TopK("ifd", k)]
            ),
            "IFD per cluster": select(table, [one, PerCluster("ifd", k)]),
            "FacilityLocation": select(table, FacilityLocation(k)),
            "Density": select(table, InversePropensity(k)),
        }
    published = published_rows(table, data, k)
    return arms | published


def published_rows(table: "Dataset", data: str, k: float) -> dict[str, list[int]]:
    """Row numbers of published selections and scores."""
    if data == "dolly":
        with gzip.open(SHARED / PUBLISHED_LP) as file:
            picks = set(json.load(file)["llama2-7b"]["lp1"]["10_low"]) - {-1}
        rows = [row for row, idx in enumerate(table["idx"][:]) if idx in picks]
        return {"published LP, 10%": rows}
    known = load_rows(SHARED / PUBLISHED_IFD).select_columns(["instruction", "input", "ifd_ppl"])
    values = {(row["instruction"], row["input"]): row["ifd_ppl"] for row in known}
    keys = zip(table["instruction"][:], table["input"][:], strict=True)
    ifd = np.array([values.get(key) or np.nan for key in keys], dtype=float)
    ifd[~(ifd < 1)] = -np.inf
    count = min(int(k * len(table)), int(np.isfinite(ifd).sum()))
    return {"published GPT-2 IFD": np.argsort(-ifd, kind="stable")[:count].tolist()}


def target_rows() -> "Dataset":
    from datasets import concatenate_datasets

    parts = [format_pairs(load_rows(SHARED / file), columns=COLUMNS) for file in TARGET]
    return concatenate_datasets([part.select_columns(["prompt", "response"]) for part in parts])


def other_set(data: str, count: int = 500) -> "Dataset":
    """Rows of the other data set, as a second held-out set."""
    (other,) = set(DATA) - {data}
    pairs = format_pairs(load_rows(SHARED / DATA[other][0]), columns=COLUMNS).shuffle(seed=1)
    return pairs.select(range(count)).select_columns(["prompt", "response"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--student", default="embedded:weak")
    parser.add_argument("--budget", type=float, default=0.10)
    parser.add_argument("--arms", default=BASE_ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="of each arm's own rows, not equal steps")
    parser.add_argument("--others", action="store_true", help="more selections")
    parser.add_argument("--vectors", action="store_true", help="those that need embeddings too")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    table = scored(arguments.data, f"{arguments.folder}/scores", vectors=arguments.vectors)
    others = {}
    if arguments.others:
        others = other_arms(table, arguments.data, arguments.budget, vectors=arguments.vectors)
    result = validate(
        below_one(table, "ifd", arguments.budget),
        arguments.student,
        folder=arguments.folder,
        arms=arguments.arms.split(","),
        others=others,
        sets={
            f"other source ({'alpaca' if arguments.data == 'dolly' else 'dolly'})": other_set(
                arguments.data
            )
        },
        target=target_rows(),
        held_out=HELD_OUT,
        seeds=arguments.seeds,
        epochs=arguments.epochs,
    )
    print(result)
    text = json.dumps(result.facts, indent=1, ensure_ascii=False)
    name = f"{arguments.student.split(':')[-1]}-{arguments.budget:g}.json"
    Path(arguments.folder, name).write_text(text)


if __name__ == "__main__":
    main()
