"""Write rows in the layouts that trainers read, one function a layout.

A layout is a function of a conversation. What it cannot hold, it refuses by name: a trainer that
never sees a tool call, or learns an answer that the data marks as context, does so in silence.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SuperfilterError, did_you_mean
from ..tables.media import iterate_batches
from .files import TEXT_COLUMNS
from .formats import choose_columns
from .json_rows import append_row, make_rows
from .messages import Message, message_text
from .pair_formatter import PairFormatter, reader_of
from .templates import plain

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Names under which a trainer looks for its own columns, whatever stands in ours.
RESERVED = TEXT_COLUMNS | {
    *("label", "labels", "input_ids", "images", "videos", "audios", "chat_template_kwargs"),
}
SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


class Conversation(NamedTuple):
    """Hold one row: messages, the rejected answer, tool schemas, and whether it is a chat."""

    messages: list[Message]
    rejected: list[Message]
    tools: str | None
    is_chat: bool


def messages_layout(row: Conversation) -> dict[str, Any]:
    """Write `messages` with role and content, as OpenAI, TRL, axolotl and torchtune read them."""
    _refuse_context_answers(row)
    _refuse_rejected(row)
    return _with_tools({"messages": [_chat_message(m) for m in row.messages]}, row)


def prompt_completion_layout(row: Conversation) -> dict[str, Any]:
    """Write `prompt` and `completion`, as TRL reads them; of a chat both are messages."""
    _refuse_rejected(row)
    context, answer = _context_and_answer(row)
    if row.is_chat:
        prompt: Any = [_chat_message(message) for message in context]
        return _with_tools({"prompt": prompt, "completion": [_chat_message(answer)]}, row)
    _refuse_tools(row)
    return {"prompt": plain(context, None), "completion": message_text(answer)}


def sharegpt_layout(row: Conversation) -> dict[str, Any]:
    """Write `conversations` with from and value, as LLaMA-Factory and axolotl read them."""
    _refuse_context_answers(row)
    _refuse_rejected(row)
    conversation = [_sharegpt_message(message) for message in row.messages]
    return _with_tools({"conversations": conversation}, row)


def alpaca_layout(row: Conversation) -> dict[str, Any]:
    """Write `instruction`, `input` and `output`, with a system text in `system`."""
    _refuse_tools(row)
    _refuse_rejected(row)
    context, answer = _context_and_answer(row)
    system = ""
    if context and context[0].role == "system":
        system = context[0].text
        context = context[1:]
    if [message.role for message in context] != ["user"]:
        roles = ", ".join(message.role for message in context) or "nothing"
        raise SuperfilterError(f"one instruction before the answer, not {roles}")
    columns = {
        "instruction": context[0].text,
        "input": context[0].input,
        "output": _plain_answer(answer),
    }
    if system:
        columns["system"] = system
    return columns


def preference_layout(row: Conversation) -> dict[str, Any]:
    """Write `prompt`, `chosen` and `rejected`, as TRL's DPOTrainer reads them."""
    if len(row.rejected) != 1:
        raise SuperfilterError("two answers to compare, and the row has no rejected one")
    context, answer = _context_and_answer(row)
    if not message_text(answer) or not message_text(row.rejected[0]):
        raise SuperfilterError("two answers to compare, and one of them is empty")
    if row.is_chat:
        sides = {"chosen": [_chat_message(answer)], "rejected": [_chat_message(row.rejected[0])]}
        return _with_tools({"prompt": [_chat_message(m) for m in context], **sides}, row)
    _refuse_tools(row)
    return {
        "prompt": plain(context, None),
        "chosen": message_text(answer),
        "rejected": message_text(row.rejected[0]),
    }


LAYOUTS: dict[str, Callable[[Conversation], dict[str, Any]]] = {
    "messages": messages_layout,
    "prompt-completion": prompt_completion_layout,
    "sharegpt": sharegpt_layout,
    "alpaca": alpaca_layout,
    "preference": preference_layout,
}


def check_layout(layout: str) -> None:
    """Refuse the name of a layout that does not exist."""
    if layout != "source" and layout not in LAYOUTS:
        raise SuperfilterError(f"layout={layout!r}: {did_you_mean(layout, ['source', *LAYOUTS])}")


