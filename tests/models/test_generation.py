"""Students answer to the whole prompt, or the log says how much of it they read."""

import json
import shutil

import pytest
import torch
from reference import plain

from hf_superfilter.models.generation import generate

PROMPT = "Name a colour that the sky may have, and say when it has it."


def answer_of(folder, ids, tokens):
    """The likeliest tokens behind some ids, one by one, by a plain forward pass each."""
    tokenizer, model = plain(folder)
    ids, first = list(ids), len(ids)
    while len(ids) < first + tokens and (len(ids) == first or ids[-1] != tokenizer.eos_token_id):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[first:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("most", [20, 128, 1_000])  # the window is 128 tokens
def test_a_prompt_that_fits_is_read_whole_however_long_an_answer_may_be(most, gpt2, caplog):
    ids = plain(gpt2)[0](PROMPT)["input_ids"]
    room = min(most, 128 - len(ids))
    assert generate(gpt2, [PROMPT], max_new_tokens=most) == [answer_of(gpt2, ids, room)]
    assert "prompts" not in caplog.text


def test_of_a_prompt_that_is_too_long_the_front_and_the_last_tokens_are_read(llama, caplog):
    """The window is 256 tokens, half of which an answer may have."""
    prompt = "The sky is blue, and so is the sea. " * 30 + PROMPT
    bos, *ids = plain(llama)[0](prompt)["input_ids"]
    expected = answer_of(llama, [bos, *ids[-127:]], 128)
    assert generate(llama, [prompt, PROMPT], max_new_tokens=1_000)[0] == expected
    assert "reads only the last 127 tokens of 1 of the 2 prompts" in caplog.text


def test_a_front_that_a_chat_template_has_written_is_not_read_twice(llama):
    tokenizer, _ = plain(llama)
    ids = tokenizer(PROMPT)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id != ids[1]
    expected = [answer_of(llama, ids, 20)] * 2
    assert generate(llama, [tokenizer.bos_token + PROMPT, PROMPT], max_new_tokens=20) == expected


def test_an_answer_ends_at_the_end_that_students_learn_whatever_the_model_names(llama, tmp_path):
    """The tokenizer's end of text, which a row is trained with, is not the model's in all cases."""
    tokenizer, model = plain(llama)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.inference_mode():
        token = int(model(input_ids=ids).logits[0, -1].argmax())
    assert token != tokenizer.eos_token_id
    other = shutil.copytree(llama, tmp_path / "other")
    file = other / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"eos_token": tokenizer.convert_ids_to_tokens(token)}))
    assert generate(llama, [PROMPT], max_new_tokens=20) != [""]
    assert generate(str(other), [PROMPT], max_new_tokens=20) == [""]


def test_an_empty_prompt_is_answered_behind_the_beginning_of_a_text(gpt2):
    assert generate(gpt2, [""], max_new_tokens=5) == [answer_of(gpt2, [0], 5)]
