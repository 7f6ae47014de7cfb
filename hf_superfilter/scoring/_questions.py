"""Phrase the questions of Ask-LLM and fit texts into them."""

from collections.abc import Sequence
from string import Formatter
from typing import NamedTuple, Protocol

from ..errors import SuperfilterError, did_you_mean
from ..models.text_tokenizer import MarkedText

# Whoever changes a wording raises the `arithmetic` of AskLLM: other questions, other scores.
QUESTIONS = {
    "pretraining": """\
###
{text}
###

Does the text between the two lines of ### hold informative signal for pre-training a large \
language model? An informative text is well formatted, holds some usable knowledge of the world, \
and has strictly no harmful, racist or sexist content.

OPTIONS:
- yes
- no
""",
    "instruction": """\
###
Instruction:
{prompt}

Response:
{response}
###

Does the example between the two lines of ### hold informative signal for fine-tuning a large \
language model to follow instructions? In an informative example the instruction is clear, the \
response does what it asks, is correct, complete and well written, and has strictly no harmful, \
racist or sexist content.

OPTIONS:
- yes
- no
""",
}
FIELDS = ("text", "prompt", "response")


class Question(NamedTuple):
    """Hold the question about a row; `ok`, `truncated`, or why none."""

    text: str
    units: Sequence[int]
    status: str = "ok"


class Reader(Protocol):
    """Read questions as the model behind them does."""

    def read(self, questions: Sequence[MarkedText]) -> list[tuple[str, Sequence[int]]]:
        """Return each question as it is put, and the units that count towards the limit."""
        ...

    def shorter(self, text: str, excess: int) -> str:
        """Cut about `excess` units off a text, one character at least."""
        ...


def template_of(prompt: str) -> str:
    """Return the template of a question's name or text.

    Raises:
        ValueError: an unknown name, or a template without a field for the row or with one that is
            none.

    Example:
        >>> template_of("Good? {text}")
        'Good? {text}'
    """
    if prompt in QUESTIONS:
        return QUESTIONS[prompt]
    if "{" not in prompt:
        raise SuperfilterError(
            f"prompt={prompt!r}: {did_you_mean(prompt, QUESTIONS)}; or give a question of your own "
            f"with {{text}}, or with {{prompt}} and {{response}}"
        )
    try:
        fields = _fields(prompt)
    except ValueError as error:
        raise SuperfilterError(
            f"prompt={prompt!r} cannot be filled ({error}): double the braces that are no field"
        ) from error
    for field in sorted(fields - set(FIELDS)):
        raise SuperfilterError(
            f"prompt={prompt!r} has the field {{{field}}}: {did_you_mean(field, FIELDS)}"
        )
    if not fields & {"text", "response"} or ("text" in fields and len(fields) > 1):
        raise SuperfilterError(
            f"prompt={prompt!r}: ask about {{text}}, or about {{prompt}} and {{response}}"
        )
    return prompt


def fit(
    pairs: Sequence[tuple[str, str]], prompt: str, reader: Reader, limit: int
) -> list[Question]:
    """Ask about each (prompt, response) in at most `limit` units.

    `{text}` is the prompt and the response, cut on the right. With `{prompt}` and `{response}` the
    response is cut, and a prompt that leaves no room for any of it makes the row `prompt_too_long`.
    The question itself is never cut.

    Raises:
        ValueError: the question fills the limit by itself.
    """
    template = template_of(prompt)
    about_text = "text" in _fields(template)  # prompt and response are one text
    cuts = [pair[0] + pair[1] if about_text else pair[1] for pair in pairs]
    ((_, bare),) = reader.read([_filled(template, "", "")])
    if len(bare) >= limit:
        raise SuperfilterError(
            f"the question alone takes {len(bare)} of the {limit} that max_length, or the "
            "model, allows: raise max_length, or ask a shorter question"
        )
    filled = [_filled(template, pair[0], cut) for pair, cut in zip(pairs, cuts, strict=True)]
    questions = [
        Question(text, units, "ok" if response.strip() else "empty_response")
        for (text, units), (_, response) in zip(reader.read(filled), pairs, strict=True)
    ]
    too_long = [row for row in range(len(pairs)) if _exceeds(questions[row], limit)]
    while too_long:
        for row in too_long:
            cuts[row] = reader.shorter(cuts[row], len(questions[row].units) - limit)
        filled = [_filled(template, pairs[row][0], cuts[row]) for row in too_long]
        for row, (text, units) in zip(too_long, reader.read(filled), strict=True):
            status = "truncated" if cuts[row] else "prompt_too_long"
            questions[row] = Question(text, units, status)
        too_long = [row for row in too_long if _exceeds(questions[row], limit)]
    return questions


def _exceeds(question: Question, limit: int) -> bool:
    """Tell whether a question has to be cut further."""
    return question.status in ("ok", "truncated") and len(question.units) > limit


def _fields(template: str) -> set[str]:
    """List the fields; a conversion or format, which none may have, stays on."""
    fields = set()
    for _, name, spec, conversion in Formatter().parse(template):
        if name is not None:
            fields.add(
                name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            )
    return fields


def _filled(template: str, prompt: str, cut: str) -> MarkedText:
    """Fill a template; the texts of the row are plain."""
    values = {"text": cut, "prompt": prompt, "response": cut}
    text, plain = "", []
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            plain.append((len(text), len(text) + len(values[field])))
            text += values[field]
    return MarkedText(text, plain)