def arrange(
    rows: "Dataset", layout: str, format: str = "auto", columns: Mapping[str, str] | None = None
) -> "Dataset":
    """Arrange rows in a layout.

    Columns that the format does not read follow, unless a trainer would take them for its own; the
    log names those.

    Args:
        rows: n rows with their own columns.
        layout: one of `LAYOUTS`, or source: the rows as they are.
        format, columns: how the rows are laid out now, as `format_pairs` takes them.

    Raises:
        SuperfilterError: an unknown layout, or a row that it cannot hold.
    """
    check_layout(layout)
    if layout == "source":
        return rows
    format, fields = choose_columns(rows.features, format, columns or {})
    if format == "text":
        raise SuperfilterError(
            f"the layout {layout!r} needs a prompt and an answer, and these rows are plain text: "
            "take the layout 'source'"
        )
    reader = reader_of(rows, format, fields)
    others = [name for name in rows.column_names if name not in fields.values()]
    extra = [name for name in others if name not in RESERVED]
    if extra != others:
        unwritten = ", ".join(name for name in others if name in RESERVED)
        logger.warning("not written, since trainers read columns of these names: %s", unwritten)
    cells: dict[str, list[Any]] = {}
    count = 0
    for batch in iterate_batches(rows.select_columns([*fields.values()])):
        for number in range(len(next(iter(batch.values())))):
            row = {field: batch[column][number] for field, column in fields.items()}
            append_row(cells, _written(reader, row, layout, count), count)
            count += 1
    return _beside(make_rows(cells), rows.select_columns(extra))


def _written(
    reader: PairFormatter, row: Mapping[str, Any], layout: str, number: int
) -> dict[str, Any]:
    """Write one row in a layout, or say which row cannot be and why."""
    try:
        messages, rejected, tools = reader.read_conversation(row)
        schemas = tools.text if tools else None
        conversation = Conversation(messages, list(rejected), schemas, reader.is_chat)
        media = sum(message.media for message in (*messages, *rejected))
        if media:
            raise SuperfilterError(f"text, and the row holds {media} pictures, sounds or files")
        return LAYOUTS[layout](conversation)
    except SuperfilterError as error:
        raise SuperfilterError(
            f"row {number} does not fit the layout {layout!r}, which holds {error}: take the "
            "layout 'source' or 'messages', or filter such rows"
        ) from error


def _beside(table: "Dataset", extra: "Dataset") -> "Dataset":
    from datasets import concatenate_datasets

    return concatenate_datasets([table, extra], axis=1) if extra.column_names else table


def _chat_message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": _joined_text(message)}
    if message.reasoning:
        written["reasoning_content"] = message.reasoning
    calls = message.extra.get("tool_calls")
    if calls and all(calls):
        written["tool_calls"] = calls
    elif message.calls:
        raise SuperfilterError(f"tool calls in JSON, not {message.calls!r:.40}")
    for key in ("name", "tool_call_id"):
        if message.extra.get(key):
            written[key] = message.extra[key]
    return written


def _sharegpt_message(message: Message) -> dict[str, Any]:
    if message.reasoning:
        raise SuperfilterError("no reasoning beside an answer")
    if message.calls and message.text:
        raise SuperfilterError("no text beside a tool call")
    if message.calls:
        return {"from": "function_call", "value": message.calls}
    return {"from": SHAREGPT_ROLES[message.role], "value": _joined_text(message)}


def _joined_text(message: Message) -> str:
    """Join an instruction and its input."""
    return message_text(message._replace(reasoning="", calls=""))


def _plain_answer(answer: Message) -> str:
    if answer.reasoning:
        raise SuperfilterError("no reasoning beside an answer")
    return answer.text


def _context_and_answer(row: Conversation) -> tuple[list[Message], Message]:
    """Split a conversation before its only trained answer, which has to be the last message."""
    trained = [m for m in row.messages if m.role == "assistant" and m.trained]
    if len(trained) != 1 or row.messages[-1] is not trained[0]:
        raise SuperfilterError(f"one answer at the end, and the row has {len(trained)} answers")
    return row.messages[:-1], row.messages[-1]


def _refuse_context_answers(row: Conversation) -> None:
    if any(message.role == "assistant" and not message.trained for message in row.messages):
        raise SuperfilterError("no answer that is context and not trained on (weight 0)")


def _refuse_rejected(row: Conversation) -> None:
    if row.rejected:
        raise SuperfilterError("one answer, and the row compares two or has a label")


def _refuse_tools(row: Conversation) -> None:
    if row.tools or any(message.calls for message in row.messages):
        raise SuperfilterError("no tools and tool calls")


def _with_tools(columns: dict[str, Any], row: Conversation) -> dict[str, Any]:
    return {**columns, "tools": row.tools} if row.tools else columns
