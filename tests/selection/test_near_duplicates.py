"""NearDuplicates against all pairs compared one by one, and what it says of the rows it drops."""

import re
import unicodedata

import numpy as np
import pytest
from conftest import SHARED
from datasets import Dataset
from near_copies import edited

from hf_superfilter import NearDuplicates, Recipe, Threshold, format_pairs, load_rows, select
from hf_superfilter.base import Kept


def ngrams(text, size=3):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def jaccard(first, second):
    return len(first & second) / len(first | second)


def all_pairs(texts, threshold):
    """Keep a text unless one kept before it is alike: plain sets, every pair."""
    kept = {}
    for place, text in enumerate(texts):
        own = ngrams(text)
        if all(jaccard(own, other) < threshold for other in kept.values()):
            kept[place] = own
    return list(kept)


@pytest.fixture(scope="module")
def texts(sample):
    return [f"{row['prompt']}\n{row['response']}" for row in sample.select(range(150))]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_it_keeps_what_comparing_all_pairs_keeps(texts, threshold):
    both = edited(texts)
    table = Dataset.from_dict({"text": both})
    rows = select(table, NearDuplicates(threshold, columns=["text"])).rows.tolist()
    wanted = all_pairs(both, threshold)
    # A pair that no band shows is kept twice; nothing is dropped that all pairs would keep.
    assert set(wanted) <= set(rows)
    assert len(rows) <= len(wanted) + 3
    assert len(wanted) < len(both) or threshold == 1.0


def test_a_kept_row_lists_the_rows_it_stands_for_and_each_is_like_it(texts):
    both = [*edited(texts), texts[0], texts[0]]
    selection = select(Dataset.from_dict({"text": both}), NearDuplicates(0.6, columns=["text"]))
    dropped = sorted(row for others in selection.stands_for.values() for row in others)
    assert dropped == np.flatnonzero(~selection.kept).tolist()
    for row, others in selection.stands_for.items():
        for other in others:
            assert jaccard(ngrams(both[row]), ngrams(both[other])) >= 0.6
    assert {300, 301} <= set(selection.stands_for[0])
    facts = selection.steps[0].facts
    assert facts["exact duplicates"] + facts["near-duplicates"] == len(dropped)
    assert f"{len(selection.stands_for)} (row " in facts["rows that stand for others"]


def test_the_better_row_stays_and_an_undefined_one_is_never_kept():
    same = "Name the three primary colours, please."
    table = Dataset.from_dict(
        {"text": [same, same.upper(), same, "How tall?"], "ifd": [0.5, 0.9, float("nan"), 0.1]}
    )
    best = select(table, NearDuplicates(by="ifd", columns=["text"]))
    assert best.rows.tolist() == [1, 3] and best.stands_for == {1: [0]}
    least = select(table, NearDuplicates(by="ifd", largest=False, columns=["text"]))
    assert least.rows.tolist() == [3, 0]
    assert select(table, NearDuplicates(columns=["text"])).rows.tolist() == [0, 3]


def test_down_to_k_rows_takes_the_first_that_are_kept(texts):
    table = Dataset.from_dict({"text": edited(texts)})
    every = select(table, NearDuplicates(columns=["text"])).rows.tolist()
    assert select(table, NearDuplicates(k=20, columns=["text"])).rows.tolist() == every[:20]
    tenth = select(table, NearDuplicates(k=0.1, columns=["text"])).rows.tolist()
    assert tenth == every[:30], "a share is one of all rows of the table"
    with pytest.warns(UserWarning, match="room for 300 rows"):
        select(table, NearDuplicates(k=300, columns=["text"]))


def test_chats_and_texts_without_blanks_or_words_are_compared():
    turns = [["Hello there, my friend.", "How are you today?"]] * 2 + [["Quite another text."]]
    assert select(
        Dataset.from_dict({"turns": turns}), NearDuplicates(columns=["turns"])
    ).rows.tolist() == [0, 2]
    chinese = ["请列出三种颜色和它们的含义。", "请列出三种颜色和它们的含义！", "今天天气怎么样？"]
    odd = [*chinese, "???", "!!!", "", None, ""]
    rows = select(Dataset.from_dict({"text": odd}), NearDuplicates(columns=["text"])).rows
    assert rows.tolist() == [0, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("first", "edited", "other"),
    [
        (
            "今天天气很好我们去公园散步吧",
            "今天天气很好我们去公园散步呢",
            "他昨天买了三本新书给妹妹",
        ),
        ("วันนี้อากาศดีมากเราไปเดินเล่นกัน", "วันนี้อากาศดีมากเราไปเดินเล่นนะ", "เขาซื้อหนังสือใหม่สามเล่มให้น้อง"),
        ("ថ្ងៃនេះអាកាសធាតុល្អណាស់", "ថ្ងៃនេះអាកាសធាតុល្អមែន", "គាត់ទិញសៀវភៅថ្មីបីក្បាល"),
        (
            "오늘 날씨가 좋아서 공원에 갔다",
            "오늘 날씨가 좋아서 공원에 간다",
            "그는 어제 새 책을 세 권 샀다",
        ),
    ],
    ids=["Chinese", "Thai", "Khmer", "Korean"],
)
def test_one_changed_word_is_seen_in_scripts_with_few_or_no_blanks(first, edited, other):
    table = Dataset.from_dict({"text": [first, edited, other]})
    assert select(table, NearDuplicates(0.5, columns=["text"])).rows.tolist() == [0, 2]


