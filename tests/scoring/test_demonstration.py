"""Demonstration against losses computed one by one with transformers."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_superfilter import Demonstration, Recipe, TopK, format_pairs, score
from hf_superfilter.runs.manifest import read_manifest

HELD_OUT = [
    {"prompt": "Name a colour.\n", "response": "Blue is a colour."},
    {"prompt": "What is two and two?\n", "response": "Four."},
    {"prompt": "Name a bird.\n", "response": "The robin, which is small and red."},
]
ROWS = {
    "prompt": ["Name a fruit.\n", "Say hello.\n", "Name a town.\n"],
    "response": ["An apple is a fruit.", "Hello there, my friend.", "Paris."],
}


@torch.inference_mode()
def losses(folder, demonstration=None):
    """The mean loss of each held-out response, tokenised apart from what stands before it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    means = []
    for row in HELD_OUT:
        front = tokenizer("").input_ids
        ids = list(front)
        if demonstration is not None:
            ids += tokenizer(demonstration, add_special_tokens=False).input_ids
            ids += tokenizer("\n\n", add_special_tokens=False).input_ids
        ids += tokenizer(row["prompt"], add_special_tokens=False).input_ids
        start = len(ids)
        ids += tokenizer(row["response"], add_special_tokens=False).input_ids
        steps = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        scored = zip(steps[start - 1 :], ids[start:], strict=True)
        means.append(np.mean([-float(step[token]) for step, token in scored]))
    return np.array(means)


def gains(folder):
    texts = map("".join, zip(ROWS["prompt"], ROWS["response"], strict=True))
    return np.stack([losses(folder) - losses(folder, text) for text in texts])


