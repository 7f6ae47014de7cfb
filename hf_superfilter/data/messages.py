"""Read the messages of a chat in every form that training data has them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from ..errors import SuperfilterError, WrongTypeError, did_you_mean

ROLES = {
    "user": "user human prompter",
    "assistant": "assistant gpt model bot chatgpt function_call tool_call",
    "system": "system developer",
    "tool": "tool observation function function_response tool_response ipython",
}
ROLE_OF = {spelling: role for role, spellings in ROLES.items() for spelling in spellings.split()}

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHT_KEYS = ("weight", "loss_weight", "train", "trainable")
# Facts about a message that no trainer puts into its text.
METADATA_KEYS = (
    *("id", "uuid", "index", "turn", "timestamp", "created_at", "date", "model", "score", "rank"),
    *("language", "lang", "annotations", "citations", "cache_control", "signature"),
)
MESSAGE_KEYS = {
    *("role", "from", "content", "value", "refusal", "name", "masked"),
    *("tool_calls", "function_call", "tool_call_id", "audio"),
    *REASONING_KEYS,
    *WEIGHT_KEYS,
    *METADATA_KEYS,
}

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
REASONING_PARTS = ("reasoning", "thinking", "reasoning_content")
CALL_PARTS = ("tool_use", "tool_call", "function_call")
RESULT_PARTS = ("tool_result", "tool_response")
# "redacted_thinking" is encrypted: like a picture, it has no text.
MEDIA_PARTS = (
    *("image", "image_url", "input_image", "video", "video_url", "input_video"),
    *("audio", "audio_url", "input_audio", "file", "input_file", "document", "redacted_thinking"),
)
PART_TYPES = (*TEXT_PARTS, *REASONING_PARTS, *CALL_PARTS, *RESULT_PARTS, *MEDIA_PARTS)

ARGUMENT_KEYS = ("arguments", "parameters", "input")
CALL_KEYS = {"name", "id", "type", "index", "function", "custom", *ARGUMENT_KEYS}

# A string of JSON, or the blanks between its tokens.
JSON_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)
# Models write their reasoning in tags; where a template opens them, only the closing one is there.
TAG_NAMES = "think|thinking|thought|reasoning|seed:think"
TAG_PAIRS = (
    (rf"<(?:{TAG_NAMES})>", rf"</(?:{TAG_NAMES})>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    (  # Harmony, of gpt-oss
        re.escape("<|channel|>analysis<|message|>"),
        re.escape("<|end|><|start|>assistant<|channel|>final<|message|>"),
    ),
)
OPENING, CLOSING = ("|".join(tags) for tags in zip(*TAG_PAIRS, strict=True))
TAGGED_REASONING = re.compile(rf"\s*(?:{OPENING})?(.*?)(?:{CLOSING})\s*", re.DOTALL)


class Message(NamedTuple):
    """Hold one message of a chat.

    Args:
        role: system, user, assistant or tool.
        text: its text, without reasoning and tool calls.
        input: the input that belongs to an instruction.
        end: what template "none" writes after the message.
        reasoning: what an assistant thought before it answered.
        calls: its tool calls, as they are written into a text.
        extra: tool_calls, tool_call_id and name, as a chat template takes them.
        trained: whether a trainer computes the loss on it; only an assistant's messages matter.
        media: pictures, sounds and files that were left out.
    """

    role: str
    text: str
    input: str = ""
    end: str = "\n"
    reasoning: str = ""
    calls: str = ""
    extra: Mapping[str, Any] = {}
    trained: bool = True
    media: int = 0


class Call(NamedTuple):
    """Hold one tool call: in compact JSON, and as a chat template takes it."""

    text: str
    entry: dict[str, Any]


@dataclass
class Content:
    """Collect the parts of one message."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    media: int = 0


def message_text(message: Message) -> str:
    """Return all text of a message: reasoning, text, an instruction's input, tool calls.

    Example:
        >>> message_text(Message("assistant", "4", reasoning="two and two"))
        'two and two\\n4'
    """
    text = f"{message.text}\n{message.input}" if message.input else message.text
    return "\n".join(part for part in (message.reasoning, text, message.calls) if part)


