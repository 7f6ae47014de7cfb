"""Measure how much of a ranking the surface of the texts explains."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.columns import holds_numbers, numbers_of, shares_below
from ..data.texts import text_heads

if TYPE_CHECKING:
    from ..selection.funnel import Selection

LEAST_ROWS = 100
MOST_ROWS = 4_000  # read for the surface model, spread over the table
LETTERS = 2_000  # read of each text
FEATURES = 1 << 14  # hashed words and pairs of words
FOLDS = 5


class Surface(NamedTuple):
    """Hold rank correlations (Spearman) of the scores with cheap ones.

    Attributes:
        length: with the characters of the response.
        perplexity: with the perplexity of the response alone; None where no column has it.
        model: with what a ridge regression on hashed words and lengths predicts for rows that it
            was not fitted on.
        rows: that the model read.
    """

    length: float
    perplexity: float | None
    model: float
    rows: int


def measure_surface(selection: "Selection") -> Surface | None:
    """Correlate the scores that a selection is ranked by with length, perplexity and words.

    Near 1 or -1 a cheaper score ranks the rows the same way. The model is fitted on ranks, five
    times on four fifths of the rows.

    Returns:
        None without a ranking, without responses, with under 100 defined scores, or where all are
        equal.
    """
    lengths, scores = selection.response_lengths, selection.scores
    if selection.ranking is None or lengths is None:
        return None
    defined = np.flatnonzero(np.isfinite(scores))
    if len(defined) < LEAST_ROWS or np.ptp(scores[defined]) == 0 or np.ptp(lengths[defined]) == 0:
        return None
    sampled = defined[np.linspace(0, len(defined) - 1, min(len(defined), MOST_ROWS)).astype(int)]
    predicted = _predict(selection, sampled, lengths[sampled])
    return Surface(
        length=_spearman(scores[defined], lengths[defined]),
        perplexity=_perplexity(selection, defined),
        model=_spearman(scores[sampled], predicted),
        rows=len(sampled),
    )


def _perplexity(selection: "Selection", rows: np.ndarray) -> float | None:
    by = selection.ranked_by
    for column in (f"{by}_ppl_alone", "ppl"):
        if column == by or not holds_numbers(selection.table, column):
            continue
        numbers = numbers_of(selection.table, column)[rows]
        defined = np.isfinite(numbers)
        if np.count_nonzero(defined) >= LEAST_ROWS and np.ptp(numbers[defined]) > 0:
            return _spearman(selection.scores[rows][defined], numbers[defined])
    return None


def _predict(selection: "Selection", rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Predict the ranks of rows from their words and lengths, each by a model of other rows."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    table = selection.table.with_format(None).select(rows)
    vectorizer = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False)
    words = vectorizer.transform(text_heads(table, "response", LETTERS))
    logs = np.log1p(lengths)[:, None]
    features = hstack([words, csr_matrix((logs - logs.mean()) / logs.std())]).tocsr()
    ranks = shares_below(selection.scores[rows])
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    predicted: np.ndarray = cross_val_predict(Ridge(solver="lsqr"), features, ranks, cv=folds)
    return predicted


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
