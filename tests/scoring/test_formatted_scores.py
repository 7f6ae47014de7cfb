"""What is a response decides what is scored: formats and scorers together, against plain code."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from reference import OneRowAtATime

from hf_superfilter import IFD, Perplexity, embedded_model, format_pairs, load_rows, score

SHARED = Path(__file__).parents[2].parent / "shared/data/instruct"
ANSWER = "It is the capital of France, on the Seine."
OTHER = "I do not know what you mean by that."


@pytest.fixture(scope="module")
def plain():
    return OneRowAtATime(str(embedded_model("weak")))


@pytest.fixture(scope="module")
def ifd():
    return IFD("embedded:weak", dtype="float32", rejected=True)


def scored(scorer, rows, **options):
    return scorer(format_pairs(Dataset.from_list(rows), **options)[:])


def chat(*messages):
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


def test_a_turn_without_weight_is_context_and_its_tokens_do_not_count(plain):
    row = chat(("user", "Hello."), ("assistant", "Hi."), ("user", "Paris?"), ("assistant", ANSWER))
    row["messages"][1]["weight"] = 0
    columns = scored(IFD("embedded:weak", dtype="float32"), [row])
    wanted = plain.nats("Hello.\nHi.\nParis?\n", ANSWER)
    np.testing.assert_allclose(columns["ifd"], wanted.ifd, rtol=1e-4)
    assert columns["ifd_status"] == ["ok"]


def test_an_opening_assistant_turn_has_no_prompt_and_leaves_the_chats_value_alone(plain):
    rows = [
        chat(("assistant", "Hello!"), ("user", "Paris?"), ("assistant", ANSWER)),
        chat(("assistant", "Hello there!")),
        chat(("user", " \u00a0"), ("assistant", "Hello there!")),
        chat(("assistant", "Hello!"), ("user", "Paris?"), ("assistant", "")),
    ]
    columns = scored(IFD("embedded:weak", dtype="float32"), rows)
    wanted = plain.nats("Hello!\nParis?\n", ANSWER).ifd
    np.testing.assert_allclose(columns["ifd"], [wanted, *[math.nan] * 3], rtol=1e-4)
    assert columns["ifd_status"] == ["ok", "no_prompt", "no_prompt", "no_prompt"]
    assert columns["ifd_tokens"][1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "row",
    [
        {"text": ANSWER},
        {"instruction": "", "output": ANSWER},
        {"prompt": " \n", "completion": ANSWER},
    ],
)
@pytest.mark.parametrize("template", ["none", "alpaca", "Q: {instruction} A: "])
def test_text_without_a_prompt_has_a_perplexity_and_no_ifd(plain, row, template):
    columns = scored(IFD("embedded:weak", dtype="float32"), [row], template=template)
    assert math.isnan(columns["ifd"][0]) and columns["ifd_status"] == ["no_prompt"]
    perplexity = scored(Perplexity("embedded:weak", dtype="float32"), [row], template=template)
    assert perplexity["ppl_status"] == ["ok"]


def test_both_sides_of_a_preference_are_scored_and_compared_when_asked(plain, ifd):
    rows = [
        {"instruction": "Paris?", "chosen": ANSWER, "rejected": OTHER},
        {"instruction": "Paris?", "chosen": ANSWER, "rejected": ""},
    ]
    columns = scored(ifd, rows)
    chosen, rejected = plain.nats("Paris?\n", ANSWER), plain.nats("Paris?\n", OTHER)
    np.testing.assert_allclose(columns["ifd"], [chosen.ifd] * 2, rtol=1e-4)
    np.testing.assert_allclose(columns["ifd_rejected"], [rejected.ifd, math.nan], rtol=1e-4)
    difference = [chosen.ifd - rejected.ifd, math.nan]
    np.testing.assert_allclose(columns["ifd_difference"], difference, rtol=1e-3)
    assert columns["ifd_rejected_status"] == ["ok", "empty_response"]
    perplexity = scored(Perplexity("embedded:weak", dtype="float32", rejected=True), rows)
    np.testing.assert_allclose(
        perplexity["ppl_rejected"], [math.exp(rejected.given), math.nan], rtol=1e-4
    )
    assert "ifd_rejected" not in scored(IFD("embedded:weak", dtype="float32"), rows)


def test_a_run_and_an_arrow_table_hold_the_scores_of_both_sides(ifd, tmp_path):
    rows = [{"instruction": "Paris?", "chosen": ANSWER, "rejected": OTHER}]
    pairs = format_pairs(Dataset.from_list(rows))
    expected = ifd(pairs[:])
    table = score(pairs, [ifd], tmp_path)
    mapped = pairs.with_format("arrow").map(ifd, batched=True).with_format(None)
    for column in ("ifd", "ifd_rejected", "ifd_difference"):
        np.testing.assert_allclose(table[column][:], expected[column], rtol=1e-6)
        np.testing.assert_allclose(mapped[column][:], expected[column], rtol=1e-6)
    changed = pairs.map(lambda row: {"response_rejected": ANSWER})
    with pytest.raises(ValueError, match="ifd"):
        score(changed, [ifd], tmp_path)


def test_rows_without_a_second_answer_say_which_column_is_missing(ifd):
    with pytest.raises(ValueError, match=r"no column 'response_rejected'.*format_pairs"):
        scored(ifd, [{"instruction": "Paris?", "output": ANSWER}])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows lie in ../shared/data")
def test_every_real_preference_has_its_two_answers_and_the_conversation_before_them():
    path = SHARED / "lf_dpo_en_demo.jsonl.zst"
    lines = pa.input_stream(str(path), compression="zstd").read().decode().split("\n")
    source = [json.loads(line) for line in lines if line]
    table = format_pairs(load_rows(path))
    assert len(source) == 300 and table["response"][:] == [[r["chosen"]["value"]] for r in source]
    assert table["response_rejected"][:] == [[r["rejected"]["value"]] for r in source]
    assert table["prompt"][:] == [
        ["".join(turn["value"] + "\n" for turn in row["conversations"])] for row in source
    ]
