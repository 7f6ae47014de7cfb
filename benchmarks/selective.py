"""Token-level selection (S-IFD) beside IFD on real rows: `python -m benchmarks.selective`.

The shares of tokens of a row, and of all rows together as in arXiv 2506.01317, and how many rows an
error bar tells from a cut. Prints tables; asserts nothing.
"""

import argparse
import time

import datasets
import numpy as np
from scipy.stats import spearmanr

from hf_superfilter import IFD, format_pairs, load_rows
from hf_superfilter.scoring.ifd import _differences

from .rows import SHARED

KEPT = (0.5, 0.75)


def overlap(first, second, share=0.10):
    """The share of the top rows under 1 that both scores have in common."""
    tops = []
    for values in (first, second):
        order = np.argsort(-np.where(values < 1, values, -np.inf), kind="stable")
        tops.append(set(order[: int(share * len(values))].tolist()))
    return len(tops[0] & tops[1]) / len(tops[0])


def global_scores(model, batch):
    """S-IFD with one border for the tokens of all rows."""
    from hf_superfilter.data.chats import flatten_turns

    lm = IFD(model).language_model()
    turns = flatten_turns(batch, ("prompt", "response"))
    pairs = lm.windows(turns.prompts, turns.responses)
    losses, counts = lm.token_losses([p.given for p in pairs] + [p.alone for p in pairs])
    rows = _differences(turns, pairs, np.split(losses, np.cumsum(counts)[:-1]))
    every = np.abs(np.concatenate(rows))
    scores = {}
    for keep in KEPT:
        border = np.quantile(every, 1 - keep)
        kept = [row[np.abs(row) > border] for row in rows]
        scores[keep] = np.array([np.exp(row.mean()) if len(row) else 1.0 for row in kept])
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--model", default="embedded:strong")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    published = load_rows(SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst")
    rows = published.shuffle(seed=0).select(range(options.rows))
    batch = format_pairs(rows)[:]
    start = time.process_time()
    columns = IFD(options.model)(batch)
    print(f"{len(rows):,} Alpaca rows, {options.model}: {time.process_time() - start:.0f} s of CPU")
    scores = {"ifd": columns["ifd"]}
    for keep in KEPT:
        scores[f"{keep} of a row"] = IFD(options.model, variant="selective", keep=keep)(batch)[
            "ifd"
        ]
    scores |= {f"{keep} of all rows": s for keep, s in global_scores(options.model, batch).items()}
    theirs = np.array(rows["ifd_ppl"][:], dtype=float)
    for name, ours in scores.items():
        good = np.isfinite(ours) & np.isfinite(theirs) & np.isfinite(scores["ifd"])
        print(
            f"{name:18} Spearman with ifd {spearmanr(ours[good], scores['ifd'][good])[0]:.3f}, "
            f"with GPT-2's published ifd {spearmanr(ours[good], theirs[good])[0]:.3f}, top 10% in "
            f"common with ifd {overlap(ours[good], scores['ifd'][good]):.2f}, "
            f"below 1 {np.mean(ours[good] < 1):.3f}"
        )  # fmt: skip
    for keep in KEPT:
        mine, all_rows = scores[f"{keep} of a row"], scores[f"{keep} of all rows"]
        good = np.isfinite(mine) & np.isfinite(all_rows)
        print(
            f"{keep}: a row's share against that of all rows, Spearman "
            f"{spearmanr(mine[good], all_rows[good])[0]:.3f}, top 10% "
            f"{overlap(mine[good], all_rows[good]):.2f}"
        )
    errors, values = columns["ifd_error"], columns["ifd"]
    below = np.sort(values[values < 1])[::-1]
    print(f"median ifd_error {np.nanmedian(errors):.3f} nats")
    for share in (0.05, 0.10, 0.15):
        cut = below[int(share * len(values)) - 1]
        near = np.abs(np.log(values / cut)) < errors
        near &= values < 1
        print(
            f"top {share:.0%}: cut {cut:.3f}, {near.sum()} rows ({near.mean():.1%} of all) lie "
            "within their error of it"
        )


if __name__ == "__main__":
    main()
