"""The embedded files are those on record, the sample is what it says, and the training learns."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hf_superfilter import IFD, embedded_model, embedded_sample, load_rows
from hf_superfilter.embedded import MODELS, model_folder, portable_name
from scripts.embedded.card import DIGESTS, digests

KINDS = {"mismatched", "empty", "truncated", "copied_prompt", "gibberish", "near_duplicate"}


def test_every_embedded_file_has_its_recorded_digest():
    recorded = dict(reversed(line.split("  ")) for line in DIGESTS.read_text().splitlines())
    assert digests() == recorded, "run python -m scripts.embedded.card after a change that is meant"


@pytest.mark.parametrize("name", MODELS)
def test_an_embedded_model_is_small_has_a_card_and_a_log(name):
    folder = Path(embedded_model(name))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    first, *log = [
        json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()
    ]
    assert first["parameters"] == sum(
        parameter.numel() for parameter in IFD(folder).language_model().model.parameters()
    )
    assert log[-1]["tokens"] > log[0]["tokens"] == 0
    card = (folder / "README.md").read_text()
    assert f"{log[-1]['held_out_loss']:.2f} nats" in card and "{" not in card


@pytest.mark.parametrize("name", MODELS)
def test_an_embedded_model_copies_from_its_context(name):
    text = "The tall ship left the cold harbour with nine barrels of salt and a very old map."
    other = "Which of these four colours would you choose for the walls of a small kitchen?"
    ifd = IFD(f"embedded:{name}")({"prompt": [text + "\n", other + "\n"], "response": [text] * 2})
    repeated, unrelated = ifd["ifd"]
    assert repeated < 0.1 < unrelated / 3


def test_an_unknown_embedded_model_says_which_there_are():
    with pytest.raises(ValueError, match="did you mean 'weak'"):
        embedded_model("weka")


def test_a_record_names_an_embedded_model_without_a_path():
    assert IFD(embedded_model("weak")) == IFD("embedded:weak")
    assert portable_name(model_folder("embedded:strong")) == "embedded:strong"
    assert portable_name("org/model") == model_folder("org/model") == "org/model"


def test_the_sample_says_of_every_row_what_is_wrong_with_it():
    rows = load_rows(embedded_sample())
    assert set(rows.column_names) == {"instruction", "input", "output", "category", "planted"}
    planted = Counter(rows["planted"][:])
    assert len(rows) >= 400 and planted[""] >= 350
    assert set(planted) == KINDS | {""} and all(planted[kind] >= 15 for kind in KINDS)
    for row in rows:
        assert row["instruction"].strip()
        assert bool(row["output"].strip()) == (row["planted"] != "empty")
    good = [row["output"] for row in rows if not row["planted"]]
    assert len(set(good)) == len(good)
    assert all(row["output"] in good for row in rows if row["planted"] == "mismatched")


SMALL = {"layers": 1, "width": 16, "heads": 2, "batch_tokens": 2_048, "warm_up": 4}


def test_training_learns_a_repeating_text(tmp_path):
    from scripts.embedded.train import Plan, learning_rate, train_model

    text = np.tile(np.arange(50, dtype=np.uint16), 400)
    plan = Plan(**SMALL, tokens=20 * 2_048, learning_rate=1e-2)
    _, log = train_model(plan, text, text[:2_000], tmp_path / "small.pt", compiled=False)
    assert log[-1]["held_out_loss"] < 8 < np.log(8_192)
    rates = [learning_rate(plan, step, step / 20) for step in (0, 8, 19)]
    assert rates[0] < rates[1] > rates[2]


def test_repeated_windows_hold_only_tokens_of_their_own():
    import torch

    from scripts.embedded.train import with_repeats

    windows = torch.arange(8 * 65).view(8, 65)
    repeated = with_repeats(windows, 1.0, seed=0)
    assert (repeated // 65 == torch.arange(8)[:, None]).all()
    assert all(len(set(window.tolist())) <= 62 for window in repeated)
    assert torch.equal(with_repeats(windows, 0.0, seed=0), windows)


def test_training_cools_down_by_the_time_allowed(tmp_path):
    from scripts.embedded.train import Plan, train_model

    text = np.tile(np.arange(50, dtype=np.uint16), 400)
    plan = Plan(**SMALL, tokens=10**12)
    _, log = train_model(
        plan, text, text[:2_000], tmp_path / "small.pt", minutes=0.0, compiled=False
    )
    assert [entry["tokens"] for entry in log] == [0]


def test_the_forward_pass_of_training_is_that_of_transformers():
    import torch

    from scripts.embedded.train import loss_of

    model = IFD("embedded:weak").language_model().model
    ids = torch.arange(200, 264).view(2, 32)
    with torch.no_grad():
        hidden = model.transformer(input_ids=ids[:, :-1]).last_hidden_state
        logits = hidden.float() @ model.transformer.wte.weight.float().t()
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss = loss_of(model, ids, compiled=False)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_the_chunked_loss_has_the_gradients_of_the_plain_one():
    import torch

    from scripts.embedded.train import HEAD_CHUNK, NextTokenLoss

    torch.manual_seed(0)
    hidden = torch.randn(HEAD_CHUNK + 30, 8, requires_grad=True)
    head = torch.randn(40, 8, requires_grad=True)
    targets = torch.randint(40, (len(hidden),))
    plain = torch.nn.functional.cross_entropy(hidden @ head.t(), targets)
    expected = torch.autograd.grad(plain, [hidden, head])
    loss = NextTokenLoss.apply(hidden, head, targets)
    gradients = torch.autograd.grad(loss, [hidden, head])
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradients, expected)


def test_instruction_rows_made_of_a_document_quote_it():
    import random

    from scripts.embedded.corpus import as_prompts, shaped_like_instructions

    text = "\n\n".join(
        f"Paragraph {i} speaks of lighthouses. It says number {i} in many words. " * 3
        for i in range(4)
    )
    document = {
        "id": "digitalgov/news/2020-01-02-on-lighthouses",
        "source": "digitalgov",
        "text": text,
    }
    (title, _, article), *rows = shaped_like_instructions(document, random.Random(0))
    assert "on lighthouses" in title and "Paragraph 0" in article
    assert rows and all(set(response.split()) <= set(text.split()) for _, _, response in rows)
    prompts = as_prompts("Do it.", "input")
    assert prompts["plain"] == "Do it.\ninput\n" and prompts["chat"] == "Do it.\n\ninput"
    assert prompts["alpaca"].endswith("### Input:\ninput\n\n### Response:")


def test_rows_ask_for_the_terms_and_lists_of_a_document():
    from scripts.embedded.corpus import definitions_in, lists_in, without_line_breaks

    text = (
        "A lighthouse is a tower with a lamp, seen from far away at night. Ships need it.\n\n"
        "Parts of it:\n\n- lamp\n- lens\n- stairs\n"
    )
    (term, explanation), *_ = definitions_in(text)
    assert term == "lighthouse" and explanation.startswith("A lighthouse is a tower")
    assert list(lists_in(text)) == [("Parts of it", "- lamp\n- lens\n- stairs")]
    assert without_line_breaks("wrapped at a\ncolumn\n\nNext") == "wrapped at a column\n\nNext"
