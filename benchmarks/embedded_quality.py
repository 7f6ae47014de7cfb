"""Measure what the embedded models are worth: `python -m benchmarks.embedded_quality`.

They are held to published numbers on data that they never read (LLaMA-2-13B's perplexities on
Dolly, GPT-2's IFD on Alpaca), to the sense of IFD (a true prompt should help its response more than
a stranger's), and to planted defects, on the sample and on Dolly rows spoilt in the same ways.
`--write` writes the figures into the cards. `--quick` reads 600 rows and leaves the planted defects
out: enough to see a training move, not to compare two models that are close. `--folder` measures
any other model folder, such as a checkpoint.
"""

import argparse
import os
import random
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, spearmanr

from benchmarks.rows import SHARED, as_pairs, real_rows

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from datasets import Dataset

from hf_superfilter import (
    IFD,
    Perplexity,
    PromptMatch,
    Threshold,
    TopK,
    embedded_model,
    embedded_sample,
    format_pairs,
    load_rows,
    select,
)

KINDS = ("mismatched", "empty", "truncated", "copied_prompt", "gibberish", "near_duplicate")
BUDGETS = (0.10, 0.30)
FILTERS = {
    "`ifd < 1`": [Threshold("ifd", below=1.0)],
    "`ifd < 1` and `prompt_match > 0`": [
        Threshold("ifd", below=1.0),
        Threshold("prompt_match", above=0.0),
    ],
}


