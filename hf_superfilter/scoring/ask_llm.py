"""Ask a language model about each row (arXiv 2402.09668)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import UNREADABLE_STATUS, Batch, Columns
from ..data.chats import Turns, flatten_turns
from ..embedded import model_folder
from ..errors import SuperfilterError
from ..models.first_import import import_transformers
from ..models.tokenization import SCORED
from ..revisions import resolve_revision
from ._model import SERVER_SETTINGS, ModelSettings, check_server, default_name
from ._questions import Question, fit, template_of
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from ..models.next_token import Answers, TokenReader
    from ..models.served.questions import Server


@dataclass(frozen=True, repr=False)
class AskLLM(ModelSettings):
    """Score a row by the probability that the model answers yes.

    `P(yes) = sum over the forms of yes of softmax(logits)[form]`, 0 to 1, at the position of the
    answer: step 1 of the decoder of an encoder-decoder model (Flan-T5), behind the last token of
    the question for any other. The model is asked one question about each row and writes nothing. A
    tokenizer's chat template is used where there is one. Keep the HIGHEST: `TopK("ask_llm", k)`. It
    needs a model that follows instructions; the embedded ones do not. Ask-LLM scorers barely agree
    with each other across sizes: a small one does not stand in for a large. arXiv 2402.09668,
    section 3.1.

    Columns, float64, counts int64: `ask_llm`, P(yes) over the whole vocabulary;
    `ask_llm_relative`, P(yes) / (P(yes) + P(no)); `ask_llm_tokens`, tokens of the response (not
    with an endpoint, whose tokenizer is not here); `ask_llm_status`, `ok`, `truncated` (the text
    was cut, never the question), or
    why the numbers are nan: `empty_response`, `prompt_too_long` (no room is left for any of the
    response), `not_finite`, and `not_in_top` with an endpoint. A chat is one text: its last answer
    after all that was said before.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Args:
        prompt: the question: `pretraining`, about the text (prompt, if any, and response);
            `instruction`, about the response to the prompt; or one of your own, with `{text}`, or
            with `{prompt}` and `{response}`.
        yes: the answers that count as yes. Each stands, with and without a blank before it, as it
            is written, and a word in lower case also capitalised and in capitals; the probabilities
            of all forms that are a single token are summed, and the run records which these were.
        no: the answers that count as no.
        endpoint: ask a server that speaks OpenAI's protocol instead, such as
            `http://localhost:8000/v1`; `model` is then the name that it knows. Of a token limit, 4
            bytes of text count as one.

    Raises:
        ValueError: an unknown question or field; when scoring, no form of an answer that is a
            single token.

    Example:
        >>> from hf_superfilter import AskLLM, embedded_model
        >>> ask = AskLLM(embedded_model("weak"), "Good? {text} Answer:")
        >>> batch = {"prompt": ["", ""], "response": ["Water boils at 100 degrees.", ""]}
        >>> ask.questions(batch)
        ['Good? Water boils at 100 degrees. Answer:', None]
        >>> columns = ask(batch)
        >>> bool(0 < columns["ask_llm"][0] < columns["ask_llm_relative"][0] < 1)
        True
        >>> columns["ask_llm_status"]
        ['ok', 'empty_response']
    """

    prompt: str = "pretraining"
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    endpoint: str | None = None
    name: str = default_name("ask_llm")

    def __post_init__(self) -> None:
        """Check the question, the answers and the endpoint too."""
        super().__post_init__()
        if not isinstance(self.prompt, str):
            raise SuperfilterError(
                f"prompt={self.prompt!r}: give the name of a question, or its text"
            )
        template_of(self.prompt)
        for setting in ("yes", "no"):
            object.__setattr__(self, setting, _checked_words(setting, getattr(self, setting)))
        ambiguous = set(forms_of(self.yes)) & set(forms_of(self.no))
        if ambiguous:
            raise SuperfilterError(
                f"yes={self.yes!r}, no={self.no!r}: {min(ambiguous)!r} cannot mean both"
            )
        if self.endpoint is not None:
            check_server(self, ("revision", *SERVER_SETTINGS))

    def settings(self) -> dict[str, Any]:
        """Return the arguments to build this again, with the answers."""
        return super().settings() | {"yes": self.yes, "no": self.no}

    @property
    def is_repeatable(self) -> bool:
        """Whether the model is here, so that no server is asked twice."""
        return self.endpoint is None

    def identity(self) -> dict[str, Any]:
        """Return the model's revision, or its server and name."""
        if self.endpoint is None:
            return super().identity()
        return {"endpoint": self.endpoint, "model": self.model}

    def questions(self, batch: Batch) -> list[str | None]:
        """Return the exact text of each row's question, or None.

        It holds a local model's chat marks; a server adds its own. It needs the tokenizer, not the
        weights.
        """
        questions = self._questions(flatten_turns(batch, self.columns))
        return [question.text if question.status in SCORED else None for question in questions]

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return the model and the forms of the answers summed."""
        if self.endpoint is not None:
            return self._server().provenance()
        forms = {"yes": _listed(self._tokens(self.yes)), "no": _listed(self._tokens(self.no))}
        return self.facts_of_model(self._answers(rank)) | forms

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        turns = flatten_turns(batch, self.columns)
        questions = self._questions(turns)
        defined = [row for row, question in enumerate(questions) if question.status in SCORED]
        probabilities = np.full((len(questions), 2), np.nan)
        probabilities[defined] = self._probability([questions[row] for row in defined], rank)
        yes, no = probabilities.T
        with np.errstate(invalid="ignore"):
            relative = yes / (yes + no)
        status = [question.status for question in questions]
        for row in defined:
            if np.isnan(yes[row]):
                status[row] = "not_finite" if self.endpoint is None else "not_in_top"
        columns: Columns = {self.name: yes, f"{self.name}_relative": relative}
        if self.endpoint is None:
            counts = self._local_reader().count(turns.responses)
            columns[f"{self.name}_tokens"] = as_counts(turns.total(counts))
        for row in turns.unreadable:
            status[row] = UNREADABLE_STATUS
        columns[f"{self.name}_status"] = status
        return columns

    def _questions(self, turns: Turns) -> list[Question]:
        pairs = [("", "")] * turns.count
        rows = turns.rows.tolist()
        for row, prompt, response in zip(rows, turns.prompts, turns.responses, strict=True):
            # Of a chat the last answer remains: its prompt holds what was said before it.
            if response.strip():
                pairs[row] = prompt, response
        reader = self._reader()
        return fit(pairs, self.prompt, reader, reader.limit(self.max_length))

    def _probability(self, questions: list[Question], rank: int | None) -> np.ndarray:
        """Compute (n, 2) probabilities of yes and no."""
        if self.endpoint is not None:
            texts = [question.text for question in questions]
            return self._server().probability(texts, [forms_of(self.yes), forms_of(self.no)])
        answers = [list(self._tokens(self.yes).values()), list(self._tokens(self.no).values())]
        ids = [question.units for question in questions]
        return self._answers(rank).probability(ids, answers, self.batch_tokens)

    def _tokens(self, words: tuple[str, ...]) -> dict[str, int]:
        return self._local_reader().tokens_of(forms_of(words))

    def _answers(self, rank: int | None) -> "Answers":
        from ..models.next_token import load_answers

        return load_answers(*self.resolved(rank))

    def _reader(self) -> "TokenReader | Server":
        if self.endpoint is None:
            return self._local_reader()
        return self._server()

    def _local_reader(self) -> "TokenReader":
        import_transformers()
        from ..models.next_token import load_reader

        folder = model_folder(self.model)
        return load_reader(folder, resolve_revision(folder, self.revision))

    def _server(self) -> "Server":
        from ..models.served.questions import Server

        return Server(str(self.endpoint), self.model)


def forms_of(words: Sequence[str]) -> list[str]:
    """List the ways to write some answers.

    Each as it is; one in lower case also capitalised and in capitals.

    Example:
        >>> forms_of(["yes", "A"])
        ['yes', 'Yes', 'YES', 'A']
    """
    forms: dict[str, None] = {}
    for word in words:
        forms[word] = None
        if word.islower():
            forms[word.capitalize()] = None
            forms[word.upper()] = None
    return list(forms)


def _checked_words(setting: str, words: Any) -> tuple[str, ...]:
    """Check answers; a single one may be plain text."""
    if isinstance(words, str):
        words = (words,)
    listed = isinstance(words, Sequence) and len(words) > 0
    if not listed or not all(isinstance(word, str) and word.strip() for word in words):
        raise SuperfilterError(
            f"{setting}={words!r}: give answers, such as {setting}=({setting!r},), and in YAML in "
            "quotes"
        )
    return tuple(words)


def _listed(tokens: dict[str, int]) -> str:
    return ", ".join(f"{form!r} ({token})" for form, token in tokens.items())
