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
    assert log[-1]["held_out_loss"] < log[0]["held_out_loss"]
    card = (folder / "README.md").read_text()
    assert f"{log[-1]['held_out_loss']:.2f} nats" in card and "{" not in card


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


def test_training_learns_a_repeating_text(tmp_path):
    from scripts.embedded.train import HELD_OUT_TOKENS, Plan, learning_rate, train_model

    stream = np.tile(np.arange(50, dtype=np.uint16), (HELD_OUT_TOKENS + 60_000) // 50)
    plan = Plan(
        layers=1,
        width=16,
        heads=2,
        tokens=20 * 1_100,
        batch_tokens=1_100,
        warm_up=4,
        learning_rate=1e-2,
    )
    _, log = train_model(plan, stream, tmp_path)
    assert log[-1]["held_out_loss"] < 8 < np.log(8_192)
    assert learning_rate(plan, 0, 20) < learning_rate(plan, 8, 20) > learning_rate(plan, 19, 20)


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
    (title, _, article), *quotes = shaped_like_instructions(document, random.Random(0))
    assert "on lighthouses" in title and "Paragraph 0" in article
    assert quotes and all(sentence in paragraph for _, paragraph, sentence in quotes)
    plain, alpaca = as_prompts("Do it.", "input")
    assert plain == "Do it.\ninput\n" and alpaca.endswith("### Input:\ninput\n\n### Response:")
