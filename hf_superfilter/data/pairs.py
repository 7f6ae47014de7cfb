"""Add `prompt` and `response` to the rows of a data set."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..base import UNREADABLE
from ..checks import check_type
from ..errors import SuperfilterError, WrongTypeError, did_you_mean
from ..tables.media import read_row
from ..tables.origin import origin_of, record_origin
from .chat_template import ChatTemplate, Tools
from .formats import FORMATS, OUTPUT, REQUIRED, SOURCE_PREFIX, choose_columns, is_null
from .messages import (
    Message,
    compact_json,
    message_text,
    parse_json,
    read_history,
    read_messages,
    read_text,
    split_reasoning,
)
from .templates import Template, make_template, plain

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

Data = TypeVar("Data", bound="Dataset | DatasetDict | IterableDataset | IterableDatasetDict")
logger = logging.getLogger(__name__)

REASONING = ("keep", "drop", "only", "split")
# There while the rows are formatted, to be counted.
MEDIA_COLUMN = "media_left_out"
DIFFERENCE_COLUMN = "template_difference"
MESSAGE_FIELDS = ("messages", "conversations")
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
    version: int = 4  # raise it when the text changes: the cache sees the fields, not the code

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
        if field in MESSAGE_FIELDS or (may_be_messages and not isinstance(cell, str | None)):
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


def reasoning_column(response: str) -> str:
    """Name the column of the reasoning that begins the responses of another."""
    return f"{response}_reasoning"


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
    schemas = parse_json(cell)
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


@cache
def _log_media_once(format: str) -> None:
    logger.warning("pictures, sounds and files in the rows are left out of the text (%s)", format)


@cache
def _log_difference_once(line: str) -> None:
    logger.warning("%s", line)


def format_pairs(
    dataset: Data,
    format: str = "auto",
    *,
    template: str = "none",
    tokenizer: Any = None,
    template_kwargs: Mapping[str, Any] | None = None,
    reasoning: str = "keep",
    columns: Mapping[str, str] | None = None,
    into: tuple[str, str] = OUTPUT,
) -> Data:
    r"""Add the columns `prompt` and `response` to a data set.

    The rows, their order and their columns stay. A column `prompt` that is read and would change is
    kept as `source_prompt`. What a trainer computes the loss on is a response, all else is context:
    an assistant's message with `weight: 0`, `loss_weight: 0`, `train: false`, `trainable: false` or
    `masked: true` is context. Pictures, sounds and files are left out, and their number is logged.

    Args:
        dataset: n rows, in memory or streamed, or a dict of splits. A `set_format` is taken off.
        format: preference, messages, sharegpt, alpaca, dolly, prompt-completion, pairs (a prompt
            and a response column, which stay as they are), question-answer, question-response,
            query-response, query-answer, problem-solution, input-output, inputs-targets, text; or
            "auto", the first of them that fits. The log says which columns are read and which not.
        template: how a prompt is written. "none", as the Superfiltering authors do: instruction +
            "\n", then input + "\n" where there is one; a chat's messages + "\n" each; a `prompt`
            of text as it is. "alpaca": Stanford's; what stands between two responses of a chat is
            an instruction. "chat": the tokenizer's chat template. Or a text with {instruction},
            perhaps {input}, {system}: a chat is one instruction. Tool schemas stand behind the
            system text, or where the chat template has a place for them.
        tokenizer: for "chat", a tokenizer or its name or folder. A BOS that it adds itself is not
            written. A template that asks the clock is told `TEMPLATE_DATE`.
        template_kwargs: for "chat", values that its template reads, such as enable_thinking.
        reasoning: what a response is: "keep" the reasoning before the answer, "drop" it (from the
            prompts too), or "only" the reasoning; "split" is "keep" with a column
            `response_reasoning` of the reasoning besides, for the scorer `Reasoning`.
        columns: the format's own name → the data set's. A "system" column of a format without
            messages is read only when named here.
        into: the new columns. One that exists is overwritten, unless it is read.

    A row that cannot be read has null in the new columns, and the reason in `unreadable_reason`,
    which is only there if some row has one, and in streams: scorers give it the status
    `unreadable`.

    Returns:
        The data set with two more columns (n,) of text; for chats of lists of text, one entry per
        response: all messages before it, and its text (reasoning, answer, tool calls in compact
        JSON). Rows with two answers, and with a label of KTO, have a third one,
        `response_rejected`. None, and nothing before, are "".

    Raises:
        SuperfilterError: a format, template or column that is not known; or no row can be read: a
            role, key or part type that is not known, messages that a chat template refuses.
        WrongTypeError: the same for cells that hold neither text nor messages: a number is not
            made text.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_list([{"instruction": "Add.", "input": "2 2", "output": "4"}])
        >>> format_pairs(rows)[0]["prompt"]
        'Add.\n2 2\n'
    """
    check_type("format", format, str, "give one of the formats, or columns={...} beside it")
    if columns is not None:
        remedy = "map the format's names to the data set's, {'instruction': 'question'}"
        check_type("columns", columns, Mapping, remedy)
    if reasoning not in REASONING:
        raise SuperfilterError(f"reasoning={reasoning!r}: {did_you_mean(reasoning, REASONING)}")
    reading = {
        "template": template,
        "tokenizer": None if tokenizer is None else _name_of(tokenizer),
        "template_kwargs": template_kwargs,
        "reasoning": reasoning,
    }
    request = _Request(
        format,
        make_template(template, tokenizer, template_kwargs),
        reasoning,
        columns or {},
        into,
        reading,
    )
    if isinstance(dataset, dict):
        return type(dataset)({name: _add_columns(rows, request) for name, rows in dataset.items()})
    formatted: Data = _add_columns(dataset, request)
    return formatted


def _name_of(tokenizer: Any) -> str:
    """Return the name of a tokenizer, or of the object that is one."""
    if isinstance(tokenizer, str | Path):
        return str(tokenizer)
    return str(getattr(tokenizer, "name_or_path", type(tokenizer).__name__))


@dataclass(frozen=True)
class _Request:
    """Hold the arguments of `format_pairs`, the template already a function."""

    format: str
    template: Template
    reasoning: str
    columns: Mapping[str, str]
    into: tuple[str, str]
    reading: Mapping[str, Any]


def _add_columns(dataset: Any, request: _Request) -> Any:
    from datasets import Dataset, IterableDataset

    remedy = "make one with load_rows, which takes a file, a list of dicts or a pandas frame"
    check_type("dataset", dataset, (Dataset, IterableDataset), remedy)
    # `map` would hand over, and write back, what a format makes of a column.
    dataset = dataset.with_format(None)
    schema: Mapping[str, Any] = dataset.features or next(iter(dataset), {})
    format, columns = choose_columns(
        schema, request.format, request.columns, is_open=dataset.features is None
    )
    into: tuple[str, ...] = request.into
    if request.reasoning == "split":
        into = (*into, reasoning_column(into[1]))
    if format == "preference" or "label" in columns:
        into = (*into, f"{into[1]}_rejected")
    if format == "pairs" and "label" not in columns and request.reasoning == "keep":
        return _copy_pairs(dataset, columns, request)

    is_chat = _is_chat(format, columns, schema)
    kinds = {field: schema[column] for field, column in columns.items() if dataset.features}
    dataset, columns = _keep_read_columns(dataset, format, columns, is_chat, request)
    formatter = PairFormatter(
        format,
        columns,
        kinds,
        is_chat,
        request.template,
        request.reasoning,
        into,
        isinstance(dataset, IterableDataset),
    )
    table = _map(dataset, formatter)
    origin = origin_of(table) if isinstance(table, Dataset) else None
    if origin is not None:
        record_origin(table, {**origin, "reading": dict(request.reading)})
    return table


def _map(dataset: Any, formatter: PairFormatter) -> Any:
    from datasets import Dataset, Features, List, Value

    kind = List(Value("string")) if formatter.is_chat else Value("string")
    features = dataset.features
    if features is not None:
        features = Features({**features, **dict.fromkeys(formatter.into, kind)})
    if isinstance(dataset, Dataset) and not len(dataset):  # `map` would not add the columns
        return Dataset.from_dict({name: [] for name in features}, features, split=dataset.split)
    if features is not None:
        features[MEDIA_COLUMN] = Value("int64")
        features[DIFFERENCE_COLUMN] = Value("string")
        features[UNREADABLE] = Value("string")
    # In small batches, because each prompt of a chat repeats all that stands before it.
    table = dataset.map(formatter, batched=True, batch_size=100, features=features)
    if isinstance(dataset, Dataset):
        media = sum(table[MEDIA_COLUMN][:])
        if media:
            logger.warning(
                "%d pictures, sounds and files in the rows are left out of the text", media
            )
        _log_differences(table)
        table = _report_unreadable(table, formatter)
        origin = origin_of(dataset)
        if origin is not None:
            columns = [name for name in dataset.column_names if name != UNREADABLE]
            record_origin(table, {**origin, "columns": columns})
    return table.remove_columns([MEDIA_COLUMN, DIFFERENCE_COLUMN])


def _log_differences(table: Dataset) -> None:
    """Log how many rows a chat template writes otherwise than they are scored, and the first."""
    rows_of: dict[str, list[tuple[int, str]]] = {}
    for row, lines in enumerate(table[DIFFERENCE_COLUMN][:]):
        for line in (lines or "").splitlines():
            kind, _, place = line.partition(": ")
            rows_of.setdefault(kind, []).append((row, place))
    for kind, rows in rows_of.items():
        logger.warning(
            "%s in %d of %d rows; row %d is the first: %s",
            kind, len(rows), len(table), *rows[0],
        )  # fmt: skip


def _report_unreadable(table: Dataset, formatter: PairFormatter) -> Dataset:
    """Keep the column of reasons only where there are some, and log the first."""
    reasons = table[UNREADABLE][:]
    rows = [number for number, reason in enumerate(reasons) if reason is not None]
    if not rows:
        return table.remove_columns(UNREADABLE)
    first = reasons[rows[0]]
    if len(rows) == len(table):  # nothing is right: the columns, the format or the template
        columns = formatter.columns.values()
        cells = read_row(table.select_columns([*columns]), 0)
        formatter.format_row({field: cells[name] for field, name in formatter.columns.items()})
        raise SuperfilterError(f"no row can be read: row 0: {first}")
    logger.warning(
        "%d of %d rows cannot be read: row %d is the first: %s",
        len(rows), len(table), rows[0], first,
    )  # fmt: skip
    return table


def reader_of(dataset: Dataset, format: str, columns: Mapping[str, str]) -> PairFormatter:
    """Return a formatter that reads the conversations of a data set."""
    kinds = {field: dataset.features[column] for field, column in columns.items()}
    is_chat = _is_chat(format, columns, dataset.features)
    return PairFormatter(format, columns, kinds, is_chat, plain, "keep", OUTPUT)


@dataclass(frozen=True)
class _CopyColumns:
    """Write columns again under other names, as `Dataset.map` calls it."""

    source: tuple[str, ...]
    target: tuple[str, ...]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Copy n rows."""
        return {new: batch[old] for old, new in zip(self.source, self.target, strict=True)}


