"""Add `prompt` and `response` to the rows of a data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..base import UNREADABLE
from ..checks import check_type
from ..errors import SuperfilterError, did_you_mean
from ..tables.media import read_row
from ..tables.origin import origin_of, record_origin
from .formats import OUTPUT, REQUIRED, SOURCE_PREFIX, choose_columns
from .pair_formatter import (
    DIFFERENCE_COLUMN,
    MEDIA_COLUMN,
    PairFormatter,
    hold_chat_texts,
    holds_chats,
)
from .templates import Template, make_template, plain

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

Data = TypeVar("Data", bound="Dataset | DatasetDict | IterableDataset | IterableDatasetDict")
logger = logging.getLogger(__name__)

REASONING = ("keep", "drop", "only", "split")


def reasoning_column(response: str) -> str:
    """Name the column of the reasoning that begins the responses of another."""
    return f"{response}_reasoning"


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
    if format == "pairs" and hold_chat_texts(dataset, columns):
        logger.warning(
            "the column %r holds messages as JSON text, which is scored as it stands: to read "
            "them, take format='prompt-completion', columns={'completion': %r}",
            columns["prompt"], columns["response"],
        )  # fmt: skip
    if format == "pairs" and "label" not in columns and request.reasoning == "keep":
        return _copy_pairs(dataset, columns, request)

    is_chat = format != "pairs" and (
        holds_chats(format, columns, schema) or hold_chat_texts(dataset, columns)
    )
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
