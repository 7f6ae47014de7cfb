"""Talk to a server by OpenAI's protocol: vLLM, TGI, llama.cpp, SGLang ...

    items ──► requests, several at once ──► answers, or one sentence of what went wrong

The key is read from OPENAI_API_KEY. It, and all else that the client reads from the environment,
goes only to the server that it belongs to: the one in OPENAI_BASE_URL (else OpenAI's own), or one
on this machine. No redirect is followed. So a recipe from elsewhere cannot send it elsewhere.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import AccessError, SuperfilterError, UnreachableError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

CONCURRENT_REQUESTS = 16
RETRIES = 6  # the client waits 0.5 s, 1 s, 2 s ... up to 8 s, or as long as the server says
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
REFUSES = (
    "{} refuses the question to {!r} ({}): check the model's name and the endpoint, which mostly "
    "ends in /v1, and lower max_length if the text is too long"
)
FAILS = "{} still fails after some retries ({}): run it again, finished chunks are kept"


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
            f"the proxy that the environment names cannot be used ({one_line(error)}): correct "
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
        reason = one_line(error.__cause__ or error)
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
        where, reason = f"the server at {endpoint}", one_line(facts.get("message") or facts)
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
    where, reason = f"the server at {endpoint}", one_line(error)
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


def one_line(error: object) -> str:
    """Shorten an error's text to one line, without the key, should the server quote it."""
    text = " ".join(str(error).split())
    key = _own_key()
    if key:
        text = text.replace(key, "***")
    return text[:200]
