"""A first stage that knows words only, for a promised recall: `python -m benchmarks.stage0`.

The strong scores are published ones: LLaMA-2-13B's perplexity of Dolly, GPT-2's IFD of Alpaca. Each
repetition draws another audit and goes through the same code as `cascade(recall=0.95)`, with
published numbers in place of the strong model. Printed: how often the recall was reached, what the
strong model read, as shares of rows and of text, and the surrogate's own time. Asserts nothing.

`--once`: is the recall kept as often as promised? The surrogate is fitted on 1,000 rows once for 20
repetitions, and not again as rows are read; a repetition then takes no model, and reads more.
`--embedded NAME` adds a chain behind that embedded model's IFD of Alpaca, scored once into
`--folder`.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors import safe_open
from scipy.stats import spearmanr

from hf_superfilter import IFD, score
from hf_superfilter.consistency.recall import read_for_recall
from hf_superfilter.embedded import model_folder
from hf_superfilter.scoring._ngrams import N_FEATURES, TextRanker, text_features

from .rows import SHARED, as_pairs, real_rows

FIT_ROWS = 1_000
REPETITIONS_OF_A_FIT = 20


def dolly():
    """LLaMA-2-13B's perplexity; OPT-350M's stands for a weak model's, at 2.7% of its parameters."""
    rows = [row for row in real_rows("instruct/dolly.jsonl.zst") if row["idx"] is not None]
    with np.load(SHARED / "scores/dolly_ppl.npz") as published:
        numbers = [row["idx"] for row in rows]
        strong, weak = (published[f"{m}/pre"][numbers] for m in ("llama2-13b", "opt-350m"))
    return rows, strong.astype(float), {"OPT-350M's perplexity": (weak.astype(float), 0.35 / 13)}


def alpaca():
    """GPT-2's IFD; only rows below 1 may be kept."""
    rows = real_rows("nc/scores_gpt2_ifd_alpaca.jsonl.zst")
    return rows, np.array([row["ifd_ppl"] or np.nan for row in rows], dtype=float), {}


SETTINGS = {
    "Dolly, lowest perplexity of LLaMA-2-13B": (dolly, -1, math.inf),
    "Dolly, highest perplexity of LLaMA-2-13B": (dolly, 1, math.inf),
    "Alpaca, highest IFD of GPT-2 below 1": (alpaca, 1, 1.0),
}


def cached_features(module, texts):
    """Hash every row once for all repetitions, which changes no number."""
    hashed, statistics = text_features(*texts)
    row_of = {pair: row for row, pair in enumerate(zip(*texts, strict=True))}

    def look_up(prompts, responses):
        rows = [row_of[pair] for pair in zip(prompts, responses, strict=True)]
        return hashed[rows], statistics[rows]

    module.text_features = look_up
    return hashed


def fitted_again(texts, numbers, scores, sign, seed):
    """Predict as `cascade` does: fitted anew on what was read."""
    prompts, responses = texts

    def pick(rows):
        return [prompts[r] for r in rows], [responses[r] for r in rows], numbers[rows]

    def predict(read, unread):
        read = np.random.default_rng(seed).permutation(read[np.isfinite(scores[read])])[:FIT_ROWS]
        ranker = TextRanker(*pick(np.sort(read)), sign * scores[np.sort(read)], seed=seed)
        return ranker.predict(*pick(unread))

    return predict


def fitted_once(texts, numbers, scores, sign, seed):
    """Predict all rows by one fit, those that it was fitted on as if they had been left out."""
    prompts, responses = texts
    shuffled = np.random.default_rng([seed, 7]).permutation(len(scores))
    fit = np.sort(shuffled[np.isfinite(scores[shuffled])][:FIT_ROWS])
    rest = np.setdiff1d(shuffled, fit)

    def pick(rows):
        return [prompts[r] for r in rows], [responses[r] for r in rows], numbers[rows]

    ranker = TextRanker(*pick(fit), sign * scores[fit], seed=seed)
    predicted = np.empty(len(scores))
    predicted[fit], predicted[rest] = ranker.left_out, ranker.predict(*pick(rest))
    return lambda read, unread: predicted[unread]


def repetition(texts, predict, order, options, seed):
    """One cascade; returns its recall, its bound, what was read, and its seconds."""
    started = time.process_time()
    keep = int(options.keep * len(order))
    sample = np.sort(np.random.default_rng(seed).permutation(len(order))[: options.audit])
    reading = read_for_recall(
        lambda rows: order[rows],
        predict,
        len(order),
        keep,
        recall=options.recall,
        confidence=options.confidence,
        sample=sample,
        seed=seed,
    )
    read = ~np.isnan(reading.goodness)
    best = np.argsort(-order, kind="stable")[:keep]
    sizes = np.array([len(p) + len(r) for p, r in zip(*texts, strict=True)])
    return (
        float(read[best].mean()),
        reading.recall_low,
        float(reading.pool.mean()),
        float(read.mean()),
        float(sizes[read].sum() / sizes.sum()),
        time.process_time() - started,
    )


