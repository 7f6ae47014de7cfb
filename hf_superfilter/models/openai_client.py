"""Answer probabilities from a server that speaks OpenAI's protocol: vLLM, TGI, llama.cpp, SGLang ...

One token is asked for, with the log-probabilities of the likeliest tokens in its place: by chat completions,
which put the question into the model's chat template, or by plain completions where the server refuses a chat
(a model without a chat template). Which of the two, and how many tokens it names, is found out with one
question beforehand and written into the run's record.

What a server does not name is not known. P(yes) sums the forms of yes among the named tokens; any other form
is rarer than the rarest of these. Where no form is named, P(yes) is only known to be small: nan, `not_in_top`.

The key is read from OPENAI_API_KEY, and goes only to the server that it belongs to: the one in OPENAI_BASE_URL
(else OpenAI's own), or one on this machine. So a recipe from elsewhere cannot send it elsewhere.
"""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

AT_ONCE = 16  # requests under way
RETRIES = 6  # the client waits 0.5 s, 1 s, 2 s ... up to 8 s, or as long as the server says
BYTES = 4  # of UTF-8 text for one token, where the tokenizer is not here
NAMED = (
    20,
    5,
)  # log-probabilities to ask for: what OpenAI and vLLM allow at most, and TGI as it comes
REFUSED = (400, 404, 405, 422, 501)
BLANKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})  # as vocabularies write them
DEFAULT_MAX_LENGTH = 1_024
NO_NUMBERS = (
    "the server at {} answers without log-probabilities: serve the model with them (vLLM: --max-logprobs 20; "
    "TGI: --max-top-n-tokens 20; llama.cpp, SGLang: a current version), or take another model"
)


class Route(NamedTuple):
    """How a server is asked: by which of its addresses, and for how many log-probabilities."""

    path: str
    named: int


def check_endpoint(endpoint: Any) -> str:
    """An endpoint without the slash at its end.

    Raises:
        ValueError: it is no address of a server, or one with a secret in it.

    Example:
        >>> check_endpoint("http://localhost:8000/v1/")
        'http://localhost:8000/v1'
    """
    try:
        parts = urlsplit(endpoint if isinstance(endpoint, str) else "")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"endpoint={endpoint!r} is no server's address: give one such as 'http://localhost:8000/v1'"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"the endpoint at {parts.hostname!r} holds more than an address: leave user, password and query out; "
            "a key is read from the environment variable OPENAI_API_KEY"
        )
    return endpoint.rstrip("/")


