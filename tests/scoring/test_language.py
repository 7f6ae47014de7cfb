"""Language on texts whose language is plain to see; needs the extra [language]."""

import importlib.util

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import Language, Length, PerCluster, Recipe, Threshold, score, select
from hf_superfilter.reports.summary import Summary

TEXTS = {
    "en": ["What makes bread go stale?\n", "Mainly a change in the starch, and not lost water."],
    "de": ["Wie koche ich ein Ei wachsweich?\n", "Das Ei vorsichtig in kochendes Wasser legen."],
    "fr": ["Écris un court poème sur la mer.\n", "La mer a mis ce soir sa robe de velours."],
    "zh": ["小明为什么迟到了？\n", "因为路上有一辆货车坏了，公共汽车等了二十分钟。"],
    "ja": ["富士山の高さは何メートルですか。\n", "3,776メートルです。日本で一番高い山です。"],
}
ROWS = {
    "prompt": [prompt for prompt, _ in TEXTS.values()],
    "response": [response for _, response in TEXTS.values()],
}
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("py3langid") is None, reason="the extra [language] is not installed"
)


@needs_library
def test_languages_are_told_with_a_probability():
    columns = Language()(ROWS)
    assert columns["language"] == list(TEXTS)
    assert (columns["language_probability"] > 0.8).all()
    assert columns["language_status"] == ["ok"] * len(TEXTS)


@needs_library
def test_what_has_no_language_is_undetermined_with_its_reason():
    columns = Language()({"prompt": ["", "1 + 1\n", None], "response": [" ", "= 2", "Hello, you."]})
    assert columns["language"][:2] == ["und", "und"]
    assert np.isnan(columns["language_probability"]).tolist() == [True, True, False]
    assert columns["language_status"] == ["empty_text", "no_letters", "ok"]


@needs_library
def test_only_the_languages_that_are_listed_are_given():
    columns = Language(["en", "zh"])(ROWS)
    assert set(columns["language"]) == {"en", "zh"}
    assert columns["language"][0] == "en" and columns["language"][3] == "zh"
    with pytest.raises(ValueError, match=r"languages=\('en', 'xx'\)"):
        Language(["en", "xx"])(ROWS)


@needs_library
def test_a_chat_has_the_language_of_its_last_turn_and_what_stands_before_it():
    english, chinese = TEXTS["en"], TEXTS["zh"]
    chat = {
        "prompt": [[english[0], english[0] + english[1] + "\n" + chinese[0] * 60]],
        "response": [[english[1], chinese[1]]],
    }
    assert Language()(chat)["language"] == ["zh"]


@needs_library
def test_quotas_of_languages_hold_and_the_summary_shows_the_shift(tmp_path):
    rows = Dataset.from_dict(
        {
            "prompt": [TEXTS["en"][0]] * 30 + [TEXTS["zh"][0]] * 10,
            "response": [TEXTS["en"][1] + f" {n}" for n in range(30)]
            + [TEXTS["zh"][1] + f" {n}" for n in range(10)],
        }
    )
    table = score(rows, [Length(), Language(("en", "zh"))], tmp_path / "run")
    steps = [
        Threshold("language_probability", above=0.5),
        PerCluster("length", 8, group="language", shares={"en": 1, "zh": 1}),
    ]
    selection = select(table, steps)
    kept = selection.subset["language"][:]
    assert kept.count("en") == kept.count("zh") == 4
    shares = {entry["value"]: entry["share"] for entry in Summary(selection).groups["language"]}
    assert shares == {"en": 4 / 30, "zh": 0.4}


def test_a_recipe_with_quotas_is_read_without_the_library():
    text = "dataset: embedded:sample\nscore:\n- Language: {languages: [en, zh]}\n"
    assert Recipe.from_yaml(text).score == (Language(("en", "zh")),)
    assert Recipe.from_yaml(Recipe.from_yaml(text).to_yaml()) == Recipe.from_yaml(text)


@pytest.mark.skipif(importlib.util.find_spec("py3langid") is not None, reason="it is installed")
def test_what_to_install_is_said_where_the_library_is_missing():
    with pytest.raises(ValueError, match=r"pip install 'hf-superfilter\[language\]'"):
        Language()(ROWS)


@pytest.mark.parametrize("languages", ["en", 3, [""], [1]], ids=str)
def test_bad_languages_are_refused(languages):
    with pytest.raises(ValueError, match="languages="):
        Language(languages)
