"""Make the prompt and the response of a row."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..base import UNREADABLE
from ..errors import SuperfilterError, WrongTypeError
from .chat_template import ChatTemplate, Tools
from .formats import FORMATS, OUTPUT, is_null
from .messages import (
    Message,
    compact_json,
    is_chat_text,
    message_text,
    parse_cell,
    parse_json,
    read_history,
    read_messages,
    read_text,
    split_reasoning,
)
from .templates import Template, plain

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

# There while the rows are formatted, to be counted.
MEDIA_COLUMN = "media_left_out"
DIFFERENCE_COLUMN = "template_difference"
MESSAGE_FIELDS = ("messages", "conversations")
CHAT_TEXT_FIELDS = ("prompt", "completion", "chosen", "rejected")
LOOKED_AT = 20  # rows that tell whether texts are messages
MESSAGE_OR_TEXT_FIELDS = ("prompt", "completion", "chosen", "rejected", "input")


@dataclass(frozen=True)
class PairFormatter:
    """Make prompts and responses of a batch.

    It holds plain settings, so that `Dataset.map` finds its result again in another process.
    """

    format: str
    columns: Mapping[str, str]  # field of the format → column of the data set
    schema: Mapping[str, Any]  # field → the type of its column, where it is known
    is_chat: bool
    template: Template
    reasoning: str
    into: tuple[str, ...]
    is_stream: bool = False
    version: int = 5  # raise it when the text changes: the cache sees the fields, not the code

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Format n rows; every new column has n values."""
        # A column that is read from the original would be decoded and written again.
        batch = copy.copy(batch)
        cells = {field: batch[column] for field, column in self.columns.items() if column in batch}
        names = (*self.into, MEDIA_COLUMN, DIFFERENCE_COLUMN, UNREADABLE)
        output: dict[str, list[Any]] = {name: [] for name in names}
        rows = list(zip(*cells.values(), strict=True))
        reasons = batch[UNREADABLE] if UNREADABLE in batch else [None] * len(rows)
        for row, reason in zip(rows, reasons, strict=True):
            values = self._format_or_explain(dict(zip(cells, row, strict=True)), reason)
            for name, value in zip(names, values, strict=True):
                output[name].append(value)
        if self.is_stream and any(output[MEDIA_COLUMN]):
            _log_media_once(self.format)
        if self.is_stream and any(output[DIFFERENCE_COLUMN]):
            _log_difference_once(next(filter(None, output[DIFFERENCE_COLUMN])))
        return output

    def _format_or_explain(self, cells: Mapping[str, Any], reason: str | None) -> tuple[Any, ...]:
        """Format a row, or leave it empty and say why it cannot be read."""
        if reason is None:
            try:
                return (*self.format_row(cells), None)
            except SuperfilterError as error:
                reason = str(error)
        return (*(None for _ in self.into), 0, None, reason)

    def format_row(self, cells: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what one row holds in each new column.

        Raises:
            SuperfilterError: a cell that cannot be read, or that the template refuses.
        """
        messages, rejected, tools = self.read_conversation(cells)
        media = sum(message.media for message in (*messages, *rejected))

        context = [self._as_context(message) for message in messages]
        turns = [
            (index, self._prompt(context[:index], tools), self._response(message))
            for index, message in enumerate(messages)
            if message.role == "assistant" and message.trained
        ]
        prompts = [prompt for _, prompt, _ in turns]
        responses = [response for _, _, response in turns]
        sides = [prompts, responses]
        if self.reasoning == "split":
            sides.append([split_reasoning(messages[index]).reasoning for index, _, _ in turns])
        if len(self.into) > len(sides):
            sides.append([self._response(message) for message in rejected])
        difference = None
        if isinstance(self.template, ChatTemplate):
            difference = self.template.difference(context, turns, tools)
        if self.is_chat:
            return (*sides, media, difference)
        return (*(texts[0] for texts in sides), media, difference)

    def read_conversation(
        self, cells: Mapping[str, Any]
    ) -> tuple[list[Message], Sequence[Message], Tools | None]:
        """Return the messages of a row, the rejected answer, and the tools.

        Raises:
            SuperfilterError: a cell that cannot be read.
        """
        row = {field: self._read(field, cells.get(field)) for field in self.columns}
        system, tools, label = (row.pop(field, None) for field in ("system", "tools", "label"))
        messages, rejected = FORMATS[self.format](**row)
        messages = _with_system(messages, system)
        if "label" in self.columns:
            messages, rejected = _by_label(messages, label, self.columns["label"])
        return messages, rejected, tools

    def _read(self, field: str, cell: Any) -> Any:
        column = self.columns[field]
        if field in self.schema:
            cell = drop_arrow_fill(cell, self.schema[field])
        if field == "label":
            return cell
        if field == "tools":
            return _read_tools(cell, column)
        if field == "history":
            return read_history(cell, column)
        if field == "input" and isinstance(cell, Mapping):  # OpenAI's preference files
            return read_messages(cell.get("messages"), column)
        may_be_messages = field in MESSAGE_OR_TEXT_FIELDS and self.is_chat
        is_chat_cell = field in CHAT_TEXT_FIELDS and is_chat_text(cell)
        is_text = isinstance(cell, str | None) and not is_chat_cell
        if field in MESSAGE_FIELDS or (may_be_messages and not is_text):
            return read_messages(cell, column)
        return read_text(cell, column)

    def _as_context(self, message: Message) -> Message:
        if self.reasoning != "drop":
            return message
        return split_reasoning(message)._replace(reasoning="")

    def _prompt(self, context: list[Message], tools: Tools | None) -> str:
        if tools is None and not any(message_text(message).strip() for message in context):
            return plain(context, None)  # nothing is asked: a template's own words are no prompt
        return self.template(context, tools)

    def _response(self, message: Message) -> str:
        if self.reasoning == "only":
            return split_reasoning(message).reasoning
        return message_text(self._as_context(message))


def drop_arrow_fill(value: Any, kind: Any) -> Any:
    """Drop the keys that Arrow gives a struct because other rows have them.

    A key that has no value in any row stays null where the struct has all its other keys.
    """
    if isinstance(kind, dict) and isinstance(value, Mapping):
        entries = {key: drop_arrow_fill(value[key], kind[key]) for key in kind if key in value}
        nulls = [key for key, entry in entries.items() if entry is None]
        is_whole = all(is_null(kind[key]) for key in nulls)
        return {key: entry for key, entry in entries.items() if is_whole or key not in nulls}
    if isinstance(value, list):
        from datasets import LargeList, List

        if isinstance(kind, List | LargeList):
            return [drop_arrow_fill(entry, kind.feature) for entry in value]
    return value


def _read_tools(cell: Any, column: str) -> Tools | None:
    """Read tool schemas: a list of them, or its JSON text."""
    schemas = parse_cell(cell)
    if not schemas:
        return None
    if isinstance(schemas, Mapping):
        schemas = [schemas]
    if not isinstance(schemas, list):
        raise WrongTypeError(
            f"column {column!r} holds {schemas!r:.60}: tool schemas are a list of JSON objects"
        )
    return Tools(compact_json(cell), [parse_json(schema) for schema in schemas])


def _with_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put the text of a system column first, unless the conversation begins with the same."""
    begins_so = bool(messages) and messages[0].role == "system" and messages[0].text == system
    return messages if begins_so or not system else [Message("system", system), *messages]


def _by_label(
    messages: list[Message], label: Any, column: str
) -> tuple[list[Message], list[Message]]:
    """Take the last answer as the chosen or the rejected one, as KTO does."""
    if not isinstance(label, bool):
        raise WrongTypeError(f"column {column!r} holds {label!r:.60}: a label is true or false")
    if not messages or messages[-1].role != "assistant":
        raise SuperfilterError(f"column {column!r} judges an answer, and the row ends without one")
    context = [message._replace(trained=False) for message in messages[:-1]]
    answer, empty = messages[-1], Message("assistant", "")
    if label:
        return [*context, answer], [empty]
    return [*context, empty], [answer]


def holds_chats(format: str, columns: Mapping[str, str], schema: Mapping[str, Any]) -> bool:
    """Whether the rows hold messages, so that a row may have several responses."""
    from datasets import Value

    if columns.get("history") in schema or any(field in columns for field in MESSAGE_FIELDS):
        return True
    kinds = [schema.get(columns.get(field, "")) for field in MESSAGE_OR_TEXT_FIELDS]
    return not all(isinstance(kind, str | Value | None) for kind in kinds)


def hold_chat_texts(dataset: Dataset | IterableDataset, columns: Mapping[str, str]) -> bool:
    """Whether columns of text hold messages as JSON text, as in a CSV: by the first rows."""
    names = [columns[field] for field in CHAT_TEXT_FIELDS if field in columns]
    if not names:
        return False
    rows = dataset.select_columns(names).take(LOOKED_AT)
    return any(is_chat_text(cell) for row in rows for cell in row.values())


def reader_of(dataset: Dataset, format: str, columns: Mapping[str, str]) -> PairFormatter:
    """Return a formatter that reads the conversations of a data set."""
    kinds = {field: dataset.features[column] for field, column in columns.items()}
    is_chat = holds_chats(format, columns, dataset.features)
    if format != "pairs":  # those are texts as they stand
        is_chat = is_chat or hold_chat_texts(dataset, columns)
    return PairFormatter(format, columns, kinds, is_chat, plain, "keep", OUTPUT)


@cache
def _log_media_once(format: str) -> None:
    logger.warning("pictures, sounds and files in the rows are left out of the text (%s)", format)


@cache
def _log_difference_once(line: str) -> None:
    logger.warning("%s", line)
