"""Learn a ranking of texts from hashed n-grams and a few statistics."""

from collections.abc import Sequence
from typing import Any

import numpy as np

N_FEATURES = 2**16  # of each of three hashed parts
PENALTIES = (0.3, 1.0, 3.0)  # of the ridge, the best by leave-one-out
TREES, LEAF_ROWS = 100, 5
LARGEST = 1e30  # trees read float32
RIDGE_WEIGHT = 1 / 3  # of the ridge in the mean with the trees


class TextRanker:
    """Predict the rank of a row among others from its words.

    A ridge on hashed n-grams (words of one and two, characters of two to four) of prompt and
    response, then extremely randomised trees on eight statistics of the texts, the numbers given
    beside them and the ridge's leave-one-out prediction. The prediction is the weighted mean of
    both, about 0 (lowest) to 1 (highest).

    Attributes:
        left_out: (n,) predictions of the rows it was fitted on, each made without that row: by
            leave-one-out for the ridge, by trees that did not draw it for the trees.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        numbers: np.ndarray,
        targets: np.ndarray,
        *,
        seed: int = 0,
    ) -> None:
        """Fit the ranks of n rows.

        Args:
            prompts, responses: n texts each.
            numbers: (n, m) what else is known of the rows, nan where undefined; m may be 0.
            targets: (n,) finite numbers; only their order counts.
            seed: of the trees.
        """
        from scipy.stats import rankdata
        from sklearn.ensemble import ExtraTreesRegressor
        from sklearn.linear_model import RidgeCV

        ranks = (rankdata(targets) - 0.5) / len(targets)
        hashed, statistics = text_features(prompts, responses)
        self._ridge: Any = RidgeCV(
            alphas=list(PENALTIES), scoring="neg_mean_squared_error", store_cv_results=True
        ).fit(hashed, ranks)
        best = PENALTIES.index(self._ridge.alpha_)
        held_out = self._ridge.cv_results_[:, best]
        self._trees: Any = ExtraTreesRegressor(
            TREES, min_samples_leaf=LEAF_ROWS, bootstrap=True, oob_score=True, random_state=seed
        ).fit(_dense(statistics, numbers, held_out), ranks)
        self.left_out = _mean(held_out, self._trees.oob_prediction_)

    def predict(
        self, prompts: Sequence[str], responses: Sequence[str], numbers: np.ndarray
    ) -> np.ndarray:
        """Return the (n,) predicted ranks of n other rows."""
        hashed, statistics = text_features(prompts, responses)
        ridge = self._ridge.predict(hashed)
        return _mean(ridge, self._trees.predict(_dense(statistics, numbers, ridge)))


def text_features(prompts: Sequence[str], responses: Sequence[str]) -> tuple[Any, np.ndarray]:
    """Count hashed n-grams, words of both texts apart and characters of the response, and measure.

    Returns:
        (n, 3 N_FEATURES) sparse float64, each third of a row of length 1, and (n, 8) statistics.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=N_FEATURES, alternate_sign=False, ngram_range=(1, 2))
    characters = HashingVectorizer(
        n_features=N_FEATURES, alternate_sign=False, ngram_range=(2, 4), analyzer="char_wb"
    )
    parts = [words.transform(responses), words.transform(prompts), characters.transform(responses)]
    statistics = [text_statistics(*texts) for texts in zip(prompts, responses, strict=True)]
    return hstack(parts, format="csr"), np.reshape(statistics, (len(responses), -1))


def text_statistics(prompt: str, response: str) -> list[float]:
    """Measure a row: sizes, variety, words taken from the prompt, kinds of characters."""
    words = response.lower().split()
    asked = set(prompt.lower().split())
    of_words, of_characters = max(1, len(words)), max(1, len(response))
    return [
        np.log1p(len(response)),
        np.log1p(len(prompt)),
        np.log1p(len(words)),
        len(set(words)) / of_words,
        sum(word in asked for word in words) / of_words,
        response.count("\n") / of_characters,
        sum(character.isdigit() for character in response) / of_characters,
        sum(character.isupper() for character in response) / of_characters,
    ]


def _dense(statistics: np.ndarray, numbers: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    # Trees split by order: below all others stands what is undefined.
    known = np.clip(np.nan_to_num(numbers, nan=-np.inf), -LARGEST, LARGEST)
    return np.column_stack([statistics, known, ridge])


def _mean(ridge: np.ndarray, trees: np.ndarray) -> np.ndarray:
    return np.asarray(RIDGE_WEIGHT * ridge + (1 - RIDGE_WEIGHT) * trees)
