import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import TopK, select
from hf_superfilter.reports.surface import measure_surface

WORDS = ["apple", "river", "stone", "cloud", "lamp"]
RNG = np.random.default_rng(0)
LENGTHS = RNG.permutation(400) + 1


def surface_of(scores, **columns):
    texts = [f"{WORDS[i % 5]} " + "x" * int(size) for i, size in enumerate(LENGTHS)]
    table = Dataset.from_dict({"response": texts, "ifd": scores, **columns})
    return measure_surface(select(table, TopK("ifd", 5)))


def test_a_score_that_is_the_length_is_all_surface():
    surface = surface_of(-LENGTHS.astype(float))
    assert surface.length == pytest.approx(-1, abs=0.01)  # words differ by a letter or two
    assert surface.model > 0.95
    assert surface.perplexity is None


def test_a_score_of_words_is_seen_by_the_model_and_not_by_the_length():
    surface = surface_of([float(i % 5) + 0.01 * x for i, x in enumerate(RNG.random(400))])
    assert abs(surface.length) < 0.15
    assert surface.model > 0.85


def test_a_random_score_is_no_surface():
    scores = RNG.random(400)
    surface = surface_of(scores, ifd_ppl_alone=RNG.random(400))
    assert max(abs(surface.length), abs(surface.model), abs(surface.perplexity)) < 0.2
    assert surface.rows == 400


def test_perplexity_alone_is_compared_where_it_is_defined():
    scores = RNG.random(400)
    perplexities = np.where(np.arange(400) % 2, scores, np.nan)
    assert surface_of(scores, ifd_ppl_alone=perplexities).perplexity == pytest.approx(1)


@pytest.mark.parametrize("scores", [[1.0] * 400, [float("nan")] * 390 + [0.1] * 10])
def test_too_few_or_equal_scores_have_no_surface(scores):
    assert surface_of(scores) is None


def test_without_responses_nothing_is_measured():
    table = Dataset.from_dict({"ifd": RNG.random(200)})
    assert measure_surface(select(table, TopK("ifd", 10))) is None
