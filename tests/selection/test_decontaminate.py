"""Decontaminate against all pairs of texts compared as lists of words."""

import re

import pytest
from conftest import SHARED
from datasets import Dataset, DatasetDict

from hf_superfilter import Decontaminate, Length, Recipe, load_rows, select
from hf_superfilter.recipes.recipe import recipe_of


def words(text):
    return re.findall(r"\w+", text.lower())


def runs(text, size):
    listed = words(text)
    return {tuple(listed[i : i + size]) for i in range(len(listed) - size + 1)}


def is_hit(text, items, ngram, share):
    for item in items:
        if len(words(item)) < min(8, ngram):
            continue
        size = min(ngram, len(words(item)))
        common = runs(text, size) & runs(item, size)
        least = 1 if share is None else share * len(runs(item, size))
        if common and len(common) >= least:
            return True
    return False


@pytest.fixture
def benchmark(tmp_path, sample):
    """A file of 40 questions and answers, and the texts in it."""
    rows = sample.select(range(40)).select_columns(["instruction", "output"])
    path = tmp_path / "benchmark.jsonl"
    rows.to_json(path)
    return str(path), [*rows["instruction"], *rows["output"]]


@pytest.fixture
def texts(sample):
    """Rows that hold all, half, ten words and none of a benchmark's answers."""
    answers = sample["output"][:40]
    half = [" ".join(text.split()[: len(text.split()) // 2]) for text in answers]
    ten = [f"So they say: {' '.join(text.split()[:10])}, don't they?" for text in answers]
    return [f"Again! {text.upper()}" for text in answers] + half + ten + sample["output"][200:240]


@pytest.mark.parametrize("settings", [{}, {"ngram": 8}, {"ngram": 8, "share": 0.7}, {"ngram": 5}])
def test_it_drops_what_comparing_all_pairs_drops(benchmark, texts, settings):
    path, items = benchmark
    table = Dataset.from_dict({"text": texts})
    selection = select(table, Decontaminate([path], columns=["text"], **settings))
    wanted = [
        place
        for place, text in enumerate(texts)
        if not is_hit(text, items, settings.get("ngram", 13), settings.get("share"))
    ]
    assert selection.rows.tolist() == wanted
    assert 40 <= len(wanted) < len(texts)
    assert selection.steps[0].facts["rows hit"] == len(texts) - len(wanted)


def test_the_funnel_shows_what_was_hit_by_which_benchmark(tmp_path, benchmark):
    other = tmp_path / "other.jsonl"
    Dataset.from_dict({"q": ["One two three four five six seven eight nine ten.", "Too short."]}
                      ).to_json(other)  # fmt: skip
    table = Dataset.from_dict(
        {"text": ["nothing", "He counts one, two, three, four, five, six, seven, eight, nine, ten"]}
    )
    selection = select(table, Decontaminate([benchmark[0], str(other)], columns=["text"]))
    facts = selection.steps[0].facts
    assert selection.rows.tolist() == [0]
    assert facts["by benchmark"] == "other.jsonl 1"
    assert facts["first hits"] == (
        "row 1 with other.jsonl: 'one two three four five six seven eight nine ten'"
    )
    assert "too short to look for" in facts["benchmark texts"]


def test_chats_are_searched_turn_by_turn_and_as_a_whole(benchmark, texts):
    table = Dataset.from_dict({"turns": [["Hello", texts[0]], ["Hello", "World"]]})
    assert select(table, Decontaminate([benchmark[0]], columns=["turns"])).rows.tolist() == [1]


def test_a_dataset_is_searched_for_as_its_file_is_and_no_recipe_can_hold_it(
    tmp_path, benchmark, texts
):
    path, _ = benchmark
    table = Dataset.from_dict({"text": texts})
    rows = load_rows(path)
    selection = select(table, Decontaminate([rows], columns=["text"]))
    of_file = select(table, Decontaminate([path], columns=["text"]))
    assert selection.rows.tolist() == of_file.rows.tolist()
    name = "<rows: 40, columns: instruction, output>"
    assert name in selection.steps[0].selector and selection.steps[0].entry is None
    assert selection.steps[0].facts["by benchmark"].startswith(f"{name} ")
    assert recipe_of(selection) is None
    with pytest.raises(ValueError, match="it holds rows"):
        Recipe("embedded:sample", [Length()], [Decontaminate([rows])]).to_yaml()


def test_texts_within_messages_and_answers_are_searched_for():
    text = " ".join(f"word{number}" for number in range(20))
    table = Dataset.from_dict({"text": [f"So: {text}", "Nothing of it."]})
    for cell in (
        [{"role": "user", "content": text}],
        {"text": [text], "label": ["A"]},
        [[{"parts": [{"type": "text", "text": text}]}]],
        ["Which?", text],
    ):
        held = Dataset.from_dict({"number": [1], "cell": [cell]})
        selection = select(table, Decontaminate([held], columns=["text"]))
        assert selection.rows.tolist() == [1], cell


def test_rows_that_are_short_empty_or_missing_are_clean_and_equal_names_are_told_apart(tmp_path):
    text = " ".join(f"word{number}" for number in range(20))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Dataset.from_dict({"q": [text]}).to_json(tmp_path / folder / "test.jsonl")
    files = [str(tmp_path / folder / "test.jsonl") for folder in ("a", "b")]
    table = Dataset.from_dict({"text": ["word1 word2", "", None, text]})
    selection = select(table, Decontaminate(files, columns=["text"]))
    assert selection.rows.tolist() == [0, 1, 2]
    assert selection.steps[0].facts["rows hit"] == 1
    assert selection.steps[0].facts["by benchmark"] == f"{files[0]} 1, {files[1]} 1"


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"against": "a.jsonl"}, "against='a.jsonl'"),
        ({"against": []}, r"against=\[\]"),
        ({"against": [3]}, r"against=\[int\]"),
        ({"against": Dataset.from_dict({"q": ["a"]})}, "against=Dataset: list data sets"),
        (
            {"against": [DatasetDict(test=Dataset.from_dict({"q": ["a"]}))]},
            r"against=\[DatasetDict\]: pick a split",
        ),
        ({"against": ["a"], "ngram": 1}, "ngram=1"),
        ({"against": ["a"], "share": 0}, "share=0"),
        ({"against": ["a"], "share": 1.5}, "share=1.5"),
        ({"against": ["a"], "columns": "text"}, "columns='text'"),
        ({"against": ["a"], "split": 3}, "split=3"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_with_the_value_seen(settings, seen):
    with pytest.raises(ValueError, match=seen):
        Decontaminate(**settings)


def test_a_benchmark_that_is_missing_or_has_nothing_to_look_for_is_named(tmp_path):
    table = Dataset.from_dict({"text": ["a"]})
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere.jsonl"):
        select(table, Decontaminate([str(tmp_path / "nowhere.jsonl")], columns=["text"]))
    Dataset.from_dict({"q": ["short"], "n": [3]}).to_json(tmp_path / "few.jsonl")
    with pytest.raises(ValueError, match=r"few\.jsonl' has no text of 8 words"):
        select(table, Decontaminate([str(tmp_path / "few.jsonl")], columns=["text"]))


def test_it_reads_from_a_recipe_as_it_is_written():
    recipe = Recipe.from_yaml(
        "dataset: embedded:sample\nscore: [Length]\n"
        "select: [{Decontaminate: {against: [a.jsonl], ngram: 8, share: 0.7}}]\n"
    )
    assert recipe.select == (Decontaminate(("a.jsonl",), ngram=8, share=0.7),)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not there")
def test_real_solutions_of_a_benchmarks_problems_are_found_and_its_training_rows_are_not():
    against = [str(SHARED / "instruct/gsm8k_test.jsonl.zst")]
    solutions = load_rows(SHARED / "instruct/gsm8k_solutions.jsonl.zst").select(range(300))
    columns = ["instruction", "output"]
    assert len(select(solutions, Decontaminate(against, columns=columns))) == 0
    train = load_rows(SHARED / "instruct/gsm8k_train.jsonl.zst").select(range(300))
    assert len(select(train, Decontaminate(against, columns=columns))) > 285