def _copy_pairs(dataset: Any, columns: Mapping[str, str], request: _Request) -> Any:
    """Return the data set with its prompts and responses as they are."""
    from datasets import Features

    if request.template is not plain:
        raise SuperfilterError(
            "format 'pairs' has its prompts already: "
            "a template other than 'none' has nothing to fill"
        )
    source = (columns["prompt"], columns["response"])
    if source == tuple(request.into):
        return dataset
    features = dataset.features
    if features is not None:
        kinds = dict(zip(request.into, (features[column] for column in source), strict=True))
        features = Features({**features, **kinds})
    return dataset.map(_CopyColumns(source, request.into), batched=True, features=features)


def _is_chat(format: str, columns: Mapping[str, str], schema: Mapping[str, Any]) -> bool:
    """Whether the rows hold messages, so that a row may have several responses."""
    from datasets import Value

    if columns.get("history") in schema or any(field in columns for field in MESSAGE_FIELDS):
        return True
    kinds = [schema.get(columns.get(field, "")) for field in MESSAGE_OR_TEXT_FIELDS]
    return not all(isinstance(kind, str | Value | None) for kind in kinds)


def _keep_read_columns(
    dataset: Any, format: str, columns: dict[str, str], is_chat: bool, request: _Request
) -> tuple[Any, dict[str, str]]:
    """Rename the columns that are read and would be overwritten with another text."""
    for place, name in enumerate(request.into):
        if name not in columns.values() or _stays(place, name, columns, format, is_chat, request):
            continue
        if name not in OUTPUT:
            raise SuperfilterError(
                f"into={request.into!r} would write over a column that is read, of {columns}: "
                "give other names"
            )
        dataset = dataset.rename_column(name, SOURCE_PREFIX + name)
        renamed = {name: SOURCE_PREFIX + name}
        columns = {field: renamed.get(column, column) for field, column in columns.items()}
    return dataset, columns


def _stays(
    place: int,
    name: str,
    columns: Mapping[str, str],
    format: str,
    is_chat: bool,
    request: _Request,
) -> bool:
    """Whether an output column holds the very text that the column of its name holds."""
    if is_chat or "label" in columns or request.reasoning not in ("keep", "split"):
        return False
    if place == 1:
        return columns[REQUIRED[format][-1]] == name
    has_more = "system" in columns or "tools" in columns
    return columns.get("prompt") == name and request.template is plain and not has_more