def repetitions(texts, numbers, scores, sign, below, options):
    """All cascades of a chain, one a line."""
    order = np.where(np.isfinite(scores) & (scores < below), sign * scores, -np.inf)
    runs = []
    for seed in range(options.repetitions):
        if not options.once:
            predict = fitted_again(texts, numbers, scores, sign, seed)
        elif seed % REPETITIONS_OF_A_FIT == 0:
            predict = fitted_once(texts, numbers, scores, sign, seed)
        runs.append(repetition(texts, predict, order, options, seed))
    return np.array(runs)


def embedded_scores(texts, model, folder):
    """IFD and perplexities of an embedded model: (n, 3), and its parameters over GPT-2's."""
    rows = Dataset.from_dict({"prompt": texts[0], "response": texts[1]})
    table = score(rows, [IFD(f"embedded:{model}")], folder)
    names = ("ifd", "ifd_ppl", "ifd_ppl_alone")
    weights = Path(model_folder(f"embedded:{model}")) / "model.safetensors"
    with safe_open(weights, "np") as file:
        parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    share = parameters / 124.4e6
    return np.column_stack([np.array(table[name][:], dtype=float) for name in names]), share


def show_agreement(texts, numbers, scores, audit):
    """Spearman with the strong score on rows that were not fitted, and the time a row."""
    usable = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(scores)))
    prompts, responses = (np.array(part, dtype=object) for part in texts)
    for count in (250, audit, 1_000):
        fit, rest = np.split(usable, [count])
        ranker = TextRanker(
            prompts[fit].tolist(), responses[fit].tolist(), numbers[fit], scores[fit]
        )
        started = time.process_time()
        predicted = ranker.predict(prompts[rest].tolist(), responses[rest].tolist(), numbers[rest])
        took = (time.process_time() - started) / len(rest)
        agreement = spearmanr(predicted, scores[rest]).statistic
        text = f"  fitted on {count:>5,} rows: Spearman {agreement:.3f} on the rest"
        print(f"{text}, {1e3 * took:.2f} ms a row")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--keep", type=float, default=0.10)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--audit", type=int, default=500)
    parser.add_argument("--only", default="", help="a part of a setting's name")
    parser.add_argument("--once", action="store_true", help="a surrogate is not fitted again")
    parser.add_argument("--embedded", choices=["weak", "strong"], help="a chain of Alpaca more")
    parser.add_argument("--folder", default="runs/stage0", help="of the embedded model's scores")
    options = parser.parse_args()
    from hf_superfilter.scoring import _ngrams

    for title, (load, sign, below) in SETTINGS.items():
        if options.only not in title:
            continue
        rows, scores, weak = load()
        texts = as_pairs(rows)
        nothing = np.zeros((len(rows), 0))
        print(f"{title}: {len(rows):,} rows", flush=True)
        _ngrams.text_features = text_features
        if not options.once:
            show_agreement(texts, nothing, scores, options.audit)
        hashed = cached_features(_ngrams, texts)
        print(f"  {hashed.nnz / len(rows):.0f} of {3 * N_FEATURES:,} n-grams a row")
        chains = {"words alone": (nothing, 0.0)}
        for name, (numbers, cost) in weak.items():
            chains[f"{name} and words"] = (numbers[:, None], cost)
        if load is alpaca and options.embedded:
            name = f"IFD of embedded:{options.embedded} and words"
            chains[name] = embedded_scores(texts, options.embedded, options.folder)
        for name, (numbers, cost) in chains.items():
            runs = repetitions(texts, numbers, scores, sign, below, options)
            recall, low, pool, read, text, seconds = runs.T
            print(
                f"  {name}: recall {options.recall:.0%} reached in "
                f"{(recall >= options.recall).sum()} of {len(runs)}, mean {recall.mean():.3f}, "
                f"bound {low.mean():.3f}; pool {pool.mean():.1%}; rows read {read.mean():.1%} "
                f"(10-90%: {np.quantile(read, 0.1):.1%} to {np.quantile(read, 0.9):.1%}), "
                f"{text.mean():.1%} of the text; first stage {cost:.1%} of the strong model's time "
                f"and {seconds.mean():.1f} CPU-s, hashing left out",
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
