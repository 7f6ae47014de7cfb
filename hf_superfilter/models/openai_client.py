"""Ask a server that speaks OpenAI's protocol: vLLM, TGI, llama.cpp, SGLang ...

One token is requested, with the log-probabilities of the likeliest tokens in its place: by chat
completions, which put the question into the model's chat template, or by plain completions where
the server refuses a chat (a model without a chat template). Which of the two, and how many tokens
it lists, is found out with one question beforehand and written into the run's manifest.

What a server does not list is not known. P(yes) sums the forms of yes among the listed tokens; any
other form is rarer than the rarest of these. Where no form is listed, P(yes) is only known to be
small: nan, `not_in_top`.

The key is read from OPENAI_API_KEY. It, and all else that the client reads from the environment,
goes only to the server that it belongs to: the one in OPENAI_BASE_URL (else OpenAI's own), or one
on this machine. No redirect is followed. So a recipe from elsewhere cannot send it elsewhere.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ..errors import AccessError, SuperfilterError, UnreachableError
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
from .tokenization import DEFAULT_MAX_LENGTH

if TYPE_CHECKING:
    from .tokenization import MarkedText

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

CONCURRENT_REQUESTS = 16
RETRIES = 6  # the client waits 0.5 s, 1 s, 2 s ... up to 8 s, or as long as the server says
BYTES_PER_TOKEN = 4  # of UTF-8 text, where the tokenizer is not here
TOP_LOGPROBS = (20, 5)  # to request: the most of OpenAI and vLLM, then of TGI as it comes
PASSING = (408, 409, 429)  # what the client asks again after; of other 4xx the request is at fault
NOT_IMPLEMENTED = 501
BLANKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})  # as vocabularies write them
PLAIN_HEADERS = (
    "host", "accept", "accept-encoding", "connection", "content-type", "content-length",
)  # fmt: skip
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
NO_PROTOCOL = (
    "the server at {} does not answer as OpenAI's protocol says: check the endpoint, which mostly "
    "ends in /v1"
)
NO_LOGPROBS = (
    "the server at {} answers without log-probabilities: serve the model with them (vLLM: "
    "--max-logprobs 20; TGI: --max-top-n-tokens 20; llama.cpp, SGLang: a current version), or take "
    "another model"
)
REFUSES = (
    "{} refuses the question to {!r} ({}): check the model's name and the endpoint, which mostly "
    "ends in /v1, and lower max_length if the text is too long"
)
FAILS = "{} still fails after some retries ({}): run it again, finished chunks are kept"
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


class RefusedError(SuperfilterError):
    """Report that a server does not take such a question."""


class FailedError(UnreachableError):
    """Report that a server is there and still fails after all retries."""


def check_endpoint(endpoint: Any) -> str:
    """Return an endpoint without the slash at its end.

    Raises:
        ValueError: it is no address of a server, or one with a secret in it.

    Example:
        >>> check_endpoint("http://localhost:8000/v1/")
        'http://localhost:8000/v1'
    """
    text = endpoint if isinstance(endpoint, str) else ""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise SuperfilterError(
            f"endpoint={endpoint!r} is no server's address: give one such as "
            "'http://localhost:8000/v1'"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SuperfilterError(
            f"the endpoint at {parts.hostname!r} holds more than an address: leave user, password "
            "and query out; a key is read from the environment variable OPENAI_API_KEY"
        )
    return text.rstrip("/")


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
                f"({_one_line(error.__cause__ or error)}): give fewer, max_reply_tokens of a "
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


def ask_all(
    endpoint: str,
    items: Sequence[_Item],
    ask: Callable[[Any, _Item], _Answer],
    keep: Callable[[int, _Answer], None],
) -> None:
    """Ask a server about several items at once.

    Args:
        endpoint: its address.
        items: what to ask about.
        ask: called in several threads, with a client of the server and an item.
        keep: called in this thread with number and answer of each item, as soon as it is there.

    Raises:
        Exception: what `ask` raised first; the items that were not asked about by then are not.
    """
    with open_client(endpoint, RETRIES) as client, ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        requests = {pool.submit(ask, client, item): number for number, item in enumerate(items)}
        try:
            for request in as_completed(requests):
                keep(requests[request], request.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the first failure ends the rest
            raise


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


def open_client(endpoint: str, retries: int) -> Any:
    """Open a client that sends nothing of the environment to a foreign server."""
    try:
        import openai
    except ImportError as error:
        raise SuperfilterError(
            "asking an endpoint needs OpenAI's client: install it with pip install "
            "'hf-superfilter[api]'"
        ) from error
    key = _key_for(endpoint) or "none"
    hooks = [] if _owns_environment(endpoint) else [_strip_environment]
    # A server that sends its questions elsewhere would send the rows there.
    try:
        http_client = openai.DefaultHttpxClient(
            follow_redirects=False, event_hooks={"request": hooks}
        )
    except (ImportError, ValueError) as error:  # of a kind of proxy that it does not know
        raise SuperfilterError(
            f"the proxy that the environment names cannot be used ({_one_line(error)}): correct "
            f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or set NO_PROXY={urlsplit(endpoint).hostname}"
        ) from error
    return openai.OpenAI(
        base_url=endpoint, api_key=key, max_retries=retries, http_client=http_client
    )


def _owns_environment(endpoint: str) -> bool:
    """Return whether the key and headers of the environment belong to this server."""
    owner = urlsplit(os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
    server = urlsplit(endpoint)
    is_owner = (owner.scheme, owner.netloc) == (server.scheme, server.netloc)
    return is_owner or server.hostname in LOCAL_HOSTS


def _key_for(endpoint: str) -> str:
    """Return the key of the environment if it belongs to this server, else ''.

    Raises:
        SuperfilterError: it cannot stand in a header.
    """
    key = _own_key() if _owns_environment(endpoint) else ""
    if not (key.isascii() and key.isprintable()):
        raise SuperfilterError(
            "OPENAI_API_KEY holds a character that no key has, such as a quotation mark of a text "
            "processor or a line break: set it again"
        )
    return key


def _own_key() -> str:
    """Return the key of the environment, without the newline that files end in."""
    return os.environ.get("OPENAI_API_KEY", "").strip()


def _strip_environment(request: Any) -> None:
    """Remove what the client adds from the environment: key, organization, project, own headers."""
    for name in list(request.headers):
        if name.lower() not in PLAIN_HEADERS:
            del request.headers[name]
    request.headers["user-agent"] = "hf_superfilter"


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


def read_answer(endpoint: str, model: str, create: Callable[[], Any]) -> Mapping[str, Any]:
    """Send a request with a client, and return the server's answer.

    Args:
        endpoint, model: for messages.
        create: sends the request, and returns the client's raw response.

    Raises:
        RefusedError: the server does not take such a request.
        SuperfilterError: it answers in another form, or redirects.
        AccessError: it wants a key, or another one.
        UnreachableError: it cannot be reached, or still fails after all retries.
    """
    import openai

    try:
        response = create()
    except openai.APIStatusError as error:
        raise _translated(error, endpoint, model) from error
    except openai.APIConnectionError as error:
        reason = _one_line(error.__cause__ or error)
        raise UnreachableError(
            f"the server at {endpoint} cannot be reached ({reason}): start it, or correct "
            "the endpoint; finished chunks are kept"
        ) from error
    try:
        answer: Mapping[str, Any] = response.http_response.json()
    except ValueError as error:
        raise SuperfilterError(NO_PROTOCOL.format(endpoint)) from error
    _check_reported(answer, endpoint, model)
    return answer


def _check_reported(answer: Any, endpoint: str, model: str) -> None:
    """Refuse an answer that reports an error under the status of success.

    LM Studio and gateways answer so, OpenRouter also within a choice.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    parts = [answer, *(choices if isinstance(choices, list) else [])]
    errors = [part.get("error") for part in parts if isinstance(part, Mapping)]
    for reported in filter(None, errors):
        facts = reported if isinstance(reported, Mapping) else {"message": reported}
        where, reason = f"the server at {endpoint}", _one_line(facts.get("message") or facts)
        code = facts.get("code")
        if isinstance(code, int) and (code in PASSING or code >= 500):
            raise FailedError(FAILS.format(where, f"{code}: {reason}"))
        raise RefusedError(REFUSES.format(where, model, reason))