def read_messages(cell: Any, column: str) -> list[Message]:
    """Read the messages of a cell: a list of them, a single one, or JSON text of either.

    Raises:
        SuperfilterError: a key, part type or role that is not known.
        WrongTypeError: a value that is neither text nor messages.
    """
    cell = parse_json(cell) or cell
    if isinstance(cell, Mapping) and not _is_struct_of_lists(cell):
        cell = [cell]
    messages: list[Message] = []
    for record in read_records(cell, column):
        messages += _read_message(record, column)
    return messages


def read_text(cell: Any, column: str) -> str:
    """Read a cell of text; None is empty.

    Raises:
        WrongTypeError: the cell holds something else.
    """
    if cell is None:
        return ""
    return str(_check_type(cell, str, column))


def read_records(cell: Any, column: str) -> list[dict[str, Any]]:
    """Read a list of dicts; older data sets store it as a dict of lists.

    Raises:
        WrongTypeError: the cell holds something else.
    """
    if cell is None:
        return []
    if isinstance(cell, Mapping) and _is_struct_of_lists(cell):
        cell = [
            dict(zip(cell, entries, strict=True)) for entries in zip(*cell.values(), strict=True)
        ]
    return [_check_type(record, dict, column) for record in _check_type(cell, list, column)]


def read_history(cell: Any, column: str) -> list[Message]:
    """Read earlier rounds: a list of [instruction, response].

    A trainer learns these responses too, so each of them is a response here.

    Raises:
        WrongTypeError: the cell holds something else.
    """
    messages = []
    for pair in _check_type([] if cell is None else cell, list, column):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise SuperfilterError(
                f"column {column!r} holds the round {pair!r:.60}: "
                "each has to be a list of an instruction and a response"
            )
        messages.append(Message("user", read_text(pair[0], column)))
        messages.append(Message("assistant", read_text(pair[1], column)))
    return messages


def split_reasoning(message: Message) -> Message:
    """Move reasoning that stands in tags at the beginning of the text into its own field.

    Example:
        >>> split_reasoning(Message("assistant", "<think>two and two</think>4"))[:5]
        ('assistant', '4', '', '\\n', 'two and two')
    """
    tagged = TAGGED_REASONING.match(message.text)
    if message.role != "assistant" or not tagged:
        return message
    parts = (message.reasoning, tagged.group(1).strip())
    return message._replace(
        text=message.text[tagged.end() :], reasoning="\n".join(part for part in parts if part)
    )


