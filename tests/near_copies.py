"""Texts with copies that differ in a few words, for tests of near-duplicates."""

import numpy as np


def edited(texts, seed=0):
    """Every text, and a copy of it with one word in twelve replaced."""
    rng = np.random.default_rng(seed)
    copies = []
    for text in texts:
        words = text.split(" ")
        for place in np.flatnonzero(rng.random(len(words)) < 1 / 12):
            words[place] = f"w{rng.integers(1000)}"
        copies.append(" ".join(words))
    return [*texts, *copies]
