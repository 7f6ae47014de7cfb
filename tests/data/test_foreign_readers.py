"""Other trainers' own readers on what export writes: `pytest -m slow`, where they are installed.

LLaMA-Factory 0.9.5 and axolotl 0.19 ask for older datasets, so they do not install beside this
package: put their
wheels and what these import on the path (`pip install --no-deps`) to run this.
"""

import json

import pytest
from datasets import Dataset

from hf_superfilter import TopK, export, format_pairs, select

pytestmark = pytest.mark.slow

ALPACA = {
    "instruction": ["Add.", "Name a colour."],
    "input": ["1 and 2", ""],
    "output": ["3", "red"],
}
PREFERENCE = {"prompt": ["Add 1 and 2."], "chosen": ["3"], "rejected": ["4"]}


def exported(columns, layout, path):
    """The rows of a selection, written in a layout and read as JSON Lines."""
    table = format_pairs(Dataset.from_dict(columns))
    table = table.add_column("score", list(map(float, range(len(table), 0, -1))))
    export(select(table, TopK("score", len(table))), path, layout)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def attributes():
    parser = pytest.importorskip("llamafactory.data.parser", reason="LLaMA-Factory is not here")
    return lambda **settings: _with(parser.DatasetAttr("file", "rows"), settings)


def _with(attribute, settings):
    for name, value in settings.items():
        setattr(attribute, name, value)
    return attribute


def test_llama_factory_reads_alpaca_and_sharegpt(attributes, tmp_path):
    from llamafactory.data.converter import AlpacaDatasetConverter, SharegptDatasetConverter

    rows = exported(ALPACA, "alpaca", tmp_path / "alpaca.jsonl")
    read = AlpacaDatasetConverter(attributes(), None)(rows[0])
    assert read["_prompt"] == [{"role": "user", "content": "Add.\n1 and 2"}]
    assert read["_response"] == [{"role": "assistant", "content": "3"}]
    rows = exported(ALPACA, "sharegpt", tmp_path / "sharegpt.jsonl")
    reader = SharegptDatasetConverter(attributes(formatting="sharegpt"), None)
    for row, output in zip(rows, ALPACA["output"], strict=True):
        read = reader(row)
        assert [turn["role"] for turn in read["_prompt"]] == ["user"]
        assert read["_response"] == [{"role": "assistant", "content": output}]


def test_llama_factory_reads_preferences(attributes, tmp_path):
    from llamafactory.data.converter import AlpacaDatasetConverter

    (row,) = exported(PREFERENCE, "preference", tmp_path / "pairs.jsonl")
    assert (row["chosen"], row["rejected"]) == ("3", "4")
    attribute = attributes(
        prompt="prompt", query=None, response=None, chosen="chosen", rejected="rejected"
    )
    attribute.ranking = True
    read = AlpacaDatasetConverter(attribute, None)(row)
    assert [turn["content"] for turn in read["_response"]] == ["3", "4"]
    assert "Add 1 and 2." in read["_prompt"][0]["content"]


def test_axolotl_trains_on_the_responses_of_messages(tmp_path):
    axolotl = pytest.importorskip("axolotl.prompt_strategies.chat_template", reason="no axolotl")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    rows = exported(ALPACA, "messages", tmp_path / "messages.jsonl")
    words = ["?", "<user>", "<assistant>", "<end>", "Add.", "1", "and", "2", "3"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="?")
    template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    prompter = axolotl.ChatTemplatePrompter(
        tokenizer,
        chat_template=template,
        message_property_mappings={"role": "role", "content": "content"},
        field_messages="messages",
    )
    strategy = axolotl.ChatTemplateStrategy(
        prompter, tokenizer=tokenizer, train_on_inputs=False, sequence_len=64
    )
    read = strategy.tokenize_prompt(rows[0])
    trained = [word for word in read["labels"] if word != -100]
    assert "3" in tokenizer.decode(trained) and "1" not in tokenizer.decode(trained)
