"""A surrogate learns the order of a strong scorer, and says how well."""

import json

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import spearmanr

from hf_superfilter import IFD, SuperfilterError, Surrogate, score
from hf_superfilter.runs.manifest import read_manifest
from hf_superfilter.scoring._ngrams import TextRanker

WORDS = ["river", "stone", "cloud", "lamp", "paper", "glass", "winter", "garden", "metal", "bread"]


def made_rows(count, seed=0):
    """Rows whose score is the share of the words `bread` and `metal` in the response."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(5, 30))) for _ in range(count)]
    scores = [float(np.mean([w in ("bread", "metal") for w in text.split()])) for text in texts]
    return Dataset.from_dict({"prompt": ["Say.\n"] * count, "response": texts, "share": scores})


def some_known(rows, count):
    scores = [value if row < count else None for row, value in enumerate(rows["share"])]
    return rows.remove_columns("share").add_column("share", scores)


def test_it_orders_rows_that_it_never_saw_as_the_column_does(tmp_path):
    rows = made_rows(300)
    table = score(some_known(rows, 150), [Surrogate(of="share", sample=150)], tmp_path)
    agreement = spearmanr(table["surrogate"][150:], rows["share"][150:]).statistic
    assert agreement > 0.9
    facts = read_manifest(tmp_path)["scorers"]["surrogate"]["made_with"]
    assert facts["fitted_rows"] == 150 and abs(facts["spearman"] - agreement) < 0.1


def test_what_it_says_of_rows_left_out_holds_for_other_rows():
    """Of noise that no words tell, the fit must not claim an agreement."""
    rng = np.random.default_rng(1)
    rows, noise = made_rows(200), rng.normal(size=200)
    ranker = TextRanker(rows["prompt"][:], rows["response"][:], np.zeros((200, 0)), noise)
    assert abs(spearmanr(ranker.left_out, noise).statistic) < 0.25


def test_only_the_order_of_the_strong_scores_counts(tmp_path):
    rows = made_rows(80)
    stretched = rows.map(lambda row: {"share": float(np.exp(9 * row["share"]))})
    first = Surrogate(of="share").prepare(rows, str(tmp_path / "a"))(rows[:])
    second = Surrogate(of="share").prepare(stretched, str(tmp_path / "b"))(rows[:])
    np.testing.assert_array_equal(first["surrogate"], second["surrogate"])


def test_a_feature_tells_what_words_do_not_and_may_have_gaps(tmp_path):
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=240)
    rows = made_rows(240).remove_columns("share")
    rows = rows.add_column("strong", [v if i < 120 else None for i, v in enumerate(hidden)])
    gaps = [None if i % 17 == 0 else float(v) for i, v in enumerate(hidden)]
    rows = rows.add_column("weak", gaps)
    table = score(rows, [Surrogate(of="strong", features=("weak",))], tmp_path)
    values = np.array(table["surrogate"][:])
    assert np.isfinite(values).all()
    known = [i for i in range(120, 240) if i % 17]
    assert spearmanr(values[known], hidden[known]).statistic > 0.7


def test_a_model_scores_the_sample_only_and_as_its_scorer_does(sample, tmp_path):
    rows = sample.select(range(60)).select_columns(["prompt", "response"])
    fitted = Surrogate(of="ifd", model="embedded:weak", sample=20, seed=3).prepare(
        rows, str(tmp_path)
    )
    examples = json.loads((tmp_path / "surrogate.json").read_text())
    strong = dict(zip(rows["response"], IFD("embedded:weak")(rows[:])["ifd"], strict=True))
    assert 8 <= len(examples["targets"]) <= 20
    wanted = [strong[response] for response in examples["responses"]]
    # In bfloat16 a row's loss depends a little on its batch.
    np.testing.assert_allclose(examples["targets"], wanted, rtol=5e-3)
    scores = fitted(rows[:])
    has_text = [bool(response.strip()) for response in rows["response"]]
    np.testing.assert_array_equal(np.isfinite(scores["surrogate"]), has_text)


def test_rows_without_text_are_undefined(tmp_path):
    rows = made_rows(40)
    fitted = Surrogate(of="share").prepare(rows, str(tmp_path))
    columns = fitted({"prompt": ["a", "a", None], "response": [" \n", "bread", 7]})
    assert columns["surrogate_status"] == ["empty_response", "ok", "unreadable"]
    assert np.isnan(columns["surrogate"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"of": ""}, "by="),
        ({"of": "idf", "model": "m"}, "ifd"),
        ({"sample": 7}, "sample=7"),
        ({"features": "ifd"}, "features='ifd'"),
        ({"seed": -1}, "seed=-1"),
        ({"columns": ["prompt"]}, "columns="),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        Surrogate(**arguments)


def test_too_few_scores_are_refused_with_their_number(tmp_path):
    with pytest.raises(ValueError, match="only 7 of 7 rows"):
        Surrogate(of="share").prepare(some_known(made_rows(30), 7), str(tmp_path))
    with pytest.raises(ValueError, match="no column 'strong'"):
        Surrogate(of="strong").prepare(made_rows(30), str(tmp_path))


def test_new_scores_in_the_column_are_another_setting_of_the_run(tmp_path):
    rows = made_rows(40)
    score(rows, [Surrogate(of="share")], tmp_path)
    other = rows.map(lambda row: {"share": 1 - row["share"]})
    with pytest.raises(ValueError, match="surrogate"):
        score(other, [Surrogate(of="share")], tmp_path)


@pytest.mark.parametrize("contents", ["{}", "cut sho", "[1]", '{"targets": ["x"]}'])
def test_a_damaged_file_is_one_sentence(tmp_path, contents):
    file = tmp_path / "surrogate.json"
    file.write_text(contents)
    with pytest.raises(SuperfilterError, match="is no file of a fitted surrogate"):
        Surrogate(of="strong", fitted=str(file))({"prompt": ["a"], "response": ["b"]})


@pytest.mark.parametrize("feature", ["prompt", "pair"])
def test_a_feature_that_holds_no_numbers_is_refused_by_name(tmp_path, feature):
    rows = Dataset.from_dict(
        {
            "prompt": [f"question {n}" for n in range(12)],
            "response": [f"answer {n}" for n in range(12)],
            "strong": [float(n) for n in range(12)],
            "pair": [[1.0, 2.0]] * 12,
        }
    )
    with pytest.raises(SuperfilterError, match=f"the feature '{feature}' holds no numbers"):
        Surrogate(of="strong", features=[feature]).prepare(rows, str(tmp_path))