@lru_cache(maxsize=16)
def served_model(endpoint: str) -> str:
    """Ask a server for the name of its only model.

    Raises:
        ValueError: it serves none or several, or no server of this kind is there.
    """
    with open_client(endpoint, retries=2) as client:
        try:
            answer = read_answer(endpoint, "models", client.models.with_raw_response.list)
        except RefusedError as error:
            raise SuperfilterError(
                f"the server at {endpoint} does not list its models ({error.__cause__}): correct "
                f"the endpoint, which mostly ends in /v1, or give NAME@{endpoint}"
            ) from error
    try:
        names = [str(entry["id"]) for entry in answer["data"]]
    except (LookupError, TypeError) as error:
        raise SuperfilterError(NO_PROTOCOL.format(endpoint)) from error
    if len(names) != 1:
        listed = ", ".join(map(repr, names)) or "no model"
        raise SuperfilterError(f"the server at {endpoint} serves {listed}: give NAME@{endpoint}")
    return names[0]


def _translated(error: Any, endpoint: str, model: str) -> Exception:
    """Translate a status that remains after all retries into one sentence."""
    where, reason = f"the server at {endpoint}", _one_line(error)
    if error.status_code in (401, 403):
        return AccessError(
            f"{where} wants another key ({reason}): set OPENAI_API_KEY, and OPENAI_BASE_URL to "
            "this endpoint, for a key goes to its own server only"
        )
    if 300 <= error.status_code < 400:
        target = error.response.headers.get("location", "another address")
        return SuperfilterError(
            f"{where} redirects to {target!r}, which is not followed: give that as the endpoint if "
            "you trust it"
        )
    is_refusal = 400 <= error.status_code < 500 and error.status_code not in PASSING
    if is_refusal or error.status_code == NOT_IMPLEMENTED:
        return RefusedError(REFUSES.format(where, model, reason))
    return FailedError(FAILS.format(where, reason))


def _one_line(error: object) -> str:
    """Shorten an error's text to one line, without the key, should the server quote it."""
    text = " ".join(str(error).split())
    key = _own_key()
    if key:
        text = text.replace(key, "***")
    return text[:200]


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
