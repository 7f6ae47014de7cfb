"""Reasoning against losses computed one by one with transformers, and against each layout."""

import numpy as np
import pytest
from datasets import Dataset
from reference import token_losses
from transformers import AutoTokenizer

from hf_superfilter import Perplexity, Reasoning, format_pairs, score
from hf_superfilter.scoring.reasoning import Split, split_response

PROMPT, ANSWER = "What is one and one?\n", "The sum is two."
TRACE = "<think>One and one are added.</think>\n"


@pytest.mark.parametrize("name", ["weak", "gpt2", "llama"])
def test_the_parts_and_the_gain_are_those_of_losses_computed_one_by_one(name, request):
    folder = request.getfixturevalue(name)
    columns = Reasoning(folder, dtype="float32")({"prompt": [PROMPT], "response": [TRACE + ANSWER]})
    trace = token_losses(folder, PROMPT, TRACE)
    answer = token_losses(folder, PROMPT + TRACE, ANSWER)
    plain = token_losses(folder, PROMPT, ANSWER)
    assert columns["reasoning"][0] == pytest.approx(np.exp(trace.mean()), rel=1e-4)
    assert columns["reasoning_answer"][0] == pytest.approx(np.exp(answer.mean()), rel=1e-4)
    assert columns["reasoning_gain"][0] == pytest.approx(plain.mean() - answer.mean(), abs=1e-4)
    counts = columns["reasoning_tokens"][0], columns["reasoning_answer_tokens"][0]
    assert counts == (len(trace), len(answer))


def test_both_parts_together_are_the_perplexity_of_the_response(weak):
    batch = {"prompt": [PROMPT], "response": [TRACE + ANSWER]}
    columns = Reasoning(weak, dtype="float32")(batch)
    sizes = columns["reasoning_tokens"][0], columns["reasoning_answer_tokens"][0]
    parts = columns["reasoning"][0], columns["reasoning_answer"][0]
    whole = Perplexity(weak, dtype="float32")(batch)
    assert whole["ppl_tokens"][0] == sum(sizes)
    assert np.log(whole["ppl"][0]) == pytest.approx(np.dot(sizes, np.log(parts)) / sum(sizes))


def test_what_has_no_reasoning_or_no_answer_says_so(weak):
    responses = [ANSWER, "<think>\n\n</think>\n" + ANSWER, TRACE, "", None]
    columns = Reasoning(weak)({"prompt": [PROMPT] * 5, "response": responses})
    assert columns["reasoning_status"] == [
        "no_reasoning", "no_reasoning", "ok", "empty_response", "empty_response"
    ]  # fmt: skip
    assert np.isfinite(columns["reasoning"]).tolist() == [False, False, True, False, False]
    assert np.isfinite(columns["reasoning_answer"]).tolist() == [True, True, False, False, False]
    assert np.isnan(columns["reasoning_gain"]).all()
    assert columns["reasoning_tokens"][:2].tolist() == [0, 0]


def test_a_trace_longer_than_the_window_has_its_whole_length(weak):
    long = "<think>" + "one and two and " * 300 + "</think>\n" + ANSWER
    columns = Reasoning(weak, max_length=100)({"prompt": [PROMPT], "response": [long]})
    assert columns["reasoning_status"] == ["truncated"] and columns["reasoning_tokens"][0] > 900
    assert columns["reasoning_answer_tokens"][0] > 0 and np.isnan(columns["reasoning_answer"][0])


LAYOUTS = {
    "tags": [{"role": "assistant", "content": "<think>One and one.</think>\nTwo."}],
    "open by the template": [{"role": "assistant", "content": "One and one.</think>\nTwo."}],
    "a field": [{"role": "assistant", "content": "Two.", "reasoning_content": "One and one."}],
    "thinking": [{"role": "assistant", "content": "Two.", "thinking": "One and one."}],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_reasoning_is_split_at_the_answer(layout, weak, tmp_path):
    messages = [{"role": "user", "content": "1 + 1?"}, *LAYOUTS[layout]]
    pairs = format_pairs(Dataset.from_list([{"messages": messages}] * 2), reasoning="split")
    assert pairs["response_reasoning"][0] == ["One and one."]
    table = score(pairs, [Reasoning(weak)], tmp_path / "run")
    (answer,) = AutoTokenizer.from_pretrained(weak)(["Two."]).input_ids
    assert table["reasoning_answer_tokens"][0] == len(answer)
    assert table["reasoning_status"][0] == "ok" and table["reasoning_tokens"][0] > 3


def test_split_keeps_prompt_and_response_as_keep_does(sample):
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "Two.", "reasoning_content": "One and one."},
        {"role": "user", "content": "And 2?"},
        {"role": "assistant", "content": "Four."},
    ]
    rows = Dataset.from_list([{"messages": messages}])
    kept, split = format_pairs(rows), format_pairs(rows, reasoning="split")
    assert kept[0] == {key: split[0][key] for key in kept.column_names}
    assert split[0]["response_reasoning"] == ["One and one.", ""]
    plain = sample.select_columns(["instruction", "input", "output"]).select(range(3))
    kept, split = format_pairs(plain), format_pairs(plain, reasoning="split")
    assert kept[:] == {key: split[:][key] for key in kept.column_names}
    assert split["response_reasoning"][:] == [""] * 3


def test_a_preference_keeps_both_columns_apart():
    rows = Dataset.from_list(
        [{"prompt": "1 + 1?", "chosen": "<think>One.</think>Two.", "rejected": "Three."}]
    )
    (row,) = format_pairs(rows, reasoning="split")
    assert (row["response_rejected"], row["response_reasoning"]) == ("Three.", "One.")


def test_a_known_reasoning_that_does_not_begin_the_response_is_no_border():
    assert split_response("Two.", "One.") == Split("", "Two.")
