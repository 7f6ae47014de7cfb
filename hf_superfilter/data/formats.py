"""Read rows in the layouts that training data comes in, one function a format.

A format is a function of its columns; a column that it can do without has a default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

from ..errors import SuperfilterError
from .messages import Message, check_name

logger = logging.getLogger(__name__)

# A source column whose name an output column takes is kept under its name with this in front.
SOURCE_PREFIX = "source_"
# The columns that formatting adds, whatever the format.
OUTPUT = ("prompt", "response")
# What a column of messages is called, and the keys by which one of another name is recognised.
CHAT_KEYS = {"messages": {"role", "content"}, "conversations": {"from", "value"}}


class Example(NamedTuple):
    """Hold a row as messages: those that an assistant is trained on are responses."""

    messages: list[Message]
    rejected: Sequence[Message] = ()


def messages(messages: list[Message]) -> Example:
    """Read a chat of role and content."""
    return Example(messages)


def sharegpt(conversations: list[Message]) -> Example:
    """Read a chat of from and value."""
    return Example(conversations)


def alpaca(
    instruction: str, output: str, input: str = "", history: Iterable[Message] = ()
) -> Example:
    """Read Stanford Alpaca's columns, with LLaMA-Factory's history."""
    return Example([*history, *_ask(instruction, input), Message("assistant", output)])


def dolly(instruction: str, response: str, context: str = "") -> Example:
    """Read Databricks Dolly's columns."""
    return Example([*_ask(instruction, context), Message("assistant", response)])


def prompt_completion(prompt: str | list[Message], completion: str | list[Message]) -> Example:
    """Read TRL's columns; it joins two texts as they are, without a line break between."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return Example([*_ask(prompt, end=""), Message("assistant", completion)])
    return Example([*_as_context(prompt), *_as_answer(completion)])


def pairs(prompt: str, response: str) -> Example:
    """Read a prompt that is written already."""
    return Example([*_ask(prompt, end=""), Message("assistant", response)])


def question_answer(question: str, answer: str) -> Example:
    """Read the columns of GSM8K."""
    return Example([*_ask(question), Message("assistant", answer)])


def question_response(question: str, response: str) -> Example:
    """Read the columns of OpenOrca."""
    return Example([*_ask(question), Message("assistant", response)])


def query_response(query: str, response: str) -> Example:
    """Read the columns of MetaMathQA."""
    return Example([*_ask(query), Message("assistant", response)])


def problem_solution(problem: str, solution: str) -> Example:
    """Read the columns of MATH and NuminaMath."""
    return Example([*_ask(problem), Message("assistant", solution)])


def query_answer(query: str, answer: str) -> Example:
    """Read the columns of many sets made from searches."""
    return Example([*_ask(query), Message("assistant", answer)])


def input_output(input: str, output: str) -> Example:
    """Read two columns without an instruction, as of Super-NaturalInstructions."""
    return Example([*_ask(input), Message("assistant", output)])


def inputs_targets(inputs: str, targets: str) -> Example:
    """Read the columns of Flan, P3 and Aya."""
    return Example([*_ask(inputs), Message("assistant", targets)])


def text(text: str) -> Example:
    """Read plain text: a response without a prompt."""
    return Example([Message("assistant", text)])


def preference(
    chosen: str | list[Message],
    rejected: str | list[Message],
    prompt: str | list[Message] | None = None,
    conversations: list[Message] | None = None,
    messages: list[Message] | None = None,
    instruction: str | None = None,
    question: str | None = None,
    input: str | list[Message] | None = None,
    history: Iterable[Message] = (),
) -> Example:
    """Read two answers to one prompt, which may stand at the beginning of both.

    The prompt is `prompt` in TRL, `conversations`, `messages`, or `instruction` with `input` and
    `history` in LLaMA-Factory, `question` in Orca's pairs, `input` in OpenAI's files.
    """
    context: str | list[Message] | None
    if instruction is not None:
        context = [*history, *_ask(instruction, str(input or ""))]
    elif question is not None or input is not None:
        context = _as_messages(question or input or "")
    else:
        context = _first_given(prompt, conversations, messages)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _compare_texts(context, chosen, rejected)
    return _compare_chats(context, _as_answer(chosen), _as_answer(rejected))


# "auto" takes the first that fits. Those with two answers come first, so that none is overlooked.
FORMATS: dict[str, Callable[..., Example]] = {
    "preference": preference,
    "messages": messages,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "dolly": dolly,
    "prompt-completion": prompt_completion,
    "pairs": pairs,
    "question-answer": question_answer,
    "question-response": question_response,
    "query-response": query_response,
    "problem-solution": problem_solution,
    "query-answer": query_answer,
    "input-output": input_output,
    "inputs-targets": inputs_targets,
    "text": text,
}
REQUIRED = {
    name: [p.name for p in signature(read).parameters.values() if p.default is p.empty]
    for name, read in FORMATS.items()
}
# Columns that any format may have beside its own.
SHARED_FIELDS = ("system", "tools", "label")
FIELDS = {name: [*signature(read).parameters, *SHARED_FIELDS] for name, read in FORMATS.items()}
FIELDS["pairs"] = ["prompt", "response", "label"]
# Other names under which "auto" finds a field.
ALIASES = {
    "messages": ("conversation",),
    "system": ("system_prompt",),
    "tools": ("functions",),
    "label": ("kto_tag",),
    "chosen": ("chosen_response", "preferred_output"),
    "rejected": ("rejected_response", "non_preferred_output"),
}
# Further names of a format's own.
FORMAT_ALIASES = {("alpaca", "input"): "context", ("dolly", "context"): "input"}
# Columns that often hold a part of the prompt.
PROMPT_PARTS = ("input", "context", "history", "system_prompt", "tools", "functions")
# Of the columns that may hold the prompt of a preference, the first is read.
PROMPT_FIELDS = ("prompt", "conversations", "messages", "instruction", "question", "input")
PREFERENCE_WORDS = ("chosen", "rejected", "preferred")
# Elsewhere a column "system" is often the model that wrote a row.
WITH_SYSTEM = ("preference", "messages", "sharegpt")


def _ask(instruction: str, input: str = "", end: str = "\n") -> list[Message]:
    """Return a user's message; none where nothing is asked."""
    return [Message("user", instruction, input, end)] if instruction or input else []


