"""All scorers side by side on all rows at hand: `python -m benchmarks.methods_table`.

Six sets of rows: the embedded sample (519 rows with a category and planted defects), Alpaca
(GPT-2's published IFD), Dolly (LLaMA-2-13B's published perplexity and LP(1)), rows that a language
model judged, answers to one prompt of which GPT-4 preferred one, and plain texts, half of them bad
on purpose. Every scorer runs on every set that it can read. Two scorers need a model that is not at
hand: `Classifier` gets a linear head on the embedded model, fitted to 300 judged rows that are not
in the table; `ImplicitReward` takes the two embedded models, which no preference ever trained.

`Language` needs the extra [language]. Prints tables in Markdown; asserts nothing. A run that was
stopped goes on from what `--folder` holds.
"""

import argparse
import importlib.util
import pickle
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

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
    FacilityLocation,
    ImplicitReward,
    Language,
    LearningPercentage,
    Length,
    NearDuplicates,
    Perplexity,
    Privacy,
    PromptMatch,
    RandomSample,
    Reasoning,
    Surrogate,
    Threshold,
    TopK,
    embedded_model,
    format_pairs,
    load_rows,
    select,
)

from .learning_percentage import STRONG, published
from .preferences import alpaca_eval
from .rows import SHARED, real_rows

FITTED = 300  # judged rows that the head of the classifier is fitted to
CHARACTERS = 1_000  # of a plain text, and of a judged row or an answer at most
COUNTS = {"texts": 100, "alpaca": 100, "dolly": 200, "judged": 100, "answers": 120}  # rows
BELOW = Threshold("ifd", below=1.0)


class Method(NamedTuple):
    """A selection of a tenth.

    Attributes:
        steps: its selectors.
        by: the score whose agreement is measured, None for a filter.
        cost: the name of the scorer whose cost is shown.
        sign: -1 where low scores are kept.
    """

    steps: list
    by: str | None
    cost: str | None
    sign: int = 1


def highest(by, first=(), cost=None):
    return Method([*first, TopK(by, 0.1)], by, cost or by)


def lowest(by, cost=None):
    return Method([TopK(by, 0.1, largest=False)], by, cost or by, -1)


def filtered(cost, *first):
    return Method([*first, BELOW, TopK("ifd", 0.1)], None, cost)


METHODS = {
    "`IFD`, highest below 1": highest("ifd", [BELOW]),
    "`IFD` selective, highest below 1": highest("sifd", [Threshold("sifd", below=1.0)]),
    "`Perplexity`, lowest": lowest("ppl"),
    "`Perplexity`, highest": highest("ppl"),
    "`AskLLM`, highest": highest("ask_llm"),
    "`LearningPercentage`, lowest": lowest("lp_1", "lp"),
    "`Demonstration`, highest": highest("demonstration"),
    "`Surrogate` of IFD, highest": highest("surrogate"),
    "`Classifier` (head fitted here), highest": highest("classifier"),
    "`ImplicitReward` of the chosen answer": Method([], "implicit_reward", "implicit_reward"),
    "`Combine` of IFD and AskLLM": highest("combined", [BELOW]),
    "`Reasoning`, highest perplexity of the answer": highest("reasoning_answer", cost="reasoning"),
    "`Density`, lowest": lowest("density"),
    "`Embed`, then `FacilityLocation`": Method([FacilityLocation(0.1)], None, "embedding"),
    "`Length`, longest": highest("length"),
    "`Language` above 0.99, then IFD": filtered(
        "language", Threshold("language_probability", above=0.99)
    ),
    "no `Privacy` hit, then IFD": filtered("privacy", Threshold("privacy", below=1)),
    "`PromptMatch` above 0, then IFD": filtered(
        "prompt_match", Threshold("prompt_match", above=0.0)
    ),
    "`NearDuplicates`, then IFD": filtered(None, NearDuplicates(by="ifd")),
    "at random": Method([RandomSample(0.1)], None, None),
}


def scorers_for(name, model, head, held_out):
    """Every scorer that can read the rows of a set."""
    if name == "pairs":
        return [ImplicitReward(model, reference="embedded:weak")]
    scorers = [Length(), Privacy(), Perplexity(model), Embed(model), Classifier(head)]
    scorers += [Density(repetitions=200, buckets=2_000)]
    if importlib.util.find_spec("py3langid"):
        scorers.append(Language())
    if name == "texts":
        return [*scorers, AskLLM(model, prompt="pretraining"), Surrogate("ppl", model, sample=50)]
    scorers += [
        IFD(model),
        IFD(model, variant="selective", name="sifd"),
        AskLLM(model),
        Combine({"ifd": 1, "ask_llm": 1}),
        Reasoning(model),
        PromptMatch("embedded:weak"),
        Surrogate("ifd", model, sample=100),
    ]
    if name == "answers":  # a training on both answers of a pair would tell nothing of either
        return scorers
    training = LearningPercentage("embedded:weak", learning_rate=3e-4, batch_rows=32)
    return [*scorers, training, Demonstration(model, on=held_out)]


