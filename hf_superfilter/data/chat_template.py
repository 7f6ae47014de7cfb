"""Write prompts with a tokenizer's chat template, and compare them with whole conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..base import TEMPLATE_DATE
from ..errors import SuperfilterError
from .messages import REASONING_KEYS, Message, compact_json, message_text

DATE_DIRECTIVES = "aAbBcdfHIjmMpSUwWxXyYzZ%"
# What a row's conversation, as the template writes it, may have different from the scored texts.
LEFT_OUT = "the chat template leaves out parts of earlier messages"
PROMPT_DIFFERS = "the chat template writes a prompt otherwise once the conversation goes on"
RESPONSE_DIFFERS = "behind a prompt the chat template writes something else than the response"
SHOWN = 40  # characters of a text that a difference quotes
MARK = "qz{}{}zq"  # which message, and which part of it: n(ame), r(easoning), t(ext)
PARTS = {"t": "text", "r": "reasoning", "n": "tool calls"}


# message.thinking, message["thinking"], message.get("thinking"), "thinking" in message
READ_FIELD = re.compile(
    rf"(?:\.|(?P<quote>[\"']))({'|'.join(REASONING_KEYS)})(?(quote)(?P=quote)|\b)"
)

# transformers drops keys without a value, and some templates look for the value None.
NONE_CONTENT = (
    "{%- set all = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message.content is not defined -%}"
    "{%- set message = dict(message, content=none) -%}{%- endif -%}"
    "{%- set all.messages = all.messages + [message] -%}{%- endfor -%}"
    "{%- set messages = all.messages -%}{{ '' }}"
)


class CallForm(NamedTuple):
    """Hold how a chat template wants a message that has tool calls and no text.

    Args:
        content: "missing", "empty" (text) or "none" (the value).
        text_arguments: whether arguments are JSON text, else a mapping.
    """

    content: str
    text_arguments: bool


CALL_FORMS = [
    CallForm(content, text_arguments)
    for content in ("missing", "empty", "none")
    for text_arguments in (False, True)
]


class Tools(NamedTuple):
    """Hold the tool schemas of a row: as text, and as a chat template takes them."""

    text: str
    schemas: list[Any]


def with_tools(messages: Sequence[Message], tools: Tools | None) -> list[Message]:
    """Put the tool schemas into the system message, for templates that have no place for them."""
    if tools is None:
        return list(messages)
    if messages and messages[0].role == "system":
        first = messages[0]
        return [first._replace(text=f"{first.text}\n{tools.text}"), *messages[1:]]
    return [Message("system", tools.text), *messages]


@dataclass(frozen=True)
class ChatTemplate:
    """Write messages with the chat template of a tokenizer.

    Args:
        tokenizer: one with a chat template.
        template_kwargs: values that the template reads.
        bos: the text of the token that the tokenizer puts in front itself; "" where it does not.
        call_forms: how each of its templates wants tool calls; None where it does not write them.
    """

    tokenizer: Any
    template_kwargs: Mapping[str, Any]
    bos: str
    call_forms: Mapping[str, CallForm | None]

    @classmethod
    def of(cls, tokenizer: Any, template_kwargs: Mapping[str, Any]) -> ChatTemplate:
        """Try out how the chat template of a tokenizer wants its messages."""
        adds_bos = tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
        template = cls(tokenizer, template_kwargs, tokenizer.bos_token if adds_bos else "", {})
        without_tools, for_tools = None, [{"type": "function"}]
        texts = {tokenizer.get_chat_template(None, t) for t in (without_tools, for_tools)}
        return replace(template, call_forms={text: template._call_form(text) for text in texts})

    def __call__(self, messages: Sequence[Message], tools: Tools | None) -> str:
        """Write the prompt after which an assistant answers."""
        return self._write(messages, tools, is_prompt=True)

    def difference(
        self,
        messages: Sequence[Message],
        turns: Sequence[tuple[int, str, str]],
        tools: Tools | None,
    ) -> str | None:
        """Say where the template's whole conversation is not made of prompts and responses.

        A trainer learns the conversation as a whole; what is scored are prompts and responses.
        Qwen3, for one, writes an empty thought before the last answer, and leaves out the thoughts
        before earlier ones.

        Args:
            messages: of a row.
            turns: those that are scored: number of the message, prompt, response.
            tools: of the row.

        Returns:
            Lines of one of LEFT_OUT, PROMPT_DIFFERS and RESPONSE_DIFFERS, a colon, and the first
            place; None where nothing differs.
        """
        turns = [turn for turn in turns if turn[1].strip() and turn[2].strip()]
        if not turns:
            return None
        lines = []
        parts = self._left_out(messages[: turns[-1][0]], tools)
        if parts:
            lines.append(f"{LEFT_OUT}: {', '.join(parts)}")
        try:
            conversation = self._write(messages, tools, is_prompt=False)
        except SuperfilterError as error:
            lines.append(f"{PROMPT_DIFFERS}: {' '.join(str(error).split())}")
            return "\n".join(lines)
        prompts = [(number, prompt) for number, prompt, _ in turns]
        texts = [(number, prompt + response) for number, prompt, response in turns]
        for kind, scored in ((PROMPT_DIFFERS, prompts), (RESPONSE_DIFFERS, texts)):
            differing = [turn for turn in scored if not conversation.startswith(turn[1])]
            if differing:
                lines.append(f"{kind}: {_describe(*differing[0], conversation)}")
                break  # where a prompt differs, so does the text that begins with it
        return "\n".join(lines) or None

    def _left_out(self, context: Sequence[Message], tools: Tools | None) -> list[str]:
        """Name the parts of messages that do not come out of the template."""
        marked = [_marked(message, place) for place, message in enumerate(context)]
        prompt = self(marked, tools)
        parts = []
        for place, message in enumerate(context):
            present = {"t": message.text, "r": message.reasoning, "n": message.calls}
            for part, text in present.items():
                if text.strip() and MARK.format(place, part) not in prompt:
                    parts.append(f"the {PARTS[part]} of message {place + 1} ({message.role})")
        return parts

    def _write(self, messages: Sequence[Message], tools: Tools | None, *, is_prompt: bool) -> str:
        from jinja2 import TemplateError

        chat_template = self.tokenizer.get_chat_template(None, tools and tools.schemas)
        if tools and "tools" not in chat_template:
            messages, tools = with_tools(messages, tools), None
        form = self.call_forms[chat_template]
        key = _reasoning_key(chat_template)
        entries = [_chat_entry(message, form, key) for message in messages]
        if form is not None and form.content == "none":
            chat_template = NONE_CONTENT + chat_template
        try:
            text: str = self.tokenizer.apply_chat_template(
                entries,
                tools and tools.schemas,
                chat_template=_with_fixed_date(chat_template),
                tokenize=False,
                add_generation_prompt=is_prompt,
                **self.template_kwargs,
            )
        # A template is a program: values that it does not expect may raise any of these.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            roles = ", ".join(message.role for message in messages)
            raise SuperfilterError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses the turns {roles} "
                f"({error}): remove what it does not take, or use another"
            ) from error
        return text.removeprefix(self.bos)

    def _call_form(self, chat_template: str) -> CallForm | None:
        """Return the first form in which the template writes a tool call whole."""
        function = {"name": "qzname", "arguments": {"qzkey": "qzvalue"}}
        call = {"id": "qzcall001", "type": "function", "function": function}
        result = Message("tool", "qzresult", extra={"tool_call_id": "qzcall001", "name": "qzname"})
        asks = Message("assistant", "", calls="qzcalls", extra={"tool_calls": [call]})
        for form in CALL_FORMS:
            trial = replace(self, call_forms={chat_template: form})
            try:
                text = trial([Message("user", "qzask"), asks, result], None)
            except SuperfilterError:
                continue
            is_whole = all(word in text for word in ("qzname", "qzkey", "qzvalue"))
            # Python's spelling of a mapping, JSON inside a string, and a printed None are faults.
            is_json = "'qzkey'" not in text and '\\"qzkey' not in text
            if is_whole and is_json and "None" not in text:
                return form
        return None


def _reasoning_key(chat_template: str) -> str:
    """Name the field in which a template looks for the reasoning of a message.

    Example:
        >>> _reasoning_key("{{ message.thinking if enable_thinking }}"), _reasoning_key("")
        ('thinking', 'reasoning_content')
    """
    fields = {match[2] for match in READ_FIELD.finditer(chat_template)}
    return next((key for key in REASONING_KEYS if key in fields), REASONING_KEYS[0])


def _chat_entry(message: Message, form: CallForm | None, reasoning_key: str) -> dict[str, Any]:
    """Return a message as a chat template takes it; calls are text where it writes none."""
    extra = dict(message.extra)
    if form is None:
        extra.pop("tool_calls", None)
    calls = extra.get("tool_calls")
    text = message_text(message._replace(reasoning="", calls="" if calls else message.calls))
    entry = {**extra, "role": message.role, "content": text}
    if calls and form is not None:
        if form.text_arguments:
            entry["tool_calls"] = [_with_text_arguments(call) for call in calls]
        if not text and form.content != "empty":
            del entry["content"]
    if message.reasoning:
        entry[reasoning_key] = message.reasoning
    return entry


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call whose arguments are JSON text."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), (dict, list)):
        function["arguments"] = compact_json(function["arguments"])
    return {**call, "function": function}


def _marked(message: Message, place: int) -> Message:
    """Write a mark behind every part of a message that holds something."""
    mark = {part: MARK.format(place, part) for part in PARTS}
    changes: dict[str, Any] = {}
    if message.text.strip():
        changes["text"] = message.text + mark["t"]
    if message.reasoning.strip():
        changes["reasoning"] = message.reasoning + mark["r"]
    if message.calls.strip():
        changes["calls"] = message.calls + mark["n"]
    if message.extra.get("tool_calls"):
        calls = []
        for call in message.extra["tool_calls"]:
            function = call["function"]
            name = f"{function['name']}{mark['n']}"
            calls.append({**call, "function": {**function, "name": name}})
        changes["extra"] = {**message.extra, "tool_calls": calls}
    return message._replace(**changes)


def _describe(number: int, scored: str, conversation: str) -> str:
    """Say where a scored text and the conversation part."""
    place = 0
    for one, other in zip(scored, conversation, strict=False):
        if one != other:
            break
        place += 1
    return (
        f"message {number + 1}, character {place}: {scored[place : place + SHOWN]!r} is scored, "
        f"and the whole conversation has {conversation[place : place + SHOWN]!r}"
    )


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
