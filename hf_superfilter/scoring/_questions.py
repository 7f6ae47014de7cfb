"""The questions of Ask-LLM: their wording, what they ask about, and how a text is cut so that the question fits."""

from collections.abc import Sequence
from string import Formatter
from typing import NamedTuple, Protocol

from ..errors import did_you_mean

# Whoever changes a wording raises the `arithmetic` of AskLLM: other questions, other scores.
QUESTIONS = {
    "pretraining": """\
###
{text}
###

Does the text between the two lines of ### hold informative signal for pre-training a large language model? \
An informative text is well formatted, holds some usable knowledge of the world, and has strictly no harmful, \
racist or sexist content.

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

Does the example between the two lines of ### hold informative signal for fine-tuning a large language model to \
follow instructions? In an informative example the instruction is clear, the response does what it asks, is correct, \
complete and well written, and has strictly no harmful, racist or sexist content.

OPTIONS:
- yes
- no
""",
}
FIELDS = ("text", "prompt", "response")


class Question(NamedTuple):
    """What is asked of one row, and what is the matter with it: `ok`, `truncated`, or why nothing is asked."""

    text: str
    units: Sequence[int]
    status: str = "ok"


class Reader(Protocol):
    """Knows how whoever is asked reads a question."""

    def asked(self, question: str) -> str:
        """The question as it is put, in the marks of a chat if need be."""
        ...

    def read(self, texts: list[str]) -> list[Sequence[int]]:
        """The units of each text that count towards the limit: token ids, or bytes."""
        ...

    def shorter(self, text: str, excess: int) -> str:
        """The beginning of a text, shorter by about so many units and by one character at least."""
        ...


def template_of(prompt: str) -> str:
    """The template that a question's name, or text, stands for.

    Raises:
        ValueError: an unknown name, or a template without a field for the row or with one that is none.

    Example:
        >>> template_of("Good? {text}")
        'Good? {text}'
    """
    if prompt in QUESTIONS:
        return QUESTIONS[prompt]
    if "{" not in prompt:
        raise ValueError(
            f"prompt={prompt!r}: {did_you_mean(prompt, QUESTIONS)}; or give a question of your own with "
            "{text}, or with {prompt} and {response}"
        )
    try:
        fields = _fields(prompt)
    except ValueError as error:
        raise ValueError(
            f"prompt={prompt!r} cannot be filled ({error}): double the braces that are no field"
        ) from error
    for field in sorted(fields - set(FIELDS)):
        raise ValueError(
            f"prompt={prompt!r} has the field {{{field}}}: {did_you_mean(field, FIELDS)}"
        )
    if not fields & {"text", "response"} or ("text" in fields and len(fields) > 1):
        raise ValueError(
            f"prompt={prompt!r}: ask about {{text}}, or about {{prompt}} and {{response}}"
        )
    return prompt


def fit(rows: Sequence[tuple[str, str]], prompt: str, reader: Reader, limit: int) -> list[Question]:
    """The question about each (prompt, response), at most `limit` units long.

    `{text}` is the prompt and the response, cut on the right. With `{prompt}` and `{response}` the response
    is cut, and a prompt that leaves no room for any of it makes the row `prompt_too_long`. The question
    itself is never cut.

    Raises:
        ValueError: the question fills the limit by itself.
    """
    template = template_of(prompt)
    whole = "text" in _fields(template)  # prompt and response are one text
    cuts = [p + r if whole else r for p, r in rows]

    def ask(numbers: Sequence[int]) -> list[tuple[str, Sequence[int]]]:
        filled = [_filled(template, rows[i][0], cuts[i]) for i in numbers]
        return _put(filled, reader)

    alone = len(_put([_filled(template, "", "")], reader)[0][1])
    if alone >= limit:
        raise ValueError(
            f"the question alone takes {alone} of the {limit} that max_length, or the model, allows: "
            "raise max_length, or ask a shorter question"
        )
    questions = [Question(*one) for one in ask(range(len(rows)))]
    status = ["ok" if response.strip() else "empty_response" for _, response in rows]
    while over := [
        i
        for i, q in enumerate(questions)
        if status[i] in ("ok", "truncated") and len(q.units) > limit
    ]:
        for i in over:
            cuts[i] = reader.shorter(cuts[i], len(questions[i].units) - limit)
            status[i] = "truncated" if cuts[i] else "prompt_too_long"
        for i, (text, units) in zip(over, ask(over), strict=True):
            questions[i] = Question(text, units)
    return [q._replace(status=s) for q, s in zip(questions, status, strict=True)]


def _fields(template: str) -> set[str]:
    """The names of the fields, with whatever stands behind a name: nothing may."""
    parts = [
        (name, f"!{way}" if way else "", f":{how}" if how else "")
        for _, name, how, way in Formatter().parse(template)
        if name is not None
    ]
    return {"".join(part) for part in parts}


def _put(filled: list[str], reader: Reader) -> list[tuple[str, Sequence[int]]]:
    texts = [reader.asked(question) for question in filled]
    return list(zip(texts, reader.read(texts), strict=True))


def _filled(template: str, prompt: str, cut: str) -> str:
    return template.format(text=cut, prompt=prompt, response=cut)
