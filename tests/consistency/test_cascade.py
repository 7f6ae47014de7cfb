"""A weak model on all rows, a strong one on the best of them."""

import json
import math
import re

import numpy as np
import pytest

from hf_superfilter import (
    Length,
    Perplexity,
    SuperfilterError,
    Surrogate,
    TopK,
    cascade,
    score,
    select,
)
from hf_superfilter.consistency.cascade import wilson
from hf_superfilter.runs.manifest import read_manifest


@pytest.fixture(scope="module")
def result(sample, tmp_path_factory):
    rows = sample.select(range(200))
    models = "embedded:weak", "embedded:strong"
    return cascade(
        rows,
        *models,
        keep=0.10,
        pool=0.40,
        folder=tmp_path_factory.mktemp("cascade"),
        below=1.0,
        audit=50,
    )


def test_the_rows_kept_are_the_strong_models_best_of_the_weak_models_pool(result):
    table, kept = result.selection.table, result.selection.rows
    weak, strong = (np.array(table[f"ifd_{which}"][:]) for which in ("weak", "strong"))
    pool = [row for row in np.argsort(-weak, kind="stable") if weak[row] < 1][:80]
    expected = [row for row in sorted(pool, key=lambda row: -strong[row]) if strong[row] < 1][:20]
    assert kept.tolist() == expected


def test_the_strong_model_reads_the_pool_and_the_audit_and_nothing_else(result):
    table = result.selection.table
    asked = np.array(table["strong_asked"][:])
    status = np.array(table["ifd_strong_status"][:])
    assert ((status != "not_asked") == asked).all() and result.asked == asked.mean()
    assert np.isnan(np.array(table["ifd_strong"][:])[~asked]).all()
    assert 80 <= asked.sum() <= 130


def test_the_recall_is_what_a_strong_model_on_all_rows_says_of_the_audit(sample, tmp_path):
    rows = sample.select(range(200))
    weak, strong = Length(), Perplexity("embedded:weak")
    result = cascade(
        rows, weak, strong, keep=0.2, pool=0.5, folder=tmp_path / "a", audit=200, largest=True
    )
    table = score(rows, [weak, strong], tmp_path / "b")
    best, pool = select(table, TopK("ppl", 0.2)).rows, select(table, TopK("length", 0.5)).rows
    assert result.audited == 200 and result.recall == len(set(best) & set(pool)) / 40
    assert result.asked == 1.0 and result.recall_low < result.recall < result.recall_high


def test_a_second_call_goes_on_from_what_is_scored(sample, tmp_path):
    rows = sample.select(range(60))
    first = cascade(rows, Length(), Perplexity("embedded:weak"), folder=tmp_path, audit=10)
    before = read_manifest(tmp_path)
    again = cascade(rows, Length(), Perplexity("embedded:weak"), folder=tmp_path, audit=10)
    assert read_manifest(tmp_path) == before
    assert (
        again.selection.rows.tolist() == first.selection.rows.tolist()
        and again.recall == first.recall
    )


def test_the_verdict_is_in_plain_words(result):
    said = str(result)
    assert f"lets {result.recall:.0%}" in said and f"read {result.asked:.0%} of the rows" in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"keep": 0.5, "pool": 0.3}, "0 < keep <= pool <= 1"),
        ({"keep": 0}, "0 < keep <= pool <= 1"),
        ({"pool": 2}, "0 < keep <= pool <= 1"),
        ({"keep": 0.001}, "is less than one row"),
        ({"audit": 0}, "audit=0: give a number of rows"),
    ],
)
def test_shares_that_do_not_fit_are_one_sentence(sample, tmp_path, options, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        cascade(
            sample.select(range(50)),
            Length(),
            Perplexity("embedded:weak"),
            folder=tmp_path,
            **options,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"pool": 0.4}, {"recall": 0.8}])