def _as_messages(value: str | list[Message]) -> list[Message]:
    return _ask(value) if isinstance(value, str) else value


def _as_context(value: str | list[Message]) -> list[Message]:
    return [message._replace(trained=False) for message in _as_messages(value)]


def _as_answer(value: str | list[Message]) -> list[Message]:
    return [Message("assistant", value)] if isinstance(value, str) else value


def _first_given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _compare_texts(context: str | list[Message] | None, chosen: str, rejected: str) -> Example:
    if context is None:
        context = _shared_text(chosen, rejected)
        chosen, rejected = chosen[len(context) :], rejected[len(context) :]
    if isinstance(context, str):  # TRL joins the texts as they are
        context = _ask(context, end="")
    return Example(
        [*_as_context(context), Message("assistant", chosen)], [Message("assistant", rejected)]
    )


def _compare_chats(
    context: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> Example:
    shared = _shared_messages(chosen, rejected)
    if context is None or any(message.role != "assistant" for message in shared):
        context = []  # both sides hold the whole conversation
    return Example(
        [*_as_context(context), *_as_context(shared), _one_answer(chosen[len(shared) :], "chosen")],
        [_one_answer(rejected[len(shared) :], "rejected")],
    )


def _shared_text(chosen: str, rejected: str) -> str:
    """Return the beginning that both have in common, as TRL takes it for the prompt."""
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    if length and chosen[length - 1] == " ":
        length -= 1
    return chosen[:length]


def _shared_messages(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """Return the messages that both begin with; at least the last one is an answer."""
    shared = []
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        shared.append(one)
    return shared


def _one_answer(messages: list[Message], side: str) -> Message:
    if [message.role for message in messages] == ["assistant"]:
        return messages[0]._replace(trained=True)
    roles = ", ".join(message.role for message in messages) or "no message"
    raise SuperfilterError(
        f"{side!r} has {roles} after what both sides have in common: "
        "a preference compares two messages of an assistant to one prompt"
    )


def detect_format(column_names: Iterable[str]) -> str:
    """Name the format of a data set with these columns: the first that fits.

    Raises:
        SuperfilterError: none fits.

    Example:
        >>> detect_format(["id", "instruction", "context", "response"])
        'dolly'
    """
    names = list(column_names)
    for format, fields in REQUIRED.items():
        if all(any(_find(name, names) for name in _spellings(field)) for field in fields):
            return format
    needs = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in REQUIRED.items())
    raise SuperfilterError(
        f"no format fits the columns {names}: "
        "rename with columns= (on the command line --columns instruction=NAME --columns "
        f"output=NAME) so that one of these does: {needs}"
    )


def choose_columns(
    schema: Mapping[str, Any], format: str, named: Mapping[str, str], is_open: bool = False
) -> tuple[str, dict[str, str]]:
    """Find the format of a data set and the column of each of its fields.

    Args:
        schema: column → its type, or a value of it.
        format: the format, or "auto": then the log says which columns are read and which not.
        named: field → column, as the user gave them.
        is_open: later rows may have more columns, as in a stream without a schema.

    Raises:
        SuperfilterError: an unknown format, field or column.
    """
    _check_direction(schema, named)
    is_auto = format == "auto"
    if is_auto:
        try:
            format = detect_format([*schema, *named])
        except SuperfilterError as error:
            raise SuperfilterError(f"{error}{_nested_rows(schema)}") from error
    check_name(format, FORMATS, "format", "give one of these, or 'auto'")
    for field in named:
        remedy = "the format's own names stand on the left"
        check_name(field, FIELDS[format], "columns=: the field", remedy)
    columns = {}
    for field in FIELDS[format]:
        column = named.get(field) or _column_of(field, format, schema)
        if field in named or field in REQUIRED[format]:
            remedy = f"name it with columns={{{field!r}: ...}}"
            check_name(column or field, schema, f"the column for {field!r},", remedy)
        if column is None and is_open and format != "preference" and field not in SHARED_FIELDS:
            column = field
        if column is not None:
            columns[field] = column
    if format == "preference":
        columns = _with_one_prompt(columns, schema, named)
    if is_auto:
        _log_choice(format, columns, schema)
    return format, columns


def _nested_rows(schema: Mapping[str, Any]) -> str:
    """Say which columns hold lists of objects.

    They are messages under another name, or all rows of a file that is one object.
    """
    nested = [name for name, kind in schema.items() if isinstance(_items_of(kind), dict)]
    for name in nested:
        for field, keys in CHAT_KEYS.items():
            if keys <= set(_items_of(schema[name])):
                return (
                    f". {name!r} holds messages: name it with columns={{{field!r}: {name!r}}} "
                    f"(on the command line --columns {field}={name})"
                )
    if not nested:
        return ""
    return f". {nested[0]!r} holds lists of objects: if those are the rows, save them as JSON Lines"


def _items_of(kind: Any) -> Any:
    return getattr(kind, "feature", None)


def _check_direction(schema: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Refuse names that stand the wrong way round."""
    fields = {field for names in FIELDS.values() for field in names}
    for field, column in named.items():
        if field in schema and field not in fields and column in fields and column not in schema:
            raise SuperfilterError(
                f"columns: {field}={column} is the wrong way round, since {field!r} is a column of "
                f"the data set: give the format's name first, {column}={field}"
            )


def _spellings(field: str) -> tuple[str, ...]:
    return (field, *ALIASES.get(field, ()))


def _column_of(field: str, format: str, schema: Mapping[str, Any]) -> str | None:
    """Return the column that holds a field, where there is one that surely does."""
    spellings = _spellings(field)
    if field == "system" and format not in WITH_SYSTEM:
        spellings = ALIASES["system"]
    if field in OUTPUT:
        spellings = (SOURCE_PREFIX + field, *spellings)
    if (format, field) in FORMAT_ALIASES:
        spellings = (*spellings, FORMAT_ALIASES[format, field])
    for spelling in spellings:
        column = spelling if field in SHARED_FIELDS else _find(spelling, schema)
        if column and column in schema and _may_hold(field, schema[column], format):
            return column
    return None


def _find(spelling: str, names: Iterable[str]) -> str | None:
    """Return the column of this name, or the only one that differs in case or blanks around it."""
    listed = list(names)
    if spelling in listed:
        return spelling
    alike = [name for name in listed if name.strip().casefold() == spelling]
    return alike[0] if len(alike) == 1 else None


def _may_hold(field: str, kind: Any, format: str) -> bool:
    if field == "label":
        return _is_bool(kind)
    return field in REQUIRED[format] or not is_null(kind)


def is_null(kind: Any) -> bool:
    """Check whether a feature holds no value in any row."""
    return str(getattr(kind, "dtype", "")) == "null"


def _is_bool(kind: Any) -> bool:
    return isinstance(kind, bool) or str(getattr(kind, "dtype", "")) == "bool"


def _with_one_prompt(
    columns: dict[str, str], schema: Mapping[str, Any], named: Mapping[str, str]
) -> dict[str, str]:
    """Keep one of the columns that may hold the prompt of a preference."""
    candidates = [field for field in PROMPT_FIELDS if field in columns]
    is_output = "response" in schema and "response_rejected" in schema
    if is_output and columns.get("prompt") == "prompt" and "prompt" not in named:
        candidates.remove("prompt")  # an earlier call has written it
    prompt = next((field for field in candidates if field in named), None)
    prompt = prompt or next(iter(candidates), None)
    unread = {*PROMPT_FIELDS} - {prompt}
    if prompt == "instruction":
        unread.remove("input")
    else:
        unread.add("history")
    return {field: column for field, column in columns.items() if field not in unread}


def _log_choice(format: str, columns: Mapping[str, str], schema: Mapping[str, Any]) -> None:
    read = [column for column in schema if column in columns.values()]
    unread = [column for column in schema if column not in read]
    suffix = f"; not read: {', '.join(unread)}" if unread else ""
    logger.info("format %r, from the columns %s%s", format, ", ".join(read), suffix)
    parts = [name for name in unread if name in PROMPT_PARTS and not is_null(schema[name])]
    if parts:
        logger.warning(
            "format %r does not read %s, which may belong to the prompt: if so, name another "
            "format or columns=, or join the texts first, with dataset.map",
            format, ", ".join(map(repr, parts)),
        )  # fmt: skip
    sides = [name for name in unread if any(word in name.lower() for word in PREFERENCE_WORDS)]
    if sides and format != "preference":
        logger.warning(
            "the columns %s look like two answers to compare, and are not read: "
            "name them with columns={'chosen': ..., 'rejected': ...}",
            ", ".join(sides),
        )