def rank_agreement(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict:
    """Spearman with a 95% bootstrap interval over rows, on rows defined in both."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    rng = np.random.default_rng(seed)
    draws = [
        spearmanr(a[i], b[i]).statistic
        for i in (rng.integers(0, len(a), len(a)) for _ in range(300))
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "value": float(spearmanr(a, b).statistic),
        "low": float(low),
        "high": float(high),
        "rows": len(a),
    }


def proportion(hits: int, count: int) -> dict:
    """A share with its 95% Wilson interval."""
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return {
        "value": hits / count,
        "low": float(interval.low),
        "high": float(interval.high),
        "rows": count,
    }


def ifd_of(model: str, prompts: list[str], responses: list[str]) -> np.ndarray:
    return np.asarray(IFD(model)({"prompt": prompts, "response": responses})["ifd"])


def dolly(count: int, seed: int = 0) -> list[dict]:
    rows = [row for row in real_rows("instruct/dolly.jsonl.zst") if row["idx"] is not None]
    return random.Random(seed).sample(rows, min(count, len(rows)))


def against_llama(model: str, count: int) -> dict[str, dict]:
    """Response perplexity as published: Alpaca template, end of text, 512 tokens."""
    rows = dolly(count)
    published = np.load(SHARED / "scores/dolly_ppl.npz")
    index = np.array([row["idx"] for row in rows])
    pairs = format_pairs(
        Dataset.from_list(rows).select_columns(["instruction", "input", "output"]),
        template="alpaca",
    )
    ours = np.asarray(Perplexity(model, append_eos=True, max_length=512)(pairs[:])["ppl"])
    lengths = np.array([len(row["output"]) for row in rows], dtype=float)
    strong = published["llama2-13b/pre"][index].astype(float)
    return {
        "Spearman of response perplexity with LLaMA-2-13B's (Dolly)": rank_agreement(ours, strong),
        "— the same of OPT-350M": rank_agreement(
            published["opt-350m/pre"][index].astype(float), strong
        ),
        "— the same of (minus) response length": rank_agreement(-lengths, strong),
    }


def true_against_random_prompts(model: str, count: int) -> dict[str, dict]:
    prompts, responses = as_pairs(dolly(count, seed=1))
    others = prompts[1:] + prompts[:1]
    true, other = ifd_of(model, prompts, responses), ifd_of(model, others, responses)
    both = np.isfinite(true) & np.isfinite(other)
    return {
        "share of Dolly rows whose own prompt gives a lower IFD than a random other": proportion(
            int((true < other)[both].sum()), int(both.sum())
        )
    }


def against_gpt2(model: str, count: int) -> dict[str, dict]:
    rows = real_rows("nc/scores_gpt2_ifd_alpaca.jsonl.zst", count)
    prompts, responses = as_pairs(rows)
    published = np.array(
        [np.nan if row["ifd_ppl"] is None else row["ifd_ppl"] for row in rows], dtype=float
    )
    lengths = np.array([len(response) for response in responses], dtype=float)
    return {
        "Spearman of IFD with GPT-2's published IFD (Alpaca)": rank_agreement(
            ifd_of(model, prompts, responses), published
        ),
        "— the same of response length": rank_agreement(lengths, published),
    }


def spoil(prompt: str, response: str, kind: str, other: str, rng: random.Random) -> tuple[str, str]:
    """A row with one of the sample's defects."""
    words = response.split()
    if kind == "mismatched":
        return prompt, other
    if kind == "empty":
        return prompt, ""
    if kind == "truncated":
        return prompt, " ".join(words[: max(2, int(len(words) * rng.uniform(0.2, 0.5)))])
    if kind == "copied_prompt":
        return prompt, prompt.strip()
    if kind == "gibberish":
        return prompt, " ".join(rng.sample(words, len(words)))
    gone = rng.randrange(len(words))
    return prompt, " ".join(words[:gone] + words[gone + 1 :])


def spoilt_dolly(count: int, share: float = 0.03) -> tuple[list[str], list[str], list[str]]:
    """Dolly rows of at least 8 words, each defect in its share of them.

    A near duplicate stands beside its origin.
    """
    rows = [row for row in dolly(14_000, seed=2) if len(row["output"].split()) >= 8][:count]
    prompts, responses = map(list, as_pairs(rows))
    planted, rng, each = [""] * count, random.Random(3), int(count * share)
    for number, kind in enumerate(KINDS):
        for i in range(number * each, (number + 1) * each):
            prompts[i], responses[i] = spoil(
                prompts[i], responses[i], kind, responses[count // 2 + i], rng
            )
            planted[i] = kind
            if kind == "near_duplicate":
                prompts.append(prompts[i]), responses.append(rows[i]["output"]), planted.append("")
    return prompts, responses, planted


def drop_rates(
    model: str, prompts: list[str], responses: list[str], planted: list[str]
) -> dict[str, list[dict]]:
    """Share of each kind that each recipe of `FILTERS` drops at each budget; `good` is chance."""
    pairs = Dataset.from_dict({"prompt": prompts, "response": responses})
    with tempfile.TemporaryDirectory() as folder:
        match = PromptMatch(model).prepare(pairs, folder)(pairs[:])["prompt_match"]
    table = Dataset.from_dict({"ifd": ifd_of(model, prompts, responses), "prompt_match": match})
    rates: dict[str, list[dict]] = {}
    for filters in FILTERS.values():
        for budget in BUDGETS:
            kept = set(select(table, [*filters, TopK("ifd", budget)]).rows.tolist())
            for kind in ("", *KINDS):
                mine = [i for i, p in enumerate(planted) if p == kind]
                rates.setdefault(kind or "good", []).append(
                    proportion(sum(i not in kept for i in mine), len(mine))
                )
    return rates


def measure(model: str, count: int, *, defects: bool = True) -> dict:
    """All figures of one model, those on planted defects by request."""
    figures = against_llama(model, count)
    figures |= true_against_random_prompts(model, count)
    figures |= against_gpt2(model, count)
    if not defects:
        return {"figures": figures, "dropped": {}}
    sample = format_pairs(load_rows(embedded_sample()))
    columns = [sample[name][:] for name in ("prompt", "response", "planted")]
    dropped = {
        "sample": drop_rates(model, *columns),
        "Dolly, spoilt": drop_rates(model, *spoilt_dolly(count)),
    }
    return {"figures": figures, "dropped": dropped}


def as_text(measured: dict) -> str:
    """The figures as Markdown."""
    lines = ["| figure | value | 95% interval | rows |", "|---|---:|---:|---:|"]
    for name, f in measured["figures"].items():
        lines.append(
            f"| {name} | {f['value']:.2f} | {f['low']:.2f} to {f['high']:.2f} | {f['rows']:,} |"
        )
    for where, rates in measured["dropped"].items():
        lines += [
            "",
            f"Dropped by {' or '.join(FILTERS)}, then the top share by IFD ({where}); "
            "a filter that sees nothing drops 90% and 70%:",
            "",
        ]
        heads = [f"{filters}, keep {budget:.0%}" for filters in FILTERS for budget in BUDGETS]
        lines += [f"| kind | rows | {' | '.join(heads)} |", "|---|---:" + "|---:" * 4 + "|"]
        for kind, budgets in rates.items():
            cells = " | ".join(
                f"{b['value']:.0%} ({b['low']:.0%}–{b['high']:.0%})" for b in budgets
            )
            lines.append(f"| {kind} | {budgets[0]['rows']:,} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=3_000, help="rows of Dolly and of Alpaca for each figure"
    )
    parser.add_argument("--only", choices=("weak", "strong"))
    parser.add_argument("--quick", action="store_true", help="600 rows, no planted defects")
    parser.add_argument("--folder", type=Path, help="measure this model folder instead")
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the models' cards"
    )
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("skipped: the real rows of ../shared/data are not here")
        return
    count = 600 if options.quick else options.rows
    names = [options.only] if options.only else ["weak", "strong"]
    folders = [options.folder] if options.folder else [Path(embedded_model(name)) for name in names]
    for folder in folders:
        measured = measure(str(folder), count, defects=not options.quick)
        print(f"\n## {folder.name}\n\n{as_text(measured)}\n", flush=True)
        if options.write:
            from scripts.embedded.card import write_card, write_digests

            (folder / "quality.md").write_text(as_text(measured) + "\n", encoding="utf-8")
            write_card(folder)
            write_digests()


if __name__ == "__main__":
    main()
