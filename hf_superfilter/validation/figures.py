"""Define what is measured of a student, and average it over rows.

Every figure is a mean over groups of rows of a ratio of sums,

    L = 1/G Σ_g (Σ_{i in g} nats_i) / (Σ_{i in g} tokens_i)

so that a difference of two students is paired over rows and its variance over rows is that of a
stratified ratio estimator. With one group this is the mean over tokens; with tokens_i = 1, the mean
over rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

QUARTILES = 4
PRIMARY = "quartile mean"
FIGURES = {
    PRIMARY: "loss per response token, averaged over quartiles of response length",
    "token mean": "loss per response token",
    "row mean": "mean over rows of the loss per response token",
    "end of text": "loss of the end-of-text token",
    "quartile 1": "loss per token of the shortest quarter of responses",
    "quartile 2": "loss per token of the second quarter",
    "quartile 3": "loss per token of the third quarter",
    "quartile 4": "loss per token of the longest quarter of responses",
}


@dataclass(frozen=True, eq=False)
class Runs:
    """Hold what the runs of one arm measured on one set of n rows.

    Attributes:
        nats: (s, n) sums over the response tokens, one row of the array a run.
        end_nats: (s, n) sums over ends of text.
        tokens: (n,) response tokens.
        ends: (n,) ends of text.
    """

    nats: np.ndarray
    end_nats: np.ndarray
    tokens: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class Ratio:
    """Hold numerators and denominators of a figure, and the groups of its rows.

    Attributes:
        sums: (s, n) numerators of every run.
        weights: (n,) denominators.
        groups: row numbers of each group.
    """

    sums: np.ndarray
    weights: np.ndarray
    groups: tuple[np.ndarray, ...]

    def values(self) -> np.ndarray:
        """Return the (s,) figure of every run."""
        ratios = [self.sums[:, rows].sum(axis=1) / self.weights[rows].sum() for rows in self.groups]
        return np.asarray(np.mean(ratios, axis=0))

    def row_variance(self, other: "Ratio") -> tuple[float, float]:
        """Return the variance over rows of the difference of two arms' means over runs.

        Returns:
            The variance, and its degrees of freedom.
        """
        differences = self.sums.mean(axis=0) - other.sums.mean(axis=0)
        variances, freedom = self._over_rows(differences[None])
        return float(variances[0]), freedom

    def run_variance(self) -> float:
        """Return the variance over rows of what tells a run from the mean of its arm's runs.

        It is the part of the variance between runs that single rows make by chance: a mean over
        more rows holds less of it. Summed over s runs, to be divided by s - 1.
        """
        return float(self._over_rows(self.sums - self.sums.mean(axis=0))[0].sum())

    def _over_rows(self, sums: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the variance over rows of the figure of (k, n) numerators, and its freedom."""
        variances, freedom = np.zeros(len(sums)), 0.0
        for rows in self.groups:
            own, weights, count = sums[:, rows], self.weights[rows], len(rows)
            ratios = own.sum(axis=1, keepdims=True) / weights.sum()
            residuals = (own - ratios * weights) / weights.sum()
            if count > 1:
                variances += (residuals**2).sum(axis=1) * count / (count - 1)
                freedom += count - 1
        return variances / len(self.groups) ** 2, freedom


def ratio_of(figure: str, runs: Runs) -> Ratio:
    """Return numerators, denominators and groups of a figure."""
    rows = np.flatnonzero(runs.tokens > 0)
    if figure == "end of text":
        return Ratio(runs.end_nats, runs.ends.astype(float), (np.flatnonzero(runs.ends > 0),))
    if figure == "row mean":
        means = runs.nats / np.maximum(runs.tokens, 1)
        return Ratio(means, np.ones(len(runs.tokens)), (rows,))
    groups: tuple[np.ndarray, ...] = (rows,)
    if figure != "token mean":
        groups = quartiles_of(runs.tokens)
    if figure.startswith("quartile ") and figure != PRIMARY:
        groups = (groups[int(figure[-1]) - 1],)
    return Ratio(runs.nats, runs.tokens.astype(float), groups)


def quartiles_of(tokens: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sort rows that have tokens into four groups of equal number by their tokens."""
    rows = np.flatnonzero(tokens > 0)
    order = rows[np.argsort(tokens[rows], kind="stable")]
    return tuple(np.sort(group) for group in np.array_split(order, QUARTILES))


def figures_of(runs: Runs) -> dict[str, float]:
    """Average every figure over an arm's runs; a figure without rows is left out."""
    means = {}
    for figure in FIGURES:
        ratio = ratio_of(figure, runs)
        if all(map(len, ratio.groups)):
            means[figure] = float(ratio.values().mean())
    return means


Measured = Mapping[str, Runs]  # arm -> what its runs measured
