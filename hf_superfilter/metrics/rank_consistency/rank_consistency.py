"""Provide rank consistency as a metric of `evaluate`.

The folder is complete in itself, so that it can be pushed to the Hub as a Space.
"""

import datasets
import evaluate

# `evaluate` copies the files that this script imports, and none that those import: all are named
# here.
from .agreement import rank_consistency
from .intervals import kendall
from .notes import label
from .weighted import RankAgreement

__all__ = ["RankAgreement", "RankConsistency", "kendall", "label", "rank_consistency"]

DESCRIPTION = """
How far a weak model ranks the rows of a data set as a strong one does: Spearman, Kendall and
Pearson correlation, overlap of the best rows at several budgets, rank-biased overlap, and what a
weak first stage would lose, each with an interval and the level of chance.
"""

INPUTS = """
Args:
    predictions: scores of the weak model, one number for each row; nan or None where there is none.
    references: scores of the strong model for the same rows.
    budgets, largest, below, confidence, resamples, seed: as of the function below, whose `weak` are
        the predictions and whose `strong` are the references.

Returns:
    dict: the statistics of the function below.

Example:
    >>> metric = evaluate.load("USER/rank_consistency")
    >>> weak, strong = [1.0, 2.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0]
    >>> result = metric.compute(predictions=weak, references=strong, resamples=0)
    >>> result["kendall"]  # 5 pairs of 6 in the same order, 1 in the other
    0.6666666666666667

"""

CITATION = """\
@inproceedings{li-etal-2024-superfiltering,
    title = "Superfiltering: Weak-to-Strong Data Filtering for Fast Instruction-Tuning",
    author = "Li, Ming and Zhang, Yong and He, Shwai and Li, Zhitao and Zhao, Hongyu and
        Wang, Jianzong and Cheng, Ning and Zhou, Tianyi",
    booktitle = "Proceedings of the 62nd Annual Meeting of the Association for Computational
        Linguistics",
    year = "2024",
}
@article{webber-etal-2010-similarity,
    title = "A similarity measure for indefinite rankings",
    author = "Webber, William and Moffat, Alistair and Zobel, Justin",
    journal = "ACM Transactions on Information Systems",
    volume = "28",
    number = "4",
    year = "2010",
}
"""


class RankConsistency(evaluate.Metric):  # type: ignore[misc] # evaluate has no types
    """Measure how `predictions` (weak scores) rank rows like `references` (strong).

    Example:
        >>> metric = RankConsistency(keep_in_memory=True)   # as evaluate.load makes it
        >>> weak = list(range(20))
        >>> strong = [*range(18), 19, 18]                   # the best two change places
        >>> result = metric.compute(predictions=weak, references=strong, budgets=(0.05, 0.10))
        >>> round(result["spearman"], 4)                     # 1 - 6 * 2 / (20 * 399)
        0.9985
        >>> result["overlap@0.05"], result["overlap@0.10"]
        (0.0, 1.0)

        Batch by batch, with a row that has no score:

        >>> for first in (0, 5, 10, 15):
        ...     rows = slice(first, first + 5)
        ...     metric.add_batch(predictions=weak[rows], references=strong[rows])
        >>> metric.add(prediction=float("nan"), reference=3.0)
        >>> result = metric.compute(budgets=(0.10,))
        >>> result["pairs"], result["dropped"]
        (20, 1)
    """

    def _info(self) -> evaluate.MetricInfo:
        """Describe the inputs, for the Hub and `help`."""
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS + (rank_consistency.__doc__ or ""),
            features=datasets.Features({"predictions": number, "references": number}),
            reference_urls=[
                "https://arxiv.org/abs/2402.00530",
                "https://doi.org/10.1145/1852102.1852106",
            ],
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        budgets: tuple[float, ...] = (0.05, 0.10, 0.15),
        largest: bool = True,
        below: float | None = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, object]:
        """Compute the statistics of all rows that were added."""
        return rank_consistency(
            predictions,
            references,
            budgets=budgets,
            largest=largest,
            below=below,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
