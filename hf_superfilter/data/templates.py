"""Write prompts: a template makes text of the messages before a response."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from ..base import TEMPLATE_DATE
from ..errors import SuperfilterError, did_you_mean
from .chat_template import ChatTemplate, Tools, with_tools
from .messages import Message, message_text

TASK = (
    "Below is an instruction that describes a task{}. "
    "Write a response that appropriately completes the request."
)
TEMPLATES = ("none", "alpaca", "chat")


Template = Callable[[Sequence[Message], "Tools | None"], str]


def plain(messages: Sequence[Message], tools: Tools | None) -> str:
    """Write every text with a line break after it, as the Superfiltering authors do."""
    return "".join(message_text(m) + m.end for m in with_tools(messages, tools))


def make_template(
    template: str, tokenizer: Any = None, template_kwargs: Mapping[str, Any] | None = None
) -> Template:
    """Build the function from messages and tools to a prompt.

    Args:
        template: "none", "alpaca", "chat", or a text with {instruction}.
        tokenizer: for "chat", a tokenizer, or its name or folder.
        template_kwargs: for "chat", values that its template reads.

    Raises:
        SuperfilterError: an unknown template, or one that cannot be filled.
    """
    if template == "chat":
        return _chat_template(tokenizer, dict(template_kwargs or {}))
    if template_kwargs:
        raise SuperfilterError(
            f"template_kwargs={template_kwargs!r} are for template='chat', not {template!r:.60}: "
            "leave them out"
        )
    if template == "none":
        return plain
    if template == "alpaca":
        return _alpaca
    if "{instruction}" not in template:
        raise SuperfilterError(
            f"template {template!r} is unknown: {did_you_mean(template, TEMPLATES)}; "
            "or give your own text with {instruction}"
        )
    try:
        template.format(instruction="", input="", system="")
    except (LookupError, ValueError, AttributeError) as error:
        raise SuperfilterError(
            f"template {template!r} cannot be filled ({error}): "
            "its fields are instruction, input, system, and other braces are doubled"
        ) from error
    return partial(_own, template=template)


def date_in_template(template: str, tokenizer: Any) -> str | None:
    """Return the date that a chat template is told, or None where it does not ask the clock."""
    if template != "chat" or "strftime_now" not in str(_load_tokenizer(tokenizer).chat_template):
        return None
    return TEMPLATE_DATE.date().isoformat()


def _alpaca(messages: Sequence[Message], tools: Tools | None) -> str:
    *earlier, last = with_tools(messages, tools)
    suffix = ", paired with an input that provides further context" if last.input else ""
    blocks = [TASK.format(suffix)]
    without_input = [*earlier, last._replace(input="")]
    for is_answer, group in groupby(without_input, lambda message: message.role == "assistant"):
        title = "Response" if is_answer else "Instruction"
        blocks.append(f"### {title}:\n" + "\n".join(map(message_text, group)))
    if last.input:
        blocks.append(f"### Input:\n{last.input}")
    return "\n\n".join([*blocks, "### Response:"])


def _own(messages: Sequence[Message], tools: Tools | None, template: str) -> str:
    """Fill a user's template: the first system message is {system}, all else {instruction}."""
    messages = with_tools(messages, tools)
    system = messages[0].text if messages[0].role == "system" else ""
    instructions = messages[1:] if system else messages
    texts = [message_text(message._replace(input="")) for message in instructions]
    return template.format(instruction="\n".join(texts), input=messages[-1].input, system=system)


def _load_tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


def _chat_template(tokenizer: Any, template_kwargs: dict[str, Any]) -> ChatTemplate:
    tokenizer = _load_tokenizer(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        raise SuperfilterError(
            f"tokenizer={tokenizer!r:.60} has no chat template: template 'chat' needs one"
        )
    return ChatTemplate.of(tokenizer, template_kwargs)
