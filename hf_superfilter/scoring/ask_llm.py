"""Ask-LLM: how likely a language model says "yes" when it is asked whether a text is worth training on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch, Columns
from ..data.chats import flatten_turns
from ..embedded import model_folder
from ..models.tokenization import SCORED
from ..revisions import resolve_revision
from ._model import ModelSettings, default_name
from ._questions import Question, fit, template_of

if TYPE_CHECKING:
    from ..models.next_token import Answers, TokenReader
    from ..models.openai_client import Server

SERVERS_OWN = ("revision", "dtype", "device", "attn_implementation", "batch_tokens")


@dataclass(frozen=True, repr=False)
class AskLLM(ModelSettings):
    """Ask-LLM: the probability that the model's answer is yes, 0 to 1. arXiv 2402.09668, section 3.1.

    The model is asked one question about each row and never writes anything: the score is read off the
    softmax at the position of the answer, step 1 of the decoder of an encoder-decoder model (Flan-T5), behind
    the last token of the question for any other. A tokenizer's chat template is used where there is one.
    Keep the HIGHEST: `TopK("ask_llm", k)`. It needs a model that follows instructions; the embedded ones do
    not. Ask-LLM scorers barely agree with each other across sizes: a small one does not stand in for a large.

    Columns, all float64 but the last: `ask_llm`, P(yes) over the whole vocabulary; `ask_llm_relative`,
    P(yes) / (P(yes) + P(no)); `ask_llm_tokens`, tokens of the response (not with an endpoint, whose tokenizer
    is not here); `ask_llm_status`, `ok`, `truncated` (the text was cut, never the question), or why the numbers are
    nan: `empty_response`, `prompt_too_long` (no room is left for any of the response), `not_finite`, and
    `not_in_top` with an endpoint. A chat is one text: its last answer after all that was said before.

    Args:
        prompt: the question: `pretraining`, about the text (prompt, if any, and response); `instruction`,
            about the response to the prompt; or one of your own, with `{text}`, or with `{prompt}` and `{response}`.
        yes: the answers that count as yes. Each stands, with and without a blank before it, as it is written,
            and a word in lower case also capitalised and in capitals; the probabilities of all forms that are
            a single token are summed, and the run records which these were.
        no: the answers that count as no.
        endpoint: ask a server that speaks OpenAI's protocol instead, such as `http://localhost:8000/v1`; `model` is
            then the name that it knows. See `hf_superfilter.remote`. Of a token limit, 4 bytes of text count as one.

    Raises:
        ValueError: an unknown question or field; when scoring, no form of an answer that is a single token.

    Example:
        >>> from hf_superfilter import AskLLM, embedded_model
        >>> ask = AskLLM(embedded_model("weak"), "Good? {text} Answer:")
        >>> batch = {"prompt": ["", ""], "response": ["Water boils at 100 degrees.", ""]}
        >>> ask.questions(batch)
        ['Good? Water boils at 100 degrees. Answer:', None]
        >>> columns = ask(batch)
        >>> bool(0 < columns["ask_llm"][0] < columns["ask_llm_relative"][0] < 1), columns["ask_llm_status"]
        (True, ['ok', 'empty_response'])
    """

    prompt: str = "pretraining"
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    endpoint: str | None = None
    name: str = default_name("ask_llm")

    def __post_init__(self) -> None:
        """Check the question, the answers and the endpoint as well as what every model scorer checks."""
        super().__post_init__()
        if not isinstance(self.prompt, str):
            raise ValueError(f"prompt={self.prompt!r}: give the name of a question, or its text")
        template_of(self.prompt)
        for setting in ("yes", "no"):
            words = getattr(self, setting)
            words = (words,) if isinstance(words, str) else words
            if (
                not isinstance(words, Sequence)
                or not words
                or not all(isinstance(w, str) and w.strip() for w in words)
            ):
                raise ValueError(
                    f"{setting}={words!r}: give answers, such as {setting}=({setting!r},), and in YAML in quotes"
                )
            object.__setattr__(self, setting, tuple(words))
        if both := set(forms_of(self.yes)) & set(forms_of(self.no)):
            raise ValueError(f"yes={self.yes!r}, no={self.no!r}: {min(both)!r} cannot mean both")
        if self.endpoint is not None:
            self._check_endpoint()

    def _check_endpoint(self) -> None:
        from ..models.openai_client import check_endpoint

        object.__setattr__(self, "endpoint", check_endpoint(self.endpoint))
        given = self.settings()
        for setting in [name for name in SERVERS_OWN if name in given]:
            raise ValueError(
                f"{setting}={getattr(self, setting)!r} is the server's to choose: leave it out"
            )

    def settings(self) -> dict[str, Any]:
        """The arguments that build this scorer again, among them always the answers that are summed."""
        return super().settings() | {"yes": self.yes, "no": self.no}

    def identity(self) -> dict[str, Any]:
        """The model's immutable revision; of a server nothing is known but where it is and what it was asked for."""
        return (
            super().identity()
            if self.endpoint is None
            else {"endpoint": self.endpoint, "model": self.model}
        )

    def questions(self, batch: Batch) -> list[str | None]:
        """The exact text that is asked about each row of a batch; None where nothing is.

        It holds a local model's chat marks; a server adds its own. It needs the tokenizer, not the weights.
        """
        return [q.text if q.status in SCORED else None for q in self._asked(batch)]

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """What a run records after scoring: the model, where it ran, and which forms of the answers were summed."""
        if self.endpoint is not None:
            return self._server().provenance()
        return self.made_with(self._answers(rank)) | {
            "yes": _said(self._tokens(self.yes)),
            "no": _said(self._tokens(self.no)),
        }

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        asked = self._asked(batch)
        able = [i for i, question in enumerate(asked) if question.status in SCORED]
        found = np.full((len(asked), 2), np.nan)
        found[able] = self._probability([asked[i] for i in able], rank)
        yes, no = found.T
        with np.errstate(invalid="ignore"):
            relative = yes / (yes + no)
        unknown = "not_finite" if self.endpoint is None else "not_in_top"
        status = [
            unknown if q.status in SCORED and np.isnan(p) else q.status
            for q, p in zip(asked, yes, strict=True)
        ]
        columns: Columns = {self.name: yes, f"{self.name}_relative": relative}
        if self.endpoint is None:
            turns = flatten_turns(batch, self.columns)
            columns[f"{self.name}_tokens"] = turns.total(
                self._local_reader().count(turns.responses)
            )
        return columns | {f"{self.name}_status": status}

    def _asked(self, batch: Batch) -> list[Question]:
        turns = flatten_turns(batch, self.columns)
        rows = [("", "")] * turns.count
        for row, prompt, response in zip(
            turns.rows.tolist(), turns.prompts, turns.responses, strict=True
        ):
            if response.strip():
                rows[row] = (
                    prompt,
                    response,
                )  # of a chat the last, whose prompt holds what was said before it
        reader = self._reader()
        return fit(rows, self.prompt, reader, reader.limit(self.max_length))

    def _probability(self, asked: list[Question], rank: int | None) -> np.ndarray:
        """(n, 2) probabilities of yes and no."""
        if self.endpoint is not None:
            return self._server().probability(
                [q.text for q in asked], [forms_of(self.yes), forms_of(self.no)]
            )
        answers = [list(self._tokens(words).values()) for words in (self.yes, self.no)]
        return self._answers(rank).probability([q.units for q in asked], answers, self.batch_tokens)

    def _tokens(self, words: tuple[str, ...]) -> dict[str, int]:
        return self._local_reader().tokens_of(forms_of(words))

    def _answers(self, rank: int | None) -> "Answers":
        from ..models.next_token import load_answers

        return load_answers(*self.resolved(rank))

    def _reader(self) -> "TokenReader | Server":
        return self._local_reader() if self.endpoint is None else self._server()

    def _local_reader(self) -> "TokenReader":
        from ..models.next_token import load_reader

        folder = model_folder(self.model)
        return load_reader(folder, resolve_revision(folder, self.revision))

    def _server(self) -> "Server":
        from ..models.openai_client import Server

        return Server(str(self.endpoint), self.model)


def forms_of(words: Sequence[str]) -> list[str]:
    """The ways to write some answers: as given, and what is in lower case also capitalised and in capitals.

    Example:
        >>> forms_of(["yes", "A"])
        ['yes', 'Yes', 'YES', 'A']
    """
    return list(
        dict.fromkeys(
            f for w in words for f in ((w, w.capitalize(), w.upper()) if w.islower() else (w,))
        )
    )


def _said(tokens: dict[str, int]) -> str:
    return ", ".join(f"{form!r} ({token})" for form, token in tokens.items())