def compact_json(value: Any) -> str:
    """Write a value as JSON without blanks.

    Text that holds a JSON object or array keeps the spelling of its numbers, nulls and letters.
    Any other text is written as a JSON string.

    Example:
        >>> compact_json('{"room": "A", "until": null, "seats": 1e3}')
        '{"room":"A","until":null,"seats":1e3}'
        >>> compact_json("1e3")
        '"1e3"'
    """
    if isinstance(value, str) and isinstance(parse_json(value), (dict, list)):
        return JSON_STRING_OR_BLANKS.sub(lambda token: token.group(1) or "", value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def parse_json(value: Any) -> Any:
    """Return the object or array that a JSON text holds, and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):  # a model wrote it: broken JSON is text
        return value
    return parsed if isinstance(parsed, (dict, list)) else value


def parse_cell(cell: Any) -> Any:
    """Return what `parse_json` does; None for a text that holds nothing."""
    is_nothing = isinstance(cell, str) and cell.strip() in ("", "null")
    return None if is_nothing else parse_json(cell)


def is_chat_text(cell: Any) -> bool:
    """Check for messages that are written as JSON text.

    Example:
        >>> is_chat_text('[{"role": "user", "content": "Hi"}]'), is_chat_text('[{"a": 1}]')
        (True, False)
    """
    if not isinstance(cell, str) or cell.lstrip()[:1] != "[":
        return False
    records = parse_json(cell)
    return bool(records) and all(
        isinstance(record, Mapping) and ("role" in record or "from" in record) for record in records
    )


def check_name(name: object, names: Collection[str], what: str, remedy: str) -> None:
    """Raise SuperfilterError where a name is not one of those that are known."""
    if name not in names:
        raise SuperfilterError(f"{what} {name!r} is unknown: {did_you_mean(name, names)}; {remedy}")


def _check_type(cell: Any, kind: type, column: str) -> Any:
    if not isinstance(cell, kind):
        raise WrongTypeError(
            f"column {column!r} holds {type(cell).__name__} {cell!r:.60}, not {kind.__name__}: "
            "convert it first, with dataset.map"
        )
    return cell


def _is_struct_of_lists(cell: Mapping[str, Any]) -> bool:
    return bool(cell) and all(isinstance(values, list) for values in cell.values())


def _check_keys(record: Mapping[str, Any], keys: Collection[str], what: str) -> None:
    # Arrow gives every record the keys of all, and fills them with None.
    for key, value in record.items():
        if value is not None and value not in ("", [], {}):
            check_name(key, keys, f"{what}: the key", "rename or remove it with dataset.map")


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the first value of these keys that is not None."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _read_message(message: Mapping[str, Any], column: str) -> list[Message]:
    _check_keys(message, MESSAGE_KEYS, f"column {column!r}")
    spelling = str(_first(message, ("role", "from"))).lower()
    check_name(spelling, ROLE_OF, f"column {column!r}: the role", "rename it with dataset.map")
    role = ROLE_OF[spelling]
    value = _first(message, ("content", "value"))
    if role == "assistant" and _holds_results(value):
        return _read_around_results(message, value, column)
    is_call = spelling in ("function_call", "tool_call")
    if (is_call or role == "tool") and not isinstance(value, (str, type(None))):
        value = _json_or_parts(value)

    content = _read_content(value, column)
    reasoning = _read_reasoning(message, content, column)
    if message.get("refusal"):
        content.texts.append(read_text(message["refusal"], column))
    if message.get("audio"):
        content.media += 1
    for record in _call_records(message, column):
        content.calls.append(_read_call(record, column))

    text, calls = "".join(content.texts), _join_calls(content.calls)
    extra = {key: message[key] for key in ("tool_call_id", "name") if message.get(key)}
    if is_call and not content.calls:
        # The text stays as the data writes it; a chat template gets the call that it stands for.
        content.calls = _calls_in_text(text, column)
        calls = text
        text = ""
    if content.calls:
        extra["tool_calls"] = [call.entry for call in content.calls]
    if content.results and not (text or calls or reasoning):
        return content.results
    return [
        *content.results,
        Message(
            role,
            text,
            reasoning=reasoning,
            calls=calls,
            extra=extra,
            trained=_is_trained(message, column),
            media=content.media,
        ),
    ]


def _read_reasoning(message: Mapping[str, Any], content: Content, column: str) -> str:
    """Join the reasoning of a message's fields and parts, each text once.

    Servers write one and the same reasoning into several fields, and into tags of the text too.
    """
    texts = []
    for key in reversed(REASONING_KEYS):
        parts = _read_content(message.get(key), column)
        texts.append("".join([*parts.reasoning, *parts.texts]))
    tagged = TAGGED_REASONING.match("".join(content.texts))
    unread = {tagged.group(1).strip()} if tagged else set()
    joined = []
    for text in [*texts, *content.reasoning]:
        if text and text.strip() not in unread:
            joined.append(text)
            unread.add(text.strip())
    return "\n".join(joined)


def _holds_results(value: Any) -> bool:
    return isinstance(value, list) and any(map(_is_result, value))


def _is_result(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in RESULT_PARTS


def _read_around_results(message: Mapping[str, Any], parts: Any, column: str) -> list[Message]:
    """Read an assistant's message as several, cut where results of its tools stand in it."""
    runs = [(is_result, list(run)) for is_result, run in groupby(parts, key=_is_result)]
    lasting = {key: message[key] for key in (*WEIGHT_KEYS, "masked") if key in message}
    rest = {key: value for key, value in message.items() if key not in ("content", "value")}
    messages: list[Message] = []
    for is_result, run in runs:
        if is_result:
            messages += _read_content(run, column).results
            continue
        messages += _read_message({**rest, "role": "assistant", "content": run}, column)
        rest = lasting  # reasoning, calls and refusal beside the parts belong to the first
    return messages


def _json_or_parts(value: Any) -> Any:
    """Return typed parts as they are, and any other object as the JSON text that it stands for."""
    is_parts = isinstance(value, list) and all(
        isinstance(part, Mapping) and part.get("type") in PART_TYPES for part in value
    )
    return value if is_parts else compact_json(value)


def _is_trained(message: Mapping[str, Any], column: str) -> bool:
    trained = not message.get("masked")
    for key in WEIGHT_KEYS:
        weight = message.get(key)
        if weight is None:
            continue
        if not isinstance(weight, (int, float)) or not weight >= 0:
            raise SuperfilterError(
                f"column {column!r}: {key} is {weight!r:.40} in a message: "
                "give a number from 0 on, or true or false"
            )
        trained = trained and weight > 0
    return trained


def _read_content(cell: Any, column: str) -> Content:
    content = Content()
    if isinstance(cell, str):
        content.texts.append(cell)
        return content
    if isinstance(cell, Mapping) and not _is_struct_of_lists(cell):
        cell = [cell]
    for part in read_records(cell, column):
        _add_part(content, part, column)
    return content


def _add_part(content: Content, part: Mapping[str, Any], column: str) -> None:
    kind = part.get("type")
    if kind is None and part.get("text") is not None:
        kind = "text"
    check_name(kind, PART_TYPES, f"column {column!r}: the part type", "remove it with dataset.map")
    if kind in MEDIA_PARTS:
        content.media += 1
    elif kind in CALL_PARTS:
        content.calls += _calls_of_part(part, column)
    elif kind in RESULT_PARTS:
        content.results.append(_result_of_part(part, column))
    else:
        text_keys = (str(kind), "text", "value", "content")
        _check_keys(part, ("type", *text_keys, *METADATA_KEYS), f"column {column!r}, {kind} part")
        texts = content.reasoning if kind in REASONING_PARTS else content.texts
        texts.append(read_text(_first(part, text_keys), column))


def _result_of_part(part: Mapping[str, Any], column: str) -> Message:
    keys = ("type", "tool_use_id", "tool_call_id", "id", "is_error", "content", "value", "name")
    _check_keys(part, (*keys, "cache_control"), f"column {column!r}, {part['type']} part")
    value = _first(part, ("content", "value"))
    if not isinstance(value, (str, type(None))):
        value = _json_or_parts(value)
    result = _read_content(value, column)
    call_id = _first(part, ("tool_use_id", "tool_call_id", "id"))
    extra = {"tool_call_id": call_id} if call_id else {}
    return Message("tool", "".join(result.texts), extra=extra, media=result.media)


def _calls_of_part(part: Mapping[str, Any], column: str) -> list[Call]:
    """Read a call part: the fields of the call, or its JSON text under `value`."""
    if part.get("value") is None:
        return [_read_call(part, column)]
    records = parse_json(part["value"])
    if isinstance(records, str):
        return [Call(records, {})]
    return [_read_call(record, column) for record in _as_list(records)]


def _call_records(message: Mapping[str, Any], column: str) -> list[Any]:
    records = parse_cell(message.get("tool_calls")) or []
    if isinstance(records, Mapping):
        records = read_records(records, column)
    records = [*_check_type(records, list, column)]
    if message.get("function_call"):
        records.append(message["function_call"])
    return records


def _calls_in_text(text: str, column: str) -> list[Call]:
    """Read the calls that a text of JSON holds; none where it holds something else."""
    records = _as_list(parse_json(text))
    if not all(isinstance(record, Mapping) and "name" in record for record in records):
        return []
    return [_read_call(record, column) for record in records]


def _as_list(records: Any) -> list[Any]:
    return records if isinstance(records, list) else [records]


def _read_call(record: Any, column: str) -> Call:
    """Read a tool call, whose function may stand in an object of its own."""
    call = _check_type(parse_json(record), dict, column)
    _check_keys(call, (*CALL_KEYS, "cache_control"), f"column {column!r}, tool call")
    function = _first(call, ("function", "custom")) or call
    function = _check_type(parse_json(function), dict, column)
    _check_keys(function, CALL_KEYS, f"column {column!r}, tool call")
    name, arguments = function.get("name"), _first(function, ARGUMENT_KEYS)
    text = '{"name":' + compact_json(name)
    entry: dict[str, Any] = {"name": name}
    if arguments is not None:
        text += ',"arguments":' + compact_json(arguments)
        entry["arguments"] = parse_json(arguments)
    ids = {"id": call["id"]} if call.get("id") else {}
    return Call(text + "}", {**ids, "type": "function", "function": entry})


def _join_calls(calls: list[Call]) -> str:
    return f"[{','.join(call.text for call in calls)}]" if calls else ""
