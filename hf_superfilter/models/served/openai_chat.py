"""Name the parameters that a model takes in a chat, and read what it replies.

Models of the same protocol differ in two ways. Some refuse a parameter: OpenAI's o-series and GPT-5
want `max_completion_tokens` in place of `max_tokens`, and take no temperature. Some think before
they answer, and their thoughts come in a field of their own (`reasoning_content` of llama.cpp,
SGLang and older vLLM, `reasoning` of vLLM since 0.11), as parts of the content (Mistral), or within
marks in the answer itself, of which the opening one may stand in the chat template (DeepSeek).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

OPENING = re.compile(
    r"\s*(<(seed:)?think(ing)?>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|?>)"
)
CLOSING = re.compile(
    r"</(seed:)?think(ing)?>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<channel\|>"
    r"|<\|channel\|>final<\|message\|>"
)
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
REPLACEMENTS = {"max_tokens": "max_completion_tokens", "temperature": ""}  # "" for none
OUT_OF_TOKENS = "output limit was reached"  # OpenAI's refusal where thoughts take all tokens


class Reply(NamedTuple):
    """Hold what a model replied.

    Attributes:
        text: the answer, without the thoughts before it.
        is_cut: whether it ended at the limit of tokens.
    """

    text: str
    is_cut: bool


@lru_cache(maxsize=16)
def accepted_names(endpoint: str, model: str) -> dict[str, str]:
    """Return by which names a model takes the parameters; kept for its next questions."""
    return {name: name for name in REPLACEMENTS}


def refused_name(refusal: str, names: Mapping[str, str]) -> str | None:
    """Name the parameter that a refusal is about, if it was sent and there is a replacement."""
    if names["max_tokens"] == "max_tokens" and "max_completion_tokens" in refusal:
        return "max_tokens"
    if names["temperature"] and "temperature" in refusal:
        return "temperature"
    return None


def read_reply(answer: Mapping[str, Any]) -> Reply:
    """Read the text of an answer to a chat.

    A server that is told that the model does not think may still take its whole answer for
    thoughts: where there is nothing else and the reply was not cut, they are the answer.

    Example:
        >>> message = {"content": "<think>Both are right, but 2 is rude.</think>\\n\\n8 3"}
        >>> read_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
        Reply(text='8 3', is_cut=False)
    """
    choice = answer["choices"][0]
    message = choice["message"]
    is_cut = choice.get("finish_reason") == "length"
    content = _text_of(message.get("content"))
    if not content.strip() and not is_cut:
        content = _text_of(message.get("refusal")) or thoughts_of(message)
    return Reply(_without_thoughts(content), is_cut)


def thoughts_of(message: Mapping[str, Any]) -> str:
    """Return what a server says that the model thought, "" for nothing."""
    return _text_of(message.get("reasoning_content")) or _text_of(message.get("reasoning"))


def _text_of(content: Any) -> str:
    """Return a content's text; of a list of parts those that are text."""
    if not isinstance(content, list):
        return str(content or "")
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join(text for text in parts if isinstance(text, str))


def _without_thoughts(text: str) -> str:
    """Return what follows the last closing mark; nothing where thoughts are not closed."""
    ends = [mark.end() for mark in CLOSING.finditer(text)]
    if ends:
        return text[ends[-1] :].strip()
    return "" if OPENING.match(text) else text
