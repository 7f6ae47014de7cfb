"""Write prompts: a template makes text of the messages before a response."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from ..base import TEMPLATE_DATE
from ..errors import SuperfilterError, did_you_mean
from .messages import Message, message_text

TASK = (
    "Below is an instruction that describes a task{}. "
    "Write a response that appropriately completes the request."
)
TEMPLATES = ("none", "alpaca", "chat")
DATE_DIRECTIVES = "aAbBcdfHIjmMpSUwWxXyYzZ%"


class Tools(NamedTuple):
    """Hold the tool schemas of a row: as text, and as a chat template takes them."""

    text: str
    schemas: list[Any]


Template = Callable[[Sequence[Message], "Tools | None"], str]


def plain(messages: Sequence[Message], tools: Tools | None) -> str:
    """Write every text with a line break after it, as the Superfiltering authors do."""
    return "".join(message_text(m) + m.end for m in _with_tools(messages, tools))


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


def _with_tools(messages: Sequence[Message], tools: Tools | None) -> list[Message]:
    """Put the tool schemas into the system message, for templates that have no place for them."""
    if tools is None:
        return list(messages)
    if messages and messages[0].role == "system":
        first = messages[0]
        return [first._replace(text=f"{first.text}\n{tools.text}"), *messages[1:]]
    return [Message("system", tools.text), *messages]


def _alpaca(messages: Sequence[Message], tools: Tools | None) -> str:
    *earlier, last = _with_tools(messages, tools)
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
    messages = _with_tools(messages, tools)
    system = messages[0].text if messages[0].role == "system" else ""
    instructions = messages[1:] if system else messages
    texts = [message_text(message._replace(input="")) for message in instructions]
    return template.format(instruction="\n".join(texts), input=messages[-1].input, system=system)


def _load_tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


def _chat_template(tokenizer: Any, template_kwargs: dict[str, Any]) -> Template:
    tokenizer = _load_tokenizer(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        raise SuperfilterError(
            f"tokenizer={tokenizer!r:.60} has no chat template: template 'chat' needs one"
        )
    adds_bos = tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
    return partial(
        _chat,
        tokenizer=tokenizer,
        template_kwargs=template_kwargs,
        drop=tokenizer.bos_token if adds_bos else "",
    )


def _chat(
    messages: Sequence[Message],
    tools: Tools | None,
    tokenizer: Any,
    template_kwargs: dict[str, Any],
    drop: str,
) -> str:
    from jinja2 import TemplateError

    chat_template = tokenizer.get_chat_template(None, tools and tools.schemas)
    if tools and "tools" not in chat_template:
        messages, tools = _with_tools(messages, tools), None
    try:
        prompt: str = tokenizer.apply_chat_template(
            [_chat_entry(message) for message in messages],
            tools and tools.schemas,
            chat_template=_with_fixed_date(chat_template),
            tokenize=False,
            add_generation_prompt=True,
            **template_kwargs,
        )
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise SuperfilterError(
            f"the chat template of {tokenizer.name_or_path!r} refuses the turns {roles} ({error}): "
            "remove what it does not take, or use another"
        ) from error
    return prompt.removeprefix(drop)


def _chat_entry(message: Message) -> dict[str, Any]:
    """Return a message as a chat template takes it; None where it has only tool calls."""
    calls_in_text = "" if "tool_calls" in message.extra else message.calls
    text = message_text(message._replace(reasoning="", calls=calls_in_text))
    entry = {**message.extra, "role": message.role, "content": text}
    if message.extra.get("tool_calls") and not text:
        entry["content"] = None
    if message.reasoning:
        entry["reasoning_content"] = message.reasoning
    return entry


def _with_fixed_date(chat_template: str) -> str:
    """Define `strftime_now` in the template itself, where it takes the place of the clock."""
    if "strftime_now" not in chat_template:
        return chat_template
    text = "format"
    for directive in DATE_DIRECTIVES:
        value = TEMPLATE_DATE.strftime(f"%{directive}")
        text += f" | replace('%{directive}', '{value}')"
        text += f" | replace('%-{directive}', '{value.lstrip('0') or 0}')"
    macro = f"{{%- macro strftime_now(format) %}}{{{{ {text} }}}}{{%- endmacro %}}"
    # The empty output keeps a line break with which the template may begin.
    return f"{macro}{{{{ '' }}}}{chat_template}"