def test_the_table_of_another_cascade_is_refused_before_anything_is_scored(
    sample, tmp_path, options
):
    for column in ("strong_asked", "strong_place"):
        rows = sample.select(range(50)).add_column(column, [True] * 50)
        with pytest.raises(SuperfilterError, match=f"a column '{column}'.*remove or rename"):
            cascade(rows, Length(), Perplexity("embedded:weak"), folder=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_wilson_interval_stays_within_zero_and_one():
    for hits, trials in ((0, 5), (5, 5), (3, 7), (50, 100)):
        low, high = wilson(hits, trials)
        assert 0 <= low <= hits / trials <= high <= 1
    assert all(map(math.isnan, wilson(0, 0)))


def constant(batch):
    """A strong scorer that finds all rows alike."""
    return {"constant": [1.0] * len(batch["prompt"])}


def undefined(batch):
    """A strong scorer that scores no row."""
    return {"undefined": [math.nan] * len(batch["prompt"])}


constant.main, undefined.main = "constant", "undefined"


def test_a_strong_scorer_without_an_opinion_has_no_agreement(sample, tmp_path):
    rows = sample.select(range(40)).select_columns(["prompt", "response"])
    options = {"keep": 0.2, "recall": 0.5, "confidence": 0.5, "audit": 10}
    result = cascade(rows, Surrogate(), constant, folder=tmp_path, **options)
    assert [math.isnan(candidate.agreement) for candidate in result.candidates] == [True]
    assert len(result.selection.rows) == 8 and "unknown" in str(result)
    record = (tmp_path / "run.json").read_text()
    assert json.loads(record)["scorers"]["surrogate"]["made_with"]["spearman"] is None
    assert "NaN" not in record


def test_a_strong_scorer_of_no_row_is_told(sample, tmp_path):
    rows = sample.select(range(40)).select_columns(["prompt", "response"])
    with (
        pytest.warns(UserWarning, match="every row of 'undefined' is undefined"),
        pytest.raises(SuperfilterError, match="only 0 of 0 rows have a text and a finite"),
    ):
        cascade(rows, Surrogate(), undefined, folder=tmp_path, recall=0.5, audit=10)
    with pytest.warns(UserWarning):
        result = cascade(rows, Length(), undefined, folder=tmp_path / "pool", audit=10)
    assert math.isnan(result.recall) and "nan" not in str(result)
    assert "what the weak one loses is not known" in str(result)


def test_two_functions_of_one_name_are_refused(sample, tmp_path):
    with pytest.raises(SuperfilterError, match="two scorers are called 'constant'"):
        cascade(sample.select(range(40)), constant, constant, folder=tmp_path)


PROMISE = {"keep": 0.2, "recall": 0.8, "confidence": 0.8, "audit": 40, "largest": False}


@pytest.fixture(scope="module")
def promised(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recall")
    rows = sample.select(range(120)).select_columns(["prompt", "response"])
    strong = Perplexity("embedded:weak", dtype="float32", max_length=64)
    return cascade(rows, [Surrogate(), Length()], strong, folder=folder, **PROMISE), rows, folder


def test_a_promised_recall_keeps_the_best_of_all_rows_read(promised):
    result, rows, _ = promised
    table = result.selection.table
    truth = Perplexity("embedded:weak", dtype="float32", max_length=64)(rows[:])["ppl"]
    asked = np.array(table["strong_asked"][:])
    np.testing.assert_allclose(np.array(table["ppl"][:])[asked], truth[asked], rtol=1e-5)
    assert np.isnan(np.array(table["ppl"][:])[~asked]).all()
    assert {table["ppl_status"][row] for row in np.flatnonzero(~asked)} <= {"not_asked"}
    best = [row for row in np.argsort(truth, kind="stable") if asked[row]][:24]
    assert result.selection.rows.tolist() == best
    assert result.recall_low >= 0.8 and np.mean(asked[np.argsort(truth)[:24]]) >= 0.8
    assert result.asked == asked.mean() == pytest.approx(result.pool + result.audited / 120)


def test_the_candidates_are_compared_and_the_cheapest_is_used(promised):
    result, _, folder = promised
    names = {candidate.name for candidate in result.candidates}
    assert names == {"words alone", "length and words"}
    seconds = [candidate.seconds for candidate in result.candidates]
    assert seconds == sorted(seconds)
    used = "length" in read_manifest(folder)["scorers"]
    assert used == (result.candidates[0].name == "length and words")
    verdict = str(result)
    assert f"At least {result.recall_low:.1%}" in verdict and "words alone" in verdict


def test_a_second_call_for_the_same_recall_reads_nothing_new(promised):
    result, rows, folder = promised
    before = sorted(path.name for path in (folder / "strong").iterdir())
    strong = Perplexity("embedded:weak", dtype="float32", max_length=64)
    again = cascade(rows, [Surrogate(), Length()], strong, folder=folder, **PROMISE)
    assert again.selection.rows.tolist() == result.selection.rows.tolist()
    assert sorted(path.name for path in (folder / "strong").iterdir()) == before


@pytest.mark.parametrize(
    ("weak", "options", "complaint"),
    [
        (Length(), {"recall": 0.9, "pool": 0.5}, "give one of the two"),
        (Length(), {"recall": 1.0}, "recall=1.0: give a share"),
        (Length(), {"recall": 0.9, "confidence": 95}, "confidence=95: give a share"),
        ([Length(), Surrogate()], {}, "2 first stages: give one, or recall=0.95"),
        (Surrogate(), {}, "a Surrogate without a model"),
        ([], {"recall": 0.9}, "weak=[]: give a first stage"),
        (lambda batch: {}, {"recall": 0.9}, "does not say which of its columns ranks rows"),
    ],
)
def test_a_recall_that_cannot_be_promised_is_one_sentence(
    sample, tmp_path, weak, options, complaint
):
    strong = Perplexity("embedded:weak")
    with pytest.raises(ValueError, match=re.escape(complaint)):
        cascade(sample.select(range(50)), weak, strong, folder=tmp_path, **options)
    assert not list(tmp_path.iterdir())
