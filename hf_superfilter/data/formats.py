"""Rows of any common shape → `prompt` and `response`: a format makes turns of a row, a template text of turns."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import did_you_mean
from .templates import Turn, make_template, plain, said

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

_Data = TypeVar("_Data", bound="Dataset | DatasetDict | IterableDataset | IterableDatasetDict")
_SPELLINGS = {
    "user": "user human prompter",
    "assistant": "assistant gpt model bot chatgpt function_call tool_call",
    "system": "system developer",
    "tool": "tool observation function function_response tool_response ipython",
}
_ROLES = {word: role for role, words in _SPELLINGS.items() for word in words.split()}


def _known(name: object, names: Collection[str], what: str, remedy: str) -> None:
    if name not in names:
        raise ValueError(f"{what} {name!r} is unknown: {did_you_mean(name, names)}; {remedy}")


def _typed(cell: Any, kind: type, column: str) -> Any:
    if cell is not None and not isinstance(cell, kind):
        seen = f"{type(cell).__name__} {cell!r:.60}"
        raise TypeError(
            f"column {column!r} holds {seen}, not {kind.__name__}: convert it first, with dataset.map"
        )
    return kind() if cell is None else cell


def _records(cell: Any, column: str) -> list[Any]:
    """Answer the messages, parts or calls in a cell: a list, or the struct of lists of older data sets."""
    if isinstance(cell, Mapping) and all(isinstance(values, list) for values in cell.values()):
        cell = [dict(zip(cell, record, strict=True)) for record in zip(*cell.values(), strict=True)]
    return [_typed(record, dict, column) for record in _typed(cell, list, column)]


def _content(cell: Any, column: str) -> str:
    if isinstance(cell, str):
        return cell
    # the value of an image part is its address
    parts = [part for part in _records(cell, column) if "image" not in str(part.get("type"))]
    texts = [_typed(part.get("text") or part.get("value"), str, column) for part in parts]
    return "\n".join(filter(None, texts))


def _parsed(value: Any) -> Any:
    """Answer the object in JSON text, or an object without the None entries that Arrow adds."""
    try:
        return json.loads(
            value if isinstance(value, str) else json.dumps(value), object_hook=_filled
        )
    except ValueError:
        return value  # a model wrote it: broken JSON is still what it said


def _filled(found: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _parsed(x) if key == "arguments" else x for key, x in found.items() if x is not None
    }


def _turn(message: Mapping[str, Any], column: str) -> Turn:
    role = str(message.get("role") or message.get("from")).lower()
    _known(role, _ROLES, f"column {column!r}: the role", "rename it with dataset.map")
    extra = {name: message[name] for name in ("tool_call_id", "name") if message.get(name)}
    if message.get("tool_calls"):
        calls = [_parsed(call) for call in _records(message["tool_calls"], column)]
        extra["tool_calls"] = [{"type": "function", "function": call, **call} for call in calls]
    content = message.get("value") if message.get("content") is None else message["content"]
    return Turn(_ROLES[role], _content(content, column), extra=extra)


def _asked(instruction: str, context: str, answer: str) -> list[Turn]:
    return [Turn("user", instruction, context)] * bool(instruction or context) + [
        Turn("assistant", answer)
    ]


def _joined(prompt: Any, completion: Any) -> list[Turn]:
    if isinstance(prompt, str):  # TRL joins the two as they are: template "none" adds no line break
        return [turn._replace(end="") for turn in _asked(prompt, "", completion)]
    return [turn._replace(shown=True) for turn in prompt] + completion


# A format is a function of its columns; one it can do without has a default. "auto" takes the first that fits.
_FORMATS: dict[str, Callable[..., list[Turn]]] = {
    "messages": lambda messages, tools=None, system="": messages,
    "sharegpt": lambda conversations, tools=None, system="": conversations,
    "alpaca": lambda instruction, output, input="", system="": _asked(instruction, input, output),
    "dolly": lambda instruction, response, context="", system="": _asked(
        instruction, context, response
    ),
    "prompt-completion": lambda prompt, completion, tools=None, system="": _joined(
        prompt, completion
    ),
    "pairs": lambda prompt, response: [],  # already what is wanted: handed on as it is
    "text": lambda text: _asked("", "", text),
}
_FIELDS = {name: signature(turns).parameters for name, turns in _FORMATS.items()}
_NEEDS = {
    name: [f.name for f in fields.values() if f.default is f.empty]
    for name, fields in _FIELDS.items()
}


@dataclass(frozen=True)
class _Pairs:
    """What `map` calls: plain settings, so that another process arrives at the same fingerprint."""

    format: str
    columns: Mapping[str, str]  # field of the format → column of the data set
    chats: bool
    template: Callable[..., str]
    into: tuple[str, str]
    version: int = 1  # raise it when the text changes: a fingerprint sees the fields, not the code

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        if self.format == "pairs":
            return {
                new: batch[old] for new, old in zip(self.into, self.columns.values(), strict=True)
            }
        batch = copy.copy(
            batch
        )  # a column read from the original would be decoded and written again
        cells = {field: batch[column] for field, column in self.columns.items() if column in batch}
        rows = [
            self._pair(dict(zip(cells, row, strict=True)))
            for row in zip(*cells.values(), strict=True)
        ]
        return {name: [row[side] for row in rows] for side, name in enumerate(self.into)}

    def _pair(self, cells: Mapping[str, Any]) -> tuple[Any, Any]:
        row = {field: self._read(field, cells.get(field)) for field in self.columns}
        turns = _FORMATS[self.format](**row)
        if row.get("system"):
            turns = [Turn("system", row["system"]), *turns]
        at = [i for i, turn in enumerate(turns) if turn.role == "assistant" and not turn.shown]
        prompts = [self.template(turns[:i], row.get("tools")) if i else "" for i in at]
        responses = [said(turns[i]) for i in at]
        return (prompts, responses) if self.chats else (prompts[0], responses[0])

    def _read(self, field: str, cell: Any) -> Any:
        if self.chats and field in _NEEDS[self.format]:
            return [
                _turn(message, self.columns[field])
                for message in _records(cell, self.columns[field])
            ]
        return _typed(cell, str, self.columns[field]) if field != "tools" else _parsed(cell) or None


def detect_format(column_names: Iterable[str]) -> str:
    """Name the format of a data set with these columns: the first, in the order of `format_pairs`, that fits.

    Raises:
        ValueError: none fits.

    Example:
        >>> detect_format(["id", "instruction", "context", "response"])
        'dolly'
    """
    there = list(column_names)
    for name, needed in _NEEDS.items():
        if set(needed) <= set(there):
            return name
    all_needs = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in _NEEDS.items())
    raise ValueError(
        f"no format fits the columns {there}: rename with columns= so that one of these does: {all_needs}"
    )


def _columns(format: str, given: Mapping[str, str], there: Collection[str]) -> dict[str, str]:
    for field in given:
        _known(
            field,
            _FIELDS[format],
            "columns=: the field",
            "the format's own names stand on the left",
        )
    # "system" is often the model that wrote a row: only a column that the caller names is a system text
    columns = {
        field: given.get(field, field)
        for field in _FIELDS[format]
        if field != "system" or field in given
    }
    for field, column in columns.items():
        if field in _NEEDS[format] or field in given:
            _known(
                column,
                there,
                f"the column for {field!r},",
                f"name it with columns={{{field!r}: ...}}",
            )
    return columns


def _add(
    dataset: Any, format: str, given: Mapping[str, str], template: Callable[..., str], into: Any
) -> Any:
    from datasets import Dataset, Features, IterableDataset, List, Value

    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"dataset is of type {type(dataset).__name__}: make one, for example with Dataset.from_list"
        )
    dataset = dataset.with_format(
        None
    )  # `map` would hand over, and write back, what the format makes of a column
    schema: Mapping[str, Any] = dataset.features or next(iter(dataset), {})
    if format == "auto":
        format = detect_format([*schema, *given])
        logging.getLogger(__name__).info(
            "format %r, from the columns %s", format, ", ".join(schema)
        )
    _known(format, _FORMATS, "format", "give one of these, or 'auto'")
    columns = _columns(format, given, schema)
    if format == "pairs":
        if template is not plain:
            raise ValueError(
                "format 'pairs' has its prompts already: a template other than 'none' has nothing to fill"
            )
        if tuple(columns.values()) == into:
            return dataset
    texts = isinstance(schema[columns[_NEEDS[format][0]]], (str, Value, type(None)))
    chats = format in ("messages", "sharegpt") or (format == "prompt-completion" and not texts)
    # what is written over a column that is read must be what the column holds
    same = (columns.get("prompt") if template is plain else None, columns[_NEEDS[format][-1]])
    if any(
        name in columns.values() and (chats or name != kept)
        for name, kept in zip(into, same, strict=True)
    ):
        raise ValueError(
            f"into={into!r} would write over a column that is read, of {columns}: give other names"
        )
    kind = List(Value("string")) if chats else Value("string")
    kinds = (
        dict.fromkeys(into, kind)
        if format != "pairs"
        else dict(zip(into, map(schema.get, columns.values()), strict=True))
    )
    features = dataset.features and Features({**dataset.features, **kinds})
    if isinstance(dataset, Dataset) and not len(dataset):  # `map` would not add the columns
        return Dataset.from_dict({name: [] for name in features}, features, split=dataset.split)
    # in small batches, because each prompt of a chat repeats all that stands before it
    return dataset.map(
        _Pairs(format, columns, chats, template, into),
        batched=True,
        batch_size=100,
        features=features,
    )


def format_pairs(
    dataset: _Data,
    format: str = "auto",
    *,
    template: str = "none",
    tokenizer: Any = None,
    columns: Mapping[str, str] | None = None,
    into: tuple[str, str] = ("prompt", "response"),
) -> _Data:
    r"""Add the columns `prompt` and `response` to a data set; its rows, their order and its columns stay.

    Args:
        dataset: n rows, in memory or streamed, or a dict of splits. A `set_format` on it is taken off.
        format: messages, sharegpt, alpaca, dolly, prompt-completion, pairs (a prompt and a response column, which
            stay as they are), text, or "auto": the first of them that fits.
        template: how a prompt is written. "none", as the Superfiltering authors do: instruction + "\n", then input +
            "\n" where there is one; a chat's turns + "\n" each; a `prompt` of text as it is. "alpaca": Stanford's; what
            stands between two responses of a chat is an instruction. "chat": the tokenizer's chat template, for an
            instruction too. Or a text with {instruction}, perhaps {input}, {system}: a chat is one instruction.
        tokenizer: for "chat", a tokenizer or its name or folder. A BOS that it adds itself is not written.
        columns: the format's own name → the data set's. A "system" column is read only when named here.
        into: the new columns. One that exists is overwritten, unless it is read and its text would change.

    Returns:
        The data set with two more columns (n,) of text; for chats of lists of text, one entry per assistant turn: all
        before the turn, and what it says (text, then tool calls in compact JSON). None, and nothing before, are "".

    Raises:
        ValueError: a format, template, column or role that is not known, or turns that a chat template refuses.
        TypeError: a cell that holds neither text nor messages: a number is not turned into text.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_list([{"instruction": "Add.", "input": "2 2", "output": "4"}])
        >>> format_pairs(rows)[0]["prompt"]
        'Add.\n2 2\n'
    """
    fill = make_template(template, tokenizer)
    if isinstance(dataset, dict):
        return type(dataset)(
            {name: _add(rows, format, columns or {}, fill, into) for name, rows in dataset.items()}
        )
    return _add(dataset, format, columns or {}, fill, into)
