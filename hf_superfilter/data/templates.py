"""How a prompt is written: a template makes text of the turns before a response."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from ..errors import did_you_mean

_TASK = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."


class Turn(NamedTuple):
    """What one side says, and how it is shown."""

    role: str
    text: str
    input: str = ""
    end: str = "\n"  # what template "none" writes after the turn
    extra: Mapping[str, Any] = {}  # tool_calls, tool_call_id, name, as a chat template takes them
    shown: bool = False  # an assistant turn that belongs to the prompt and is no response


def said(turn: Turn) -> str:
    """Answer all that a turn says: its text, an instruction's input, its tool calls in compact JSON."""
    calls = [call["function"] for call in turn.extra.get("tool_calls", ())]
    written = json.dumps(calls, ensure_ascii=False, separators=(",", ":")) if calls else turn.input
    return (
        f"{turn.text}\n{written}" if written and (turn.text or not calls) else turn.text + written
    )


def plain(turns: Sequence[Turn], tools: Any) -> str:
    """The Superfiltering authors' form, "none": every text with a line break after it, and nothing else."""
    return "".join(said(turn) + turn.end for turn in turns)


def _alpaca(turns: Sequence[Turn], tools: Any) -> str:
    *earlier, last = turns
    blocks = [
        _TASK.format(", paired with an input that provides further context" if last.input else "")
    ]
    for answer, group in groupby(
        [*earlier, last._replace(input="")], lambda turn: turn.role == "assistant"
    ):
        blocks.append(
            f"### {'Response' if answer else 'Instruction'}:\n" + "\n".join(map(said, group))
        )
    given = [f"### Input:\n{last.input}"] if last.input else []
    return "\n\n".join([*blocks, *given, "### Response:"])


def _own(turns: Sequence[Turn], tools: Any, template: str) -> str:
    system = turns[0].text if turns[0].role == "system" else ""
    asked = [said(turn._replace(input="")) for turn in turns[bool(system) :]]
    return template.format(instruction="\n".join(asked), input=turns[-1].input, system=system)


def _chat(turns: Sequence[Turn], tools: Any, tokenizer: Any, drop: str) -> str:
    chat = [
        {**turn.extra, "role": turn.role, "content": said(turn._replace(extra={}))}
        for turn in turns
    ]
    from jinja2 import TemplateError

    try:
        prompt = tokenizer.apply_chat_template(
            chat, tools, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        what = f"of {tokenizer.name_or_path!r} refuses the turns {', '.join(turn.role for turn in turns)} ({error})"
        raise ValueError(
            f"the chat template {what}: remove what it does not take, or use another"
        ) from error
    return prompt.removeprefix(drop)


def make_template(template: str, tokenizer: Any) -> Callable[..., str]:
    """The function from turns (and tools) to a prompt that a template's name, or text, stands for."""
    if template == "chat":
        if isinstance(tokenizer, (str, os.PathLike)):
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"tokenizer={tokenizer!r:.60} has no chat template: template 'chat' needs one"
            )
        adds_bos = tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
        return partial(_chat, tokenizer=tokenizer, drop=tokenizer.bos_token if adds_bos else "")
    if "{instruction}" not in template:
        if template not in ("none", "alpaca", "chat"):
            there = did_you_mean(template, ("none", "alpaca", "chat"))
            raise ValueError(
                f"template {template!r} is unknown: {there}; or give your own text with {{instruction}}"
            )
        return plain if template == "none" else _alpaca
    try:
        template.format(instruction="", input="", system="")
    except (LookupError, ValueError, AttributeError) as error:
        fields = "its fields are instruction, input, system, and other braces are doubled"
        raise ValueError(f"template {template!r} cannot be filled ({error}): {fields}") from error
    return partial(_own, template=template)