@pytest.mark.parametrize("name", ["weak", "gpt2", "llama"])
def test_the_gain_is_that_of_losses_computed_one_by_one(name, request):
    folder = request.getfixturevalue(name)
    columns = Demonstration(folder, on=HELD_OUT, dtype="float32")(ROWS)
    wanted = gains(folder)
    np.testing.assert_allclose(columns["demonstration"], wanted.mean(axis=1), atol=2e-5)
    errors = wanted.std(axis=1, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(columns["demonstration_error"], errors, atol=2e-5)
    np.testing.assert_array_equal(columns["demonstration_share"], (wanted > 0).mean(axis=1))
    assert columns["demonstration_status"] == ["ok"] * 3


def test_a_row_that_is_the_held_out_row_helps_more_than_any_other(weak):
    scorer = Demonstration(weak, on=HELD_OUT[:1])
    rows = [HELD_OUT[0], HELD_OUT[1], HELD_OUT[2]]
    columns = scorer({key: [row[key] for row in rows] for key in ("prompt", "response")})
    assert np.argmax(columns["demonstration"]) == 0 and columns["demonstration"][0] > 0
    assert np.isnan(columns["demonstration_error"]).all(), "one held-out row has no spread"


def test_the_order_of_held_out_rows_and_the_size_of_a_batch_change_nothing(weak):
    first = Demonstration(weak, on=HELD_OUT, dtype="float32")(ROWS)
    turned = Demonstration(weak, on=HELD_OUT[::-1], dtype="float32", batch_tokens=40)(ROWS)
    np.testing.assert_allclose(first["demonstration"], turned["demonstration"], atol=1e-5)


def test_what_cannot_be_a_demonstration_is_nan_with_its_reason(weak):
    batch = {
        "prompt": ["Hi.\n", "Hi.\n", None, "word " * 900, "Hi.\n"],
        "response": ["", None, "Plain text alone.", "Too late.", "word " * 900],
    }
    columns = Demonstration(weak, on=HELD_OUT, max_length=200)(batch)
    assert columns["demonstration_status"] == [
        "empty_response", "empty_response", "ok", "prompt_too_long", "truncated"
    ]  # fmt: skip
    is_nan = [True, True, False, True, False]
    for column in ("demonstration", "demonstration_error", "demonstration_share"):
        assert np.isnan(columns[column]).tolist() == is_nan
    assert columns["demonstration_tokens"][4] < 200


def test_rows_that_are_held_out_rows_themselves_are_counted(llama):
    scorer = Demonstration(llama, on=HELD_OUT)
    batch = {key: [HELD_OUT[1][key], "Another."] for key in ("prompt", "response")}
    assert scorer(batch).counts == {"rows that are among the held-out rows": 1}


def test_a_chat_is_its_last_turn_with_all_before_it(weak):
    prompts = ["Hi\n", "Hi\nHello\nName a fruit.\n"]
    scorer = Demonstration(weak, on=HELD_OUT, dtype="float32")
    chat = scorer({"prompt": [prompts], "response": [["Hello", "An apple."]]})
    single = scorer({"prompt": prompts[1:], "response": ["An apple."]})
    assert chat["demonstration"][0] == pytest.approx(single["demonstration"][0])
    held_out = Demonstration(
        weak, on=[{"prompt": prompts, "response": ["Hello", "An apple."]}], dtype="float32"
    )
    assert held_out.on == ((prompts[1], "An apple."),)


def test_rows_of_a_file_are_drawn_by_the_seed_and_formatted(weak, tmp_path):
    path = tmp_path / "held_out.jsonl"
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": "1 2 3"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = format_pairs(Dataset.from_list(rows))
    by_name = Demonstration(weak, on=str(path), sample=5, seed=3)
    in_memory = Demonstration(weak, on=pairs, sample=5, seed=3)
    assert len(in_memory.on) == 5 and set(in_memory.on) < set(
        zip(pairs["prompt"], pairs["response"], strict=True)
    )
    np.testing.assert_array_equal(by_name(ROWS)["demonstration"], in_memory(ROWS)["demonstration"])
    before = by_name.identity()
    first = by_name(ROWS)["demonstration"]
    path.write_text(json.dumps(rows[0] | {"output": "Something else."}) + "\n")
    assert by_name.identity() != before, "the scores of a file that changed are not taken over"
    assert not np.array_equal(by_name(ROWS)["demonstration"], first)


def test_the_cost_is_stated_before_the_first_pass_and_kept(weak, tmp_path, caplog):
    rows = Dataset.from_dict(ROWS)
    scorer = Demonstration(weak, on=HELD_OUT)
    cost = scorer.cost(rows)
    tokenizer = AutoTokenizer.from_pretrained(weak)

    def size(texts):
        return sum(len(tokenizer(text).input_ids) for text in texts)

    texts = list(map("".join, zip(ROWS["prompt"], ROWS["response"], strict=True)))
    tails = size([row["prompt"] + row["response"] for row in HELD_OUT])
    assert cost == {
        "rows": 3, "held_out": 3, "passes": 9, "tokens": size(texts) + 3 * tails,
    }  # fmt: skip
    score(rows, [scorer], tmp_path / "run")
    assert f"9 passes over {cost['tokens']} tokens" in caplog.text
    recorded = read_manifest(tmp_path / "run")["scorers"]["demonstration"]["trial"]
    assert recorded == cost


def test_it_is_written_into_a_recipe_and_read_back(weak):
    recipe = Recipe(
        "embedded:sample", [Demonstration(weak, on=HELD_OUT)], [TopK("demonstration", 0.1)]
    )
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again.score[0] == recipe.score[0] and again.score[0].on[0] == (
        HELD_OUT[0]["prompt"],
        HELD_OUT[0]["response"],
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"on": ""}, {"on": []}, {"on": None}, {"on": 3}, {"sample": 0}, {"seed": -1},
     {"split": 1}],
    ids=str,
)  # fmt: skip
def test_a_bad_setting_is_refused(settings):
    valid = {"on": HELD_OUT} if "on" not in settings and settings else {}
    with pytest.raises(ValueError, match=r"on=|sample=|seed=|split="):
        Demonstration("m", **(valid | settings))


def test_held_out_rows_without_a_response_are_refused_when_none_is_left(weak):
    scorer = Demonstration(weak, on=[{"prompt": "Hi.\n", "response": ""}])
    with pytest.raises(ValueError, match="none of its 1 rows has a response"):
        scorer(ROWS)
