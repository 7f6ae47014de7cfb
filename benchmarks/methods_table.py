"""All scorers side by side on all rows at hand: `python -m benchmarks.methods_table`.

Four data sets: the embedded sample (519 rows with a category and planted defects), Dolly (LLaMA-2's
published perplexity), Alpaca (GPT-2's published IFD) and plain texts, half of them bad on purpose.
For each selection: CPU milliseconds a row, Spearman with the published numbers, and of the tenth
that it keeps the length, the most frequent category and the defects. `Language` needs the extra
[language]. Prints tables in Markdown; asserts nothing.
"""

import argparse
import importlib.util
import pickle
import tempfile
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from scipy.stats import spearmanr

from hf_superfilter import (
    IFD,
    AskLLM,
    Classifier,
    Combine,
    Demonstration,
    Density,
    Embed,
    ImplicitReward,
    Language,
    LearningPercentage,
    Length,
    NearDuplicates,
    Perplexity,
    Privacy,
    RandomSample,
    Reasoning,
    Threshold,
    TopK,
    embedded_model,
    format_pairs,
    load_rows,
    select,
)

from .rows import SHARED, real_rows

BELOW = Threshold("ifd", below=1.0)
SELECTIONS = {
    "IFD, highest below 1": ("ifd", [BELOW, TopK("ifd", 0.1)]),
    "IFD selective, highest below 1": ("sifd", [Threshold("sifd", below=1.0), TopK("sifd", 0.1)]),
    "Perplexity, lowest": ("ppl", [TopK("ppl", 0.1, largest=False)]),
    "Perplexity, highest": ("ppl", [TopK("ppl", 0.1)]),
    "AskLLM, highest": ("ask_llm", [TopK("ask_llm", 0.1)]),
    "LearningPercentage, lowest": ("lp_1", [TopK("lp_1", 0.1, largest=False)]),
    "Demonstration, highest": ("demonstration", [TopK("demonstration", 0.1)]),
    "Combine of IFD and AskLLM": ("combined", [BELOW, TopK("combined", 0.1)]),
    "Density, lowest": ("density", [TopK("density", 0.1, largest=False)]),
    "Length, longest": ("length", [TopK("length", 0.1)]),
    "Reasoning, highest perplexity of the answer": (
        "reasoning_answer",
        [TopK("reasoning_answer", 0.1)],
    ),
    "Language above 0.99, then IFD": (
        "language_probability",
        [Threshold("language_probability", above=0.99), BELOW, TopK("ifd", 0.1)],
    ),
    "no Privacy hit, then IFD": (
        "privacy",
        [Threshold("privacy", below=1), BELOW, TopK("ifd", 0.1)],
    ),
    "NearDuplicates, then IFD": ("ifd", [BELOW, NearDuplicates(by="ifd"), TopK("ifd", 0.1)]),
    "random": (None, [RandomSample(0.1)]),
}


def scorers_for(model, held_out, has_prompts):
    """Every scorer that can score the rows, the slow ones only where there are prompts."""
    scorers = [Length(), Privacy(), Perplexity(model), Embed(model)]
    scorers += [Density(repetitions=200, buckets=2_000)]
    if importlib.util.find_spec("py3langid"):
        scorers.append(Language())
    if has_prompts:
        scorers += [
            IFD(model),
            IFD(model, variant="selective", name="sifd"),
            AskLLM(model),
            Combine({"ifd": 1, "ask_llm": 1}),
            Reasoning(model),
            Demonstration(model, on=held_out),
            LearningPercentage("embedded:weak", learning_rate=3e-4, batch_rows=32),
        ]
    else:
        scorers.append(AskLLM(model, prompt="pretraining"))
    return scorers


def scored(rows, scorers, folder, seconds):
    """All columns; the CPU seconds of each scorer are added to `seconds`."""
    table = rows
    for scorer in scorers:
        file = Path(folder) / f"{scorer.name}.pickle"  # a run that was stopped goes on from here
        if file.is_file():
            columns, cost = pickle.loads(file.read_bytes())
        else:
            start = time.process_time()
            prepare = getattr(scorer, "prepare", None)
            ready = prepare(table, f"{folder}/{scorer.name}") if prepare else scorer
            columns = dict(ready(table[:]))
            cost = 1_000 * (time.process_time() - start) / len(rows)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps((columns, cost)))
        seconds.setdefault(scorer.main, []).append(cost)
        for name, values in columns.items():
            table = table.add_column(name, list(values))
    return table


def sample_rows():
    return format_pairs(load_rows("embedded:sample"))


def dolly_rows(count):
    """Dolly rows with the perplexity of LLaMA-2-13B before training."""
    numbers = np.load(SHARED / "scores/dolly_ppl.npz")["llama2-13b/pre"]
    dolly = load_rows(SHARED / "instruct/dolly.jsonl.zst").shuffle(seed=0)
    held_out = dolly.select(range(len(dolly) - 4, len(dolly)))
    rows = dolly.filter(lambda row: row["idx"] is not None).select(range(count))
    published = numbers[np.array(rows["idx"][:], dtype=int)]
    keep = [
        name for name in ("instruction", "input", "output", "category") if name in rows.features
    ]
    return format_pairs(rows.select_columns(keep)), published, format_pairs(held_out)


