"""What noisy copies of a row do to S-IFD: `python -m benchmarks.noisy_copies`.

T-SHIRT (arXiv 2506.01317) averages S-IFD over 30 copies of a row whose embeddings carry uniform
noise of size alpha / sqrt(L d), alpha = 5, the same noise in both passes. Here over 1 and 3 copies:
Spearman with GPT-2's published IFD on Alpaca, and planted defects in the tenth that the embedded
sample keeps. Prints Markdown; asserts nothing.
"""

import argparse
import math

import datasets
import numpy as np
import torch
from scipy.stats import spearmanr

from hf_superfilter import CausalLM, format_pairs, load_rows

from .rows import SHARED

ALPHA, COPIES, KEEP = 5.0, 3, 0.5


@torch.inference_mode()
def token_losses(model, window, noise):
    """The losses of a window's scored tokens, noise added to the embeddings of its last tokens."""
    ids = torch.tensor([list(window.ids)])
    embeddings = model.get_input_embeddings()(ids)
    start = ids.shape[1] - len(noise)
    embeddings[0, max(start, 0) :] += noise[max(-start, 0) :]
    steps = model(inputs_embeds=embeddings).logits[0, :-1].float().log_softmax(-1)
    losses = -steps[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    return losses[window.start - 1 :].double().numpy()


def selective(differences):
    count = max(1, round(KEEP * len(differences)))
    return math.exp(differences[np.argsort(-np.abs(differences), kind="stable")[:count]].mean())


def scores(lm, rows, seed=0):
    """S-IFD of each row without noise, and of each of its noisy copies."""
    generator = torch.Generator().manual_seed(seed)
    pairs = lm.windows(rows["prompt"][:], rows["response"][:], max_length=512, count_border=True)
    values = np.full((len(pairs), 1 + COPIES), np.nan)
    width = lm.model.get_input_embeddings().embedding_dim
    for row, pair in enumerate(pairs):
        given, alone = pair.common
        if not pair.given.scored or not pair.alone.scored or not rows[row]["prompt"].strip():
            continue
        length = len(pair.given.ids)
        for copy in range(1 + COPIES):
            noise = torch.zeros(length, width)
            if copy:
                noise = torch.rand(length, width, generator=generator) * 2 - 1
                noise *= ALPHA / math.sqrt(length * width)
            both = [token_losses(lm.model, window, noise) for window in pair]
            values[row, copy] = selective(both[0][given] - both[1][alone])
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:weak")
    parser.add_argument("--rows", type=int, default=200, help="of Alpaca")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    lm = CausalLM(options.model, dtype="float32")
    published = load_rows(SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst").shuffle(seed=0)
    published = published.select(range(options.rows))
    theirs = np.array(published["ifd_ppl"][:], dtype=float)
    alpaca = scores(lm, format_pairs(published.select_columns(["instruction", "input", "output"])))
    sample = format_pairs(load_rows("embedded:sample"))
    ours = scores(lm, sample)
    planted = np.array([kind not in (None, "") for kind in sample["planted"][:]])
    print("| passes more | GPT-2's IFD | same tenth | defects |\n|---|---:|---:|---:|")
    first: set[int] = set()
    for copies in (0, 1, COPIES):
        columns = slice(1, 1 + copies) if copies else slice(0, 1)
        values, mixed = alpaca[:, columns].mean(axis=1), ours[:, columns].mean(axis=1)
        both = np.isfinite(values) & np.isfinite(theirs)
        order = np.argsort(-np.where(mixed < 1, mixed, -np.inf), kind="stable")
        kept = order[: len(order) // 10].tolist()
        first = first or set(kept)
        print(
            f"| {2 * copies} | {spearmanr(values[both], theirs[both])[0]:.3f} | "
            f"{len(first & set(kept)) / len(kept):.0%} | {planted[kept].sum()} of {len(kept)} |"
        )


if __name__ == "__main__":
    main()
