"""Put questions to a model behind a server: how likely an answer is, or what it writes.

One token is requested, with the log-probabilities of the likeliest tokens in its place: by chat
completions, which put the question into the model's chat template, or by plain completions where
the server refuses a chat (a model without a chat template). Which of the two, and how many tokens
it lists, is found out with one question beforehand and written into the run's manifest.

What a server does not list is not known. P(yes) sums the forms of yes among the listed tokens; any
other form is rarer than the rarest of these. Where no form is listed, P(yes) is only known to be
small: nan, `not_in_top`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import SuperfilterError
from ..tokenization import DEFAULT_MAX_LENGTH
from .openai_chat import (
    NO_THINKING,
    OPENING,
    OUT_OF_TOKENS,
    REPLACEMENTS,
    Reply,
    accepted_names,
    read_reply,
    refused_name,
    thoughts_of,
)
from .openai_client import (
    BLANKS,
    NO_PROTOCOL,
    RefusedError,
    ask_all,
    one_line,
    open_client,
    read_answer,
)

if TYPE_CHECKING:
    from ..text_tokenizer import MarkedText

BYTES_PER_TOKEN = 4  # of UTF-8 text, where the tokenizer is not here
TOP_LOGPROBS = (20, 5)  # to request: the most of OpenAI and vLLM, then of TGI as it comes
NO_LOGPROBS = (
    "the server at {} answers without log-probabilities: serve the model with them (vLLM: "
    "--max-logprobs 20; TGI: --max-top-n-tokens 20; llama.cpp, SGLang: a current version), or take "
    "another model"
)
THINKS = (
    "the model {!r} at {} thinks before it answers, so that its first token is no answer, and does "
    "so too where its chat template is told not to (enable_thinking: false): take another model"
)
PROBE = "Is water wet? Answer yes or no."


class Route(NamedTuple):
    """Say how to ask a server for the first token of an answer.

    Attributes:
        path: of the address.
        logprobs: how many log-probabilities to ask for.
        no_thinking: whether the chat template is told that the model shall not think.
    """

    path: str
    logprobs: int
    no_thinking: bool = False

    def __str__(self) -> str:
        """Return what the manifest records."""
        asked = f"{self.path}, {self.logprobs} log-probabilities"
        return f"{asked}, without thinking" if self.no_thinking else asked


class Server:
    """Ask a model behind an endpoint.

    Questions are measured in bytes of text, because the tokenizer is not here.

    Args:
        endpoint: its address, up to and with `/v1`.
        model: the name by which it knows the model.
    """

    def __init__(self, endpoint: str, model: str) -> None:
        self.endpoint, self.model = endpoint, model

    def limit(self, max_length: int | None) -> int:
        """Return the bytes that a question may have, 4 for each token."""
        return BYTES_PER_TOKEN * (max_length or DEFAULT_MAX_LENGTH)

    def read(self, questions: "Sequence[MarkedText]") -> list[tuple[str, Sequence[int]]]:
        """Return each question, which the server puts into its chat template, and its bytes."""
        return [(question.text, question.text.encode()) for question in questions]

    def shorter(self, text: str, excess: int) -> str:
        """Cut the last `excess` bytes off, and what is left of a character or a blank."""
        return text.encode()[:-excess].decode(errors="ignore").rstrip()

    def probability(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """Compute how likely the first token is one of each answer's forms.

        Args:
            questions: n texts.
            answers: k lists of forms.

        Returns:
            (n, k) float64: the sum over the forms that the server lists, nan where it lists none.

        Raises:
            ConnectionError: it cannot be reached, or still fails after all retries.
            ValueError: it refuses the question, answers without log-probabilities, or the client is
                not installed.
            PermissionError: it wants a key, or another one.
        """
        if not questions:
            return np.full((0, len(answers)), np.nan)
        route = _find_route(self.endpoint, self.model)
        tops: dict[int, list[tuple[str, float]]] = {}
        ask_all(
            self.endpoint,
            questions,
            lambda client, text: _ask(client, self, route, text),
            tops.__setitem__,
        )
        return np.array(
            [
                [_probability(tops[number], forms) for forms in answers]
                for number in range(len(questions))
            ]
        )

    def write(
        self,
        questions: Sequence[str],
        limits: Sequence[int],
        is_complete: Callable[[str], bool],
        keep: Callable[[int, Reply], None],
    ) -> None:
        """Ask for a text to each question, as one user turn of a chat.

        Args:
            questions: n texts.
            limits: tokens of a reply, rising. A reply that ended at one before it was complete is
                asked for with the next; where that was enough, so are those that follow.
            is_complete: tells whether a text that was cut holds what was asked for.
            keep: called in this thread with number and reply of each question, as soon as it is
                there.

        Raises:
            ConnectionError: it cannot be reached, or still fails after all retries.
            ValueError: it refuses the question, or the client is not installed.
            PermissionError: it wants a key, or another one.
        """
        first = 0

        def ask(client: Any, question: str) -> Reply:
            nonlocal first
            begin = first
            for place in range(begin, len(limits)):
                reply = self._reply(client, question, limits[begin : place + 1])
                if not reply.is_cut or is_complete(reply.text):
                    break
            if place > begin and is_complete(reply.text):
                first = place
            return reply

        ask_all(self.endpoint, questions, ask, keep)

    def _reply(self, client: Any, question: str, limits: Sequence[int]) -> Reply:
        """Ask with the last of some limits; the replies with the ones before were cut."""
        try:
            return _write(client, self, question, limits[-1])
        except RefusedError as error:
            if len(limits) == 1:
                raise
            raise SuperfilterError(
                f"the server at {self.endpoint} refuses a reply of {limits[-1]:,} tokens, which "
                f"{self.model!r} needs since {limits[-2]:,} were too few "
                f"({one_line(error.__cause__ or error)}): give fewer, max_reply_tokens of a "
                "judge, or serve it with a longer window"
            ) from error

    def provenance(self) -> dict[str, Any]:
        """Return what the manifest records: the server, and how it was asked.

        The server does not say on what it runs, and which weights.
        """
        route = _find_route(self.endpoint, self.model)
        return {
            "model": self.model,
            "revision": "chosen by the server",
            "device": self.endpoint,
            "dtype": "chosen by the server",
            "asked": str(route),
        }


@lru_cache(maxsize=16)
def _find_route(endpoint: str, model: str) -> Route:
    """Try out, once per process, how a server can be asked: a chat, else plain completions."""
    server = Server(endpoint, model)
    refusal = ""
    with open_client(endpoint, retries=2) as client:  # a wrong address is soon reported
        for path in ("chat/completions", "completions"):
            for logprobs in TOP_LOGPROBS:
                route = Route(path, logprobs)
                try:
                    answer = _send(client, server, route, PROBE)
                except RefusedError as error:
                    refusal = refusal or str(error)
                else:
                    return _without_thinking(client, server, route, answer)
    raise SuperfilterError(refusal)


def _without_thinking(
    client: Any, server: Server, route: Route, answer: Mapping[str, Any]
) -> Route:
    """Return a route on which the model answers at once.

    Raises:
        SuperfilterError: it always thinks before.
    """
    if not _is_thought(server, answer):
        return route
    quiet = route._replace(no_thinking=True)
    try:
        answer = _send(client, server, quiet, PROBE)
    except RefusedError:  # a server that does not know the parameter
        pass
    else:
        if not _is_thought(server, answer):
            return quiet
    raise SuperfilterError(THINKS.format(server.model, server.endpoint))


def _is_thought(server: Server, answer: Mapping[str, Any]) -> bool:
    """Tell whether the first token of the answer to the probe begins a thought."""
    top = _read_top(server, answer)
    likeliest = max(top, key=lambda entry: entry[1])[0].translate(BLANKS)
    # Some servers take all that a model says for thoughts, though it was told not to think.
    if likeliest.strip().casefold() in ("yes", "no"):
        return False
    message = answer["choices"][0].get("message") or {}
    return bool(OPENING.match(likeliest) or thoughts_of(message))


def _ask(client: Any, server: Server, route: Route, question: str) -> list[tuple[str, float]]:
    """Return the likeliest first tokens of an answer with their log-probabilities."""
    return _read_top(server, _send(client, server, route, question))


def _send(client: Any, server: Server, route: Route, question: str) -> Mapping[str, Any]:
    """Ask for the first token of an answer."""
    if route.path == "completions":
        create = partial(
            client.completions.with_raw_response.create,
            model=server.model,
            prompt=question,
            logprobs=route.logprobs,
            max_tokens=1,
            temperature=0,
        )
        return read_answer(server.endpoint, server.model, create)
    extra = {"extra_body": NO_THINKING} if route.no_thinking else {}
    return _send_chat(
        client, server, question, 1, logprobs=True, top_logprobs=route.logprobs, **extra
    )


def _read_top(server: Server, answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    try:
        top = _top_logprobs(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SuperfilterError(NO_PROTOCOL.format(server.endpoint)) from error
    if not top:
        raise SuperfilterError(NO_LOGPROBS.format(server.endpoint))
    return top


def _write(client: Any, server: Server, question: str, max_tokens: int) -> Reply:
    """Return the text of an answer, without what the model thought before."""
    try:
        answer = _send_chat(client, server, question, max_tokens)
    except RefusedError as error:
        if OUT_OF_TOKENS in str(error.__cause__):
            return Reply("", is_cut=True)
        raise
    try:
        return read_reply(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SuperfilterError(NO_PROTOCOL.format(server.endpoint)) from error


def _send_chat(
    client: Any, server: Server, question: str, max_tokens: int, **options: Any
) -> Mapping[str, Any]:
    """Send a question as one user turn, with parameters named as the model takes them."""
    accepted = accepted_names(server.endpoint, server.model)
    names = dict(accepted)
    values = {"max_tokens": max_tokens, "temperature": 0}
    while True:
        settings = {names[name]: value for name, value in values.items() if names[name]}
        create = partial(
            client.chat.completions.with_raw_response.create,
            model=server.model,
            messages=[{"role": "user", "content": question}],
            **settings,
            **options,
        )
        try:
            answer = read_answer(server.endpoint, server.model, create)
        except RefusedError as error:
            refused = refused_name(str(error.__cause__), names)
            if refused is None:
                raise
            names[refused] = REPLACEMENTS[refused]
        else:
            accepted.update(names)  # names that worked: the refusal may have had another reason
            return answer


def _top_logprobs(answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Read tokens and log-probabilities from both forms that servers give; [] for none."""
    logprobs = answer["choices"][0].get("logprobs") or {}
    if not logprobs.get("content"):
        by_position = logprobs.get("top_logprobs") or [None]
        first = by_position[0] or {}
        return [(token, float(number)) for token, number in first.items()]
    first = logprobs["content"][0]
    top = [(entry["token"], float(entry["logprob"])) for entry in first.get("top_logprobs") or ()]
    if top and first["token"] not in dict(top):  # some leave the token that they chose out
        top.append((first["token"], float(first["logprob"])))
    return top


def _probability(top: list[tuple[str, float]], forms: Sequence[str]) -> float:
    """Sum the probabilities of an answer's forms, 1 at most; nan where none is listed."""
    listed = [
        math.exp(logprob)
        for token, logprob in top
        if token.translate(BLANKS).strip() in forms and math.isfinite(logprob)
    ]
    if not listed:
        return math.nan
    return min(sum(listed), 1.0)
