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
from collections.abc import Callable
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
    Recipe,
    Threshold,
    TopK,
    embedded_model,
    embedded_sample,
    format_pairs,
    load_rows,
    select,
)
from hf_superfilter.cli.demo import CLEANED
from hf_superfilter.recipes.catalogue import packaged_recipes
from hf_superfilter.recipes.entries import build_all
from hf_superfilter.yaml_io import load_yaml

KINDS = ("mismatched", "empty", "truncated", "copied_prompt", "gibberish", "near_duplicate")
BUDGETS = (0.10, 0.30)


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


def spoilt_dolly(count: int, share: float = 0.03) -> tuple[Dataset, dict[int, int]]:
    """Dolly rows of at least 8 words, each defect in its share of them.

    A near duplicate stands beside its origin, whose row number is returned with its own.
    """
    rows = [row for row in dolly(14_000, seed=2) if len(row["output"].split()) >= 8][:count]
    prompts, responses = map(list, as_pairs(rows))
    categories = [row["category"] for row in rows]
    planted, rng, each = [""] * count, random.Random(3), int(count * share)
    origins = {}
    for number, kind in enumerate(KINDS):
        for i in range(number * each, (number + 1) * each):
            prompts[i], responses[i] = spoil(
                prompts[i], responses[i], kind, responses[count // 2 + i], rng
            )
            planted[i] = kind
            if kind == "near_duplicate":
                origins[i] = len(prompts)
                prompts.append(prompts[i]), responses.append(rows[i]["output"])
                planted.append(""), categories.append(categories[i])
    columns = {"prompt": prompts, "response": responses, "planted": planted, "category": categories}
    return Dataset.from_dict(columns), origins


def plain(budget: float) -> list[Callable]:
    return [Threshold("ifd", below=1.0), TopK("ifd", budget)]


def matching(budget: float) -> list[Callable]:
    return [Threshold("prompt_match", above=0.0), *plain(budget)]


def demo(budget: float) -> list[Callable]:
    """The recipe that `hf-superfilter demo` mends plain IFD with, at another budget."""
    entries = load_yaml(CLEANED)
    entries[-1]["PerCluster"]["k"] = budget
    return list(build_all(entries, "select"))


def cleaned(budget: float) -> list[Callable]:
    """The packaged recipe, at another budget."""
    recipe = Recipe.read(packaged_recipes()["superfiltering-cleaned"])
    return [*recipe.select[:-1], TopK("ifd", budget)]


RECIPES = {
    "`ifd < 1`": plain,
    "`ifd < 1`, `prompt_match > 0`": matching,
    "`superfiltering-cleaned`": cleaned,
    "that of `hf-superfilter demo`": demo,
}


def drop_rates(model: str, pairs: Dataset, origins: dict[int, int]) -> dict[str, list[dict]]:
    """Share of each kind that each recipe drops at each budget; `good` is chance.

    Of a near duplicate and its origin a recipe should keep at most one, whichever: a pair counts
    as dropped where one of the two is.
    """
    with tempfile.TemporaryDirectory() as folder:
        match = PromptMatch(model).prepare(pairs, folder)(pairs[:])["prompt_match"]
    scores = IFD(model)(pairs[:])
    table = pairs.add_column("prompt_match", match)
    for name in ("ifd", "ifd_ppl"):
        table = table.add_column(name, scores[name])
    planted = pairs["planted"][:]
    rates: dict[str, list[dict]] = {}
    for recipe in RECIPES.values():
        for budget in BUDGETS:
            kept = set(select(table, recipe(budget)).rows.tolist())
            for kind in ("", *KINDS):
                mine = [i for i, p in enumerate(planted) if p == kind]
                rates.setdefault(kind or "good", []).append(
                    proportion(sum(i not in kept for i in mine), len(mine))
                )
            if origins:
                both = sum({i, origin} <= kept for i, origin in origins.items())
                rates.setdefault("one of such a pair", []).append(
                    proportion(len(origins) - both, len(origins))
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
    dropped = {
        "The sample": drop_rates(model, sample, {}),
        "Dolly, spoilt": drop_rates(model, *spoilt_dolly(count)),
    }
    return {"figures": figures, "dropped": dropped}


def as_cell(share: dict) -> str:
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return f"{value:.0f} ({low:.0f}–{high:.0f})"


def as_text(measured: dict) -> str:
    """The figures as Markdown."""
    lines = ["| figure | value | 95% interval | rows |", "|---|---:|---:|---:|"]
    for name, f in measured["figures"].items():
        lines.append(
            f"| {name} | {f['value']:.2f} | {f['low']:.2f} to {f['high']:.2f} | {f['rows']:,} |"
        )
    for where, rates in measured["dropped"].items():
        title = (
            f"{where}: rows of each kind that a recipe drops, % with 95% intervals. What sees "
            "nothing drops 90 and 70, and one of a pair at least in 99 and 91 of 100:"
        )
        heads = [f"{kind} ({shares[0]['rows']:,})" for kind, shares in rates.items()]
        lines += ["", title, "", f"| recipe | kept | {' | '.join(heads)} |"]
        lines.append("|---|---:" + "|---:" * len(heads) + "|")
        runs = [(recipe, budget) for recipe in RECIPES for budget in BUDGETS]
        for number, (recipe, budget) in enumerate(runs):
            cells = " | ".join(as_cell(shares[number]) for shares in rates.values())
            lines.append(f"| {recipe} | {budget:.0%} | {cells} |")
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