def test_vowel_marks_tell_words_apart_and_the_coding_of_accents_does_not():
    apart = ["दिन", "दीन", "กา", "กี"]  # only the marks differ
    rows = select(Dataset.from_dict({"text": apart}), NearDuplicates(columns=["text"])).rows
    assert rows.tolist() == [0, 1, 2, 3]
    text = "Le café où naît l'été, numéro 12"
    coded = [text, unicodedata.normalize("NFD", text), text.replace("12", "１２"), text.upper()]
    rows = select(Dataset.from_dict({"text": coded}), NearDuplicates(1, columns=["text"])).rows
    assert rows.tolist() == [0]


def test_degenerate_columns_of_text_and_of_numbers():
    def kept(texts, values=None, **settings):
        table = Dataset.from_dict({"text": texts, "x": values or [1.0] * len(texts)})
        return select(table, NearDuplicates(columns=["text"], **settings)).rows.tolist()

    nan, inf = float("nan"), float("inf")
    assert kept(["", "", None]) == kept([None, None]) == [0]
    assert kept(["a", "b", "a", "A", "👍", "👎"]) == [0, 1, 4, 5]
    assert kept(["a", "b"], [nan, nan], by="x") == []
    assert kept(["a", "a", "b"], [1.0, inf, nan], by="x") == [1]
    assert kept(["a", "b"], k=0.1) == [], "a tenth of two rows, rounded down"


def test_a_row_dropped_for_another_reason_takes_its_group_with_it():
    def first(table, pool):
        return Kept(pool[:2], stands_for={int(pool[0]): [int(pool[2])]})

    table = Dataset.from_dict({"text": ["a", "b", "c"], "x": [0.0, 1.0, 2.0]})
    assert select(table, first).stands_for == {0: [2]}
    assert select(table, [first, Threshold("x", above=0.5)]).stands_for == {}


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": 1.1}, "threshold=1.1"),
        ({"threshold": True}, "threshold=True"),
        ({"by": 5}, "by=5"),
        ({"k": 0}, "k=0"),
        ({"largest": 1}, "largest=1"),
        ({"columns": "text"}, "columns='text'"),
        ({"columns": []}, r"columns=\[\]"),
        ({"ngram": 0}, "ngram=0"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_with_the_value_seen(settings, seen):
    with pytest.raises(ValueError, match=seen):
        NearDuplicates(**settings)


def test_a_column_that_is_missing_or_holds_no_texts_is_named():
    table = Dataset.from_dict({"text": ["a"], "ifd": [0.5]})
    with pytest.raises(ValueError, match="no column 'prompt' in the table"):
        select(table, NearDuplicates())
    with pytest.raises(ValueError, match="column 'ifd' holds"):
        select(table, NearDuplicates(columns=["ifd"]))


def test_it_reads_from_a_recipe_as_it_is_written():
    recipe = Recipe.from_yaml(
        "dataset: embedded:sample\nscore: [Length]\n"
        "select: [{NearDuplicates: {by: length, columns: [prompt], threshold: 0.5}}]\n"
    )
    wanted = NearDuplicates(0.5, by="length", columns=("prompt",))
    assert recipe.select == (wanted,) and Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not there")
def test_real_solutions_of_one_problem_are_found_as_all_pairs_find_them():
    rows = format_pairs(load_rows(SHARED / "instruct/gsm8k_solutions.jsonl.zst").select(range(500)))
    texts = [f"{row['prompt']}\n{row['response']}" for row in rows]
    kept = select(rows, NearDuplicates()).rows.tolist()
    wanted = all_pairs(texts, 0.7)
    assert set(wanted) <= set(kept) and len(kept) <= len(wanted) + 1