def alpaca_rows(count):
    """Alpaca rows with GPT-2's IFD."""
    rows = load_rows(SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst").shuffle(seed=0)
    rows = rows.select(range(count))
    published = np.array(rows["ifd_ppl"][:], dtype=float)
    return format_pairs(rows.select_columns(["instruction", "input", "output"])), published


def text_rows(count):
    """The first 1,000 characters of bad texts and of as many good ones, with their kind."""
    bad = real_rows("text/noisy.jsonl.zst")[:: 2_000 // count][:count]
    good = real_rows("text/digitalgov.jsonl.zst")[:count]
    rows = [{"text": row["text"][:1_000], "planted": row["kind"]} for row in bad]
    rows += [{"text": row["text"][:1_000], "planted": None} for row in good]
    return format_pairs(datasets.Dataset.from_list(rows))


def agreement(table, by, published):
    """Spearman with published numbers, "" where a score is missing."""
    if table is None or by not in table.column_names:
        return ""
    ours = np.array(table[by][:], dtype=float)
    both = np.isfinite(ours) & np.isfinite(published)
    return f"{spearmanr(ours[both], published[both])[0]:.2f}".replace("-", "−")


def kept_by(table, steps):
    """The rows that a selection keeps, None where it reads a column that is missing."""
    if table is None:
        return None
    read = [step.by for step in steps if getattr(step, "by", None)]
    if not set(read) <= set(table.column_names):
        return None
    return select(table, steps).rows


def lengths_and_categories(table, rows):
    """Share of longest responses, median length and most frequent category of the kept rows."""
    if rows is None:
        return "| | |"
    lengths = np.array(table["length"][:])
    longest = set(np.argsort(-lengths, kind="stable")[: len(rows)].tolist())
    categories = Counter(table[int(row)]["category"] for row in rows)
    name, count = categories.most_common(1)[0]
    share = len(longest & set(rows.tolist())) / len(rows)
    return f"{share:.2f} | {np.median(lengths[rows]):.0f} | {name} {count / len(rows):.0%}"


def defects(table, rows):
    if rows is None:
        return ""
    kinds = [table[int(row)]["planted"] for row in rows]
    return f"{sum(kind not in (None, '') for kind in kinds)} of {len(rows)}"


def print_costs(model, home):
    """CPU milliseconds a row of the scorers that the table cannot rank by."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        body = embedded_model(model.removeprefix("embedded:"))
        head = AutoModelForSequenceClassification.from_pretrained(body, num_labels=1)
        head.save_pretrained(folder)
        AutoTokenizer.from_pretrained(body).save_pretrained(folder)
        scored(sample_rows(), [Classifier(folder)], home, seconds)
    pairs = format_pairs(load_rows(SHARED / "instruct/lf_dpo_en_demo.jsonl.zst"))
    pairs = pairs.select(range(100)).select_columns(["prompt", "response", "response_rejected"])
    scored(pairs, [ImplicitReward(model, reference="embedded:weak")], home, seconds)
    print({name: round(values[0], 1) for name, values in seconds.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--rows", type=int, default=200, help="of Dolly, of Alpaca and of texts")
    parser.add_argument("--sets", nargs="+", default=["sample", "dolly", "alpaca", "texts"])
    parser.add_argument("--folder", default="runs/methods_table", help="keeps what was scored")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    dolly, llama, held_out = dolly_rows(options.rows)
    alpaca, gpt2 = alpaca_rows(options.rows)
    tables, seconds = {}, {}
    sources = {
        "sample": sample_rows(),
        "dolly": dolly,
        "alpaca": alpaca,
        "texts": text_rows(options.rows // 2),
    }
    for name in options.sets:
        rows = sources[name]
        scorers = scorers_for(options.model, held_out, has_prompts=name != "texts")
        tables[name] = scored(rows, scorers, f"{options.folder}/{name}", seconds)
        print(name, len(rows), f"median {np.median(tables[name]['length'][:]):.0f}", flush=True)
    print(
        "| selection of a tenth | ms a row | Alpaca: GPT-2's IFD | Dolly: LLaMA-2's perplexity | "
        "longest | median | category | sample: defects | texts: bad |\n|---|" + "---:|" * 8
    )
    sample, texts = tables.get("sample"), tables.get("texts")
    for name, (by, steps) in SELECTIONS.items():
        cost = f"{np.median(seconds[by]):.1f}" if by in seconds else ("0" if by is None else "")
        rows = kept_by(sample, steps)
        cells = [
            cost,
            agreement(tables.get("alpaca"), by, gpt2),
            agreement(tables.get("dolly"), by, llama),
            lengths_and_categories(sample, rows),
            defects(sample, rows),
            defects(texts, kept_by(texts, steps)),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print_costs(options.model, options.folder)


if __name__ == "__main__":
    main()
