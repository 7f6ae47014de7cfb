"""Classifier against transformers run one text at a time, for encoders and decoders."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from hf_superfilter import Classifier

BATCH = {
    "prompt": ["Say hello.\n", "Name a colour.\n", "Empty\n", "Why?"],
    "response": ["Hello there, my friend, how are you today?", "Red.", "", "Because it is so."],
}


def save(model, tokenizer, folder):
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory, weak):
    """A classifier of three labels."""
    tokenizer = AutoTokenizer.from_pretrained(weak)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
        id2label={0: "bad", 1: "middling", 2: "good"},
    )  # fmt: skip
    return save(
        BertForSequenceClassification(config), tokenizer, tmp_path_factory.mktemp("bert") / "m"
    )


@pytest.fixture(scope="module")
def reward(tmp_path_factory, chat):
    """A reward model: one output, a chat template, and no padding token."""
    tokenizer = AutoTokenizer.from_pretrained(chat)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, num_labels=1,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return save(
        GPT2ForSequenceClassification(config), tokenizer, tmp_path_factory.mktemp("reward") / "m"
    )


@torch.inference_mode()
def plain(folder, *parts, **settings):
    """The logits of one text, as transformers gives them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(**tokenizer(*parts, return_tensors="pt", **settings)).logits[0].double()


def test_a_label_s_probability_is_the_softmax_of_single_texts(bert):
    columns = Classifier(bert, label="good")(BATCH)
    wanted = [
        plain(bert, "Say hello.\nHello there, my friend, how are you today?").softmax(-1)[2],
        plain(bert, "Name a colour.\nRed.").softmax(-1)[2],
        np.nan,
        plain(bert, "Why?\nBecause it is so.").softmax(-1)[2],
    ]
    np.testing.assert_allclose(columns["classifier"], wanted, rtol=1e-4)
    assert columns["classifier_status"] == ["ok", "ok", "empty_response", "ok"]
    np.testing.assert_array_equal(
        columns["classifier"], Classifier(bert, label=2)(BATCH)["classifier"]
    )


def test_raw_outputs_sigmoids_and_pairs_are_to_be_had(bert):
    raw = Classifier(bert, label="bad", activation="none")(BATCH)["classifier"]
    text = plain(bert, "Name a colour.\nRed.")
    assert raw[1] == pytest.approx(float(text[0]), rel=1e-4)
    sigmoid = Classifier(bert, label="bad", activation="sigmoid")(BATCH)["classifier"]
    assert sigmoid[1] == pytest.approx(float(text[0].sigmoid()), rel=1e-4)
    pair = Classifier(bert, label="bad", form="pair", activation="none")(BATCH)["classifier"]
    wanted = float(plain(bert, "Name a colour.", "Red.")[0])
    assert pair[1] == pytest.approx(wanted, rel=1e-4)


def test_a_reward_model_reads_rows_in_its_chat_template_and_gives_its_own_output(reward):
    columns = Classifier(reward)(BATCH)
    text = "<user> Name a colour.\n<assistant> Red.\n"
    wanted = float(plain(reward, text, add_special_tokens=False)[0])
    assert columns["classifier"][1] == pytest.approx(wanted, rel=1e-4)
    assert not Classifier(reward).classifier().pads, "it has no token to pad with"


def test_a_chat_is_scored_by_its_last_turn(bert):
    chat = {"prompt": [["Hi\n", "Hi\nHello\nHow?\n"]], "response": [["Hello", "Well."]]}
    last = {"prompt": ["Hi\nHello\nHow?\n"], "response": ["Well."]}
    scorer = Classifier(bert, label=1)
    assert scorer(chat)["classifier"][0] == scorer(last)["classifier"][0]


def test_a_long_text_is_cut_and_said_so(bert):
    long = {"prompt": ["Say a lot.\n"], "response": ["word " * 200]}
    columns = Classifier(bert, label=0)(long)
    assert columns["classifier_status"] == ["truncated"]
    assert columns["classifier_tokens"].tolist() == [64]


def test_what_cannot_be_is_refused(bert, weak):
    with pytest.raises(ValueError, match=r"label='best': .* has 3 outputs, bad, middling, good"):
        Classifier(bert, label="best")(BATCH)
    with pytest.raises(ValueError, match="label=None"):
        Classifier(bert)(BATCH)
    with pytest.raises(ValueError, match="no chat template"):
        Classifier(bert, label=0, form="chat")(BATCH)
    with pytest.raises(ValueError, match=r"lack .*no classifier|no kind that transformers"):
        Classifier(weak, label=0)(BATCH)
    for settings in ({"label": 1.5}, {"form": "html"}, {"activation": "relu"}, {"label": True}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Classifier("m", **settings)
