"""How often each score prefers the answer that was chosen: `python -m benchmarks.preferences`.

AlpacaEval: answers of five systems against those of text-davinci-003, GPT-4's choice.
lf_dpo_en_demo: its chosen and rejected answers. Prints a table; asserts nothing.
"""

import argparse

import datasets
import numpy as np
from scipy.stats import binomtest

from hf_superfilter import IFD, ImplicitReward, Perplexity, format_pairs, load_rows

from .rows import SHARED


def alpaca_eval(count):
    """Pairs of answers to one prompt, the chosen one first."""
    rows = load_rows(SHARED / "nc/alpaca_eval.jsonl.zst").to_pandas()
    base = rows[rows.model == "text_davinci_003"].set_index("prompt_id").output
    judged = rows[rows.pref_vs_davinci003.notna() & (rows.pref_vs_davinci003 != 1.5)]
    pairs = []
    for row in judged.itertuples():
        answers = [row.output, base.get(row.prompt_id)]
        if None in answers or answers[0] == answers[1] or not all(map(str.strip, answers)):
            continue
        if row.pref_vs_davinci003 < 1.5:
            answers.reverse()
        pairs.append({"prompt": row.instruction, "chosen": answers[0], "rejected": answers[1]})
    return datasets.Dataset.from_list(pairs).shuffle(seed=0).select(range(count))


def interval(wins):
    result = binomtest(int(wins.sum()), len(wins)).proportion_ci(method="wilson")
    return f"{wins.mean():.1%} ({result.low:.1%} to {result.high:.1%}, {len(wins)} pairs)"


def report(name, rows, model, reference):
    pairs = format_pairs(rows)
    batch = pairs[:]
    columns = {}
    for scorer in (
        IFD(model, rejected=True),
        Perplexity(model, rejected=True),
        ImplicitReward(model, reference=reference),
    ):
        columns |= scorer(batch)
    chosen, rejected = (
        np.array([len("".join(text)) for text in batch[column]])
        for column in ("response", "response_rejected")
    )
    differences = {
        "longer response": chosen - rejected,
        "higher IFD": columns["ifd_difference"],
        "higher IFD, both below 1": np.where(
            (columns["ifd"] < 1) & (columns["ifd_rejected"] < 1), columns["ifd_difference"], np.nan
        ),
        "lower perplexity": -columns["ppl_difference"],
        "implicit reward": columns["implicit_reward"],
    }
    print(f"{name}, {model} (reference {reference}): prefers the chosen answer")
    for score, difference in differences.items():
        decided = difference[np.isfinite(difference) & (difference != 0)]
        print(f"    {score:26} {interval(decided > 0)}")
    for score in ("longer response", "higher IFD"):
        sizes = np.abs(differences[score].astype(float))
        large = sizes > np.nanmedian(sizes)
        decided = differences[score][large]
        print(f"    {score}, larger half of margins: {interval(decided > 0)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--model", default="embedded:strong")
    parser.add_argument("--reference", default="embedded:weak")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    models = (options.model, options.reference)
    report("AlpacaEval", alpaca_eval(options.rows), *models)
    demo = load_rows(SHARED / "instruct/lf_dpo_en_demo.jsonl.zst")
    report("lf_dpo_en_demo", demo.select(range(min(options.rows, len(demo)))), *models)


if __name__ == "__main__":
    main()