class Server:
    """A model behind an endpoint. It reads questions as bytes of text, because its tokenizer is not here.

    Args:
        endpoint: its address, up to and with `/v1`.
        model: the name by which it knows the model.
    """

    def __init__(self, endpoint: str, model: str) -> None:
        self.endpoint, self.model = endpoint, model

    def limit(self, max_length: int | None) -> int:
        """The bytes that a question may have, 4 for each token."""
        return BYTES * (max_length or DEFAULT_MAX_LENGTH)

    def asked(self, question: str) -> str:
        """The question itself: the server puts it into its chat template."""
        return question

    def read(self, texts: list[str]) -> list[Sequence[int]]:
        """The bytes of each text."""
        return [text.encode() for text in texts]

    def shorter(self, text: str, excess: int) -> str:
        """The text without its last `excess` bytes, and without what is left of a character or a blank."""
        return text.encode()[:-excess].decode(errors="ignore").rstrip()

    def probability(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """How likely the first token of the server's answer is one of each answer's forms.

        Returns:
            (n, k) float64: the sum over the forms that the server names, nan where it names none.

        Raises:
            ConnectionError: it cannot be reached, or still fails after all retries.
            ValueError: it refuses the question, answers without log-probabilities, or the client is not installed.
            PermissionError: it wants a key, or another one.
        """
        if not questions:
            return np.full((0, len(answers)), np.nan)
        route = _route(self.endpoint, self.model)
        with _client(self.endpoint, RETRIES) as client, ThreadPoolExecutor(AT_ONCE) as pool:
            asked = [pool.submit(_ask, client, self, route, question) for question in questions]
            try:
                tops = [answer.result() for answer in asked]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the first failure ends the rest
                raise
        return np.array([[_share(top, forms) for forms in answers] for top in tops])

    def provenance(self) -> dict[str, Any]:
        """What a run records: the server, and how it was asked. What it runs on, and which weights, it does not say."""
        route = _route(self.endpoint, self.model)
        return {
            "model": self.model,
            "revision": "chosen by the server",
            "device": self.endpoint,
            "dtype": "chosen by the server",
            "asked": f"{route.path}, {route.named} log-probabilities",
        }


@lru_cache(maxsize=16)
def _route(endpoint: str, model: str) -> Route:
    """How a server can be asked, found out once per process: a chat if it has one, else plain completions."""
    server, refusal = Server(endpoint, model), ""
    with _client(endpoint, retries=2) as client:  # a wrong address is soon said
        for route in (
            Route(path, named) for path in ("chat/completions", "completions") for named in NAMED
        ):
            try:
                _ask(client, server, route, "Is water wet? Answer yes or no.")
            except RefusedError as error:
                refusal = refusal or str(error)
            else:
                return route
    raise ValueError(refusal)


class RefusedError(ValueError):
    """The server does not take such a question."""


def _client(endpoint: str, retries: int) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ValueError(
            "asking an endpoint needs OpenAI's client: install it with pip install 'hf-superfilter[api]'"
        ) from error
    return openai.OpenAI(
        base_url=endpoint, api_key=_key_for(endpoint) or "none", max_retries=retries
    )


def _key_for(endpoint: str) -> str:
    """The key of the environment, if it belongs to this server."""
    home, here = (
        urlsplit(os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"),
        urlsplit(endpoint),
    )
    at_home = (home.scheme, home.netloc) == (here.scheme, here.netloc)
    local = here.hostname in ("localhost", "127.0.0.1", "::1")
    return os.environ.get("OPENAI_API_KEY", "") if at_home or local else ""


def _ask(client: Any, server: Server, route: Route, question: str) -> list[tuple[str, float]]:
    """The likeliest first tokens of an answer with their log-probabilities."""
    common = {"model": server.model, "max_tokens": 1, "temperature": 0}
    import openai

    try:
        if route.path == "completions":
            plain = client.completions.with_raw_response
            answer = plain.create(prompt=question, logprobs=route.named, **common)
        else:
            chat = client.chat.completions.with_raw_response
            turns = [{"role": "user", "content": question}]
            answer = chat.create(messages=turns, logprobs=True, top_logprobs=route.named, **common)
    except openai.APIStatusError as error:
        raise _as_ours(error, server) from error
    except openai.APIConnectionError as error:
        raise ConnectionError(
            f"the server at {server.endpoint} cannot be reached ({_line(error.__cause__ or error)}): start it, or mend "
            "the endpoint; finished chunks are kept"
        ) from error
    try:
        named = _named(answer.http_response.json())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the server at {server.endpoint} does not answer as OpenAI's protocol says: check the endpoint, which "
            "mostly ends in /v1"
        ) from error
    if not named:
        raise ValueError(NO_NUMBERS.format(server.endpoint))
    return named


def _as_ours(error: Any, server: Server) -> Exception:
    """One sentence about a status that the client did not get over."""
    where, said = f"the server at {server.endpoint}", _line(error)
    if error.status_code in (401, 403):
        return PermissionError(
            f"{where} wants another key ({said}): set OPENAI_API_KEY, and OPENAI_BASE_URL to this endpoint, for a key "
            "goes to its own server only"
        )
    if error.status_code in REFUSED:
        return RefusedError(
            f"{where} refuses the question to {server.model!r} ({said}): check the model's name and the endpoint, "
            "which mostly ends in /v1, and lower max_length if the text is too long"
        )
    return ConnectionError(
        f"{where} still fails after some retries ({said}): run it again, finished chunks are kept"
    )


def _line(error: BaseException) -> str:
    """An error's text in one short line, without the key, should the server have quoted it."""
    text = " ".join(str(error).split())
    key = os.environ.get("OPENAI_API_KEY")
    return (text.replace(key, "***") if key else text)[:200]


def _named(answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Tokens and log-probabilities, from the two forms in which servers give them; [] where they give none."""
    numbers = answer["choices"][0].get("logprobs") or {}
    if not numbers.get("content"):
        first = (numbers.get("top_logprobs") or [None])[0] or {}
        return [(token, float(number)) for token, number in first.items()]
    chosen = numbers["content"][0]
    named = [(top["token"], float(top["logprob"])) for top in chosen.get("top_logprobs") or ()]
    if named and chosen["token"] not in dict(
        named
    ):  # some leave the token that they chose out of the list
        named.append((chosen["token"], float(chosen["logprob"])))
    return named


def _share(top: list[tuple[str, float]], forms: Sequence[str]) -> float:
    found = [
        math.exp(p)
        for token, p in top
        if token.translate(BLANKS).strip() in forms and math.isfinite(p)
    ]
    return min(sum(found), 1.0) if found else math.nan