def scored(rows, scorers, folder, costs):
    """Add all columns, and the CPU milliseconds a row of each scorer to `costs`."""
    table = rows
    for scorer in scorers:
        file = Path(folder) / f"{scorer.name}.pickle"
        if file.is_file():
            columns, cost = pickle.loads(file.read_bytes())
        else:
            columns, cost = timed(scorer, table, f"{folder}/{scorer.name}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps((columns, cost)))
            print(f"{folder} {scorer.name} {cost:.1f} ms a row", flush=True)
        costs[scorer.name] = cost
        for name, values in columns.items():
            table = table.add_column(name, list(values))
    return table


def timed(scorer, table, folder):
    """Score the rows with a model that is loaded; return columns and CPU milliseconds a row."""
    prepare = getattr(scorer, "prepare", None)
    if prepare is None:
        scorer(table[:2])
    start = time.process_time()
    ready = prepare(table, folder) if prepare else scorer
    columns = dict(ready(table[:]))
    return columns, 1_000 * (time.process_time() - start) / len(table)


def alpaca_rows(count):
    """Alpaca rows, with GPT-2's IFD."""
    rows = load_rows(SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst").shuffle(seed=0)
    rows = rows.select(range(count))
    reference = np.array(rows["ifd_ppl"][:], dtype=float)
    return format_pairs(rows.select_columns(["instruction", "input", "output"])), reference


def dolly_rows(count):
    """Dolly rows in the prompt of the published scores, those scores, and rows held out."""
    dolly = load_rows(SHARED / "instruct/dolly.jsonl.zst").shuffle(seed=0)
    dolly = dolly.filter(lambda row: row["idx"] is not None)
    scores = published(STRONG, np.array(dolly["idx"][:count], dtype=int))
    pairs = format_pairs(
        dolly.select_columns(["instruction", "input", "output"]), "alpaca", template="alpaca"
    )
    held_out = pairs.select(range(len(pairs) - 4, len(pairs)))
    return pairs.select(range(count)), scores, held_out


def judged_rows(count):
    """Rows with the mean of seven marks that a language model gave, and others to fit a head to."""
    rows = load_rows(SHARED / "scores/oda_judge.jsonl.zst").shuffle(seed=0)
    marks = np.array([np.mean(list(row.values())) for row in rows["judge_QA"]])
    pairs = format_pairs(rows.select_columns(["instruction", "input", "output"]))
    first = pairs.select(range(FITTED)), marks[:FITTED]
    lengths = np.array([len(row["prompt"]) + len(row["response"]) for row in pairs])
    short = FITTED + np.flatnonzero(lengths[FITTED:] <= CHARACTERS)[:count]
    return pairs.select(short), marks[short], first


def answer_rows(count):
    """Answers of `count` pairs: those that GPT-4 preferred, then the others."""
    pairs = alpaca_eval(10 * count)
    pairs = pairs.filter(lambda row: sum(map(len, row.values())) <= 2 * CHARACTERS)
    pairs = pairs.select(range(count))
    answers = [*pairs["chosen"], *pairs["rejected"]]
    rows = {"instruction": [*pairs["prompt"]] * 2, "input": [""] * (2 * count), "output": answers}
    return format_pairs(datasets.Dataset.from_dict(rows)), format_pairs(pairs)


def text_rows(count):
    """Bad texts and as many good ones, with their kind."""
    bad = real_rows("text/noisy.jsonl.zst")[:: 2_000 // count][:count]
    good = real_rows("text/digitalgov.jsonl.zst")[:count]
    rows = [{"text": row["text"][:CHARACTERS], "planted": row["kind"]} for row in bad]
    rows += [{"text": row["text"][:CHARACTERS], "planted": ""} for row in good]
    return format_pairs(datasets.Dataset.from_list(rows))


def fitted_head(model, pairs, marks, folder):
    """Fit a linear head on a model's last hidden state to marks, by ridge regression.

    Returns:
        The folder of a sequence-classification model of one output.
    """
    import torch
    from sklearn.linear_model import RidgeCV
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if (folder / "config.json").is_file():
        return str(folder)
    body = embedded_model(model.removeprefix("embedded:"))
    tokenizer = AutoTokenizer.from_pretrained(body)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        body, num_labels=1, dtype=torch.float32
    ).eval()
    states = []
    for row in pairs:
        text = f"{row['prompt'].rstrip()}\n{row['response']}"
        batch = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.no_grad():
            states.append(classifier.base_model(**batch).last_hidden_state[0, -1])
    ridge = RidgeCV(np.logspace(-3, 5, 17)).fit(torch.stack(states).numpy(), marks)
    with torch.no_grad():
        classifier.score.weight.copy_(torch.from_numpy(ridge.coef_)[None])
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def numbers(table, by):
    """Return a column as numbers, None where the table lacks it."""
    if table is None or by is None or by not in table.column_names:
        return None
    return np.array(table[by][:], dtype=float)


def agreement(table, by, reference, sign=1):
    """Spearman of a score with reference numbers, "" where it is missing or all alike."""
    ours = numbers(table, by)
    if ours is None:
        return ""
    both = np.isfinite(ours) & np.isfinite(reference)
    if len(set(ours[both])) < 2:
        return ""
    return f"{sign * spearmanr(ours[both], reference[both])[0]:.2f}".replace("-", "−")


def preferred(table, by, sign):
    """Share of pairs in which the score prefers the answer that GPT-4 does."""
    ours = numbers(table, by)
    if ours is None:
        return ""
    gaps = sign * (ours if by == "implicit_reward" else np.subtract(*np.split(ours, 2)))
    decided = gaps[np.isfinite(gaps) & (gaps != 0)]
    return f"{np.mean(decided > 0):.0%}"


def kept_by(table, method):
    """The rows that a selection keeps, None where it has none or reads a column that is missing."""
    read = {getattr(step, name, None) for step in method.steps for name in ("by", "column")}
    if table is None or not method.steps or not read - {None} <= set(table.column_names):
        return None
    return select(table, method.steps).rows


def thirds(table, rows):
    """Shares of the kept rows among the shortest, middle and longest third of all responses."""
    order = np.argsort(np.array(table["length"][:]), kind="stable")
    third = np.empty(len(table), dtype=int)
    third[order] = np.arange(len(table)) * 3 // len(table)
    counts = np.bincount(third[rows], minlength=3)
    return " / ".join(f"{100 * count / len(rows):.0f}" for count in counts)


def categories(table, rows):
    """The categories with the most and the fewest rows beyond their share, kept for expected."""
    share = len(rows) / len(table)
    all_rows = Counter(table["category"][:])
    kept = Counter(table.select(rows)["category"][:])
    excess = sorted(all_rows, key=lambda name: kept[name] - share * all_rows[name])
    named = [f"{name} {kept[name]} for {share * all_rows[name]:.0f}" for name in excess]
    return f"{named[-1]} | {named[0]}"


def defects(table, rows):
    """How many kept rows have a planted defect, and which."""
    kinds = Counter(kind for kind in table.select(rows)["planted"][:] if kind)
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return f"{kinds.total()}{f' ({listed})' if listed else ''}"


def print_table(tables, references, costs):
    print(
        "| selection of a tenth | ms a row | Alpaca: GPT-2's IFD | Dolly: LLaMA-2's perplexity | "
        "Dolly: LLaMA-2's LP(1) | judged rows | GPT-4's choice | short / middle / long, % | "
        "most beyond its share | least | defects kept | bad texts |\n|---|" + "---:|" * 11
    )
    sample, texts = tables.get("sample"), tables.get("texts")
    for name, method in METHODS.items():
        cost = costs["sample"].get(method.cost, costs["pairs"].get(method.cost))
        by, sign = method.by, method.sign
        rows, bad = kept_by(sample, method), kept_by(texts, method)
        pairs = "pairs" if by == "implicit_reward" else "answers"
        cells = [
            "" if cost is None else f"{cost:.1f}",
            agreement(tables.get("alpaca"), by, references["alpaca"]),
            agreement(tables.get("dolly"), by, references["dolly"]["ppl"]),
            agreement(tables.get("dolly"), by, references["dolly"]["lp_1"]),
            agreement(tables.get("judged"), by, references["judged"], sign),
            preferred(tables.get(pairs), by, sign),
            "" if rows is None else thirds(sample, rows),
            " | " if rows is None else categories(sample, rows),
            "" if rows is None else defects(sample, rows),
            "" if bad is None else f"{defects(texts, bad).split(' ')[0]} of {len(bad)}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    names = ["sample", "texts", "alpaca", "dolly", "judged", "answers", "pairs"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--sets", nargs="+", default=names, choices=names)
    parser.add_argument("--folder", default="runs/methods_table", help="keeps what was scored")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    folder = Path(options.folder)
    alpaca, gpt2 = alpaca_rows(COUNTS["alpaca"])
    dolly, llama, held_out = dolly_rows(COUNTS["dolly"])
    judged, marks, first = judged_rows(COUNTS["judged"])
    answers, pairs = answer_rows(COUNTS["answers"] // 2)
    sources = {
        "sample": format_pairs(load_rows("embedded:sample")),
        "texts": text_rows(COUNTS["texts"] // 2),
        "alpaca": alpaca,
        "dolly": dolly,
        "judged": judged,
        "answers": answers,
        "pairs": pairs,
    }
    references = {"alpaca": gpt2, "dolly": llama, "judged": marks}
    head = fitted_head(options.model, *first, folder / "head")
    tables, costs = {}, {"sample": {}, "pairs": {}}
    for name in options.sets:
        rows = sources[name]
        scorers = scorers_for(name, options.model, head, held_out)
        tables[name] = scored(rows, scorers, folder / name, costs.setdefault(name, {}))
        median = np.median([len(text) for text in rows["response"]])
        print(f"{name}: {len(rows)} rows, median response {median:.0f} characters", flush=True)
    print_table(tables, references, costs)


if __name__ == "__main__":
    main()
