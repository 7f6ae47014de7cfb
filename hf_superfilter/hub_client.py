"""Ask the Hub: retry what may pass, and translate what does not into one sentence.

All of this package that sends a request to the Hub does so through `retry_request` and
`translate_errors`. Tokens are in none of the sentences.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from .errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    SuperfilterError,
)

_T = TypeVar("_T")
TRANSIENT = (408, 429, 500, 502, 503, 504)
CONFLICTS = (409, 412)  # somebody else committed in between
MAX_FAILURES = 4
MAX_CONFLICTS = 40
WAIT = 0.2  # seconds that all waits are multiples of
MAX_WAIT = 30.0  # seconds that a Retry-After is obeyed


def retry_request(step: Callable[[], _T], *, max_failures: int = MAX_FAILURES) -> _T:
    """Retry a request after 429, 5xx or a broken connection, with back-off."""
    return _retry(step, max_failures, max_conflicts=0)


def retry_commit(step: Callable[[], _T]) -> _T:
    """Retry also after a lost race.

    The step looks again at what is there.
    """
    return _retry(step, MAX_FAILURES, MAX_CONFLICTS)


def _retry(step: Callable[[], _T], max_failures: int, max_conflicts: int) -> _T:
    failures = conflicts = 0
    while True:
        try:
            return step()
        except Exception as error:
            status = _status_of(error)
            if status in CONFLICTS:
                conflicts += 1
            elif status in TRANSIENT or _is_broken(error):
                failures += 1
            else:
                raise
            if failures > max_failures or conflicts > max_conflicts:
                raise
            _wait(error, failures, conflicts)


def _wait(error: Exception, failures: int, conflicts: int) -> None:
    """Sleep for what the Hub asks for, else longer after every failure, and never in step."""
    seconds = WAIT * random.uniform(0.5, 1.5) * min(conflicts + 2**failures, 20)
    response = getattr(_hub_cause(error), "response", None)
    header = response.headers.get("Retry-After", "") if response is not None else ""
    if header.isdigit():
        seconds = max(seconds, min(float(header), MAX_WAIT))
    time.sleep(seconds)


@contextmanager
def translate_errors(
    repo_id: str,
    *,
    kind: str = "data set",
    revision: str | None = None,
    writing: bool = False,
    progress: str = "",
) -> Iterator[None]:
    """Translate what the Hub's clients raise into one sentence.

    Args:
        repo_id: the repository that is asked for.
        kind: "data set", "model" or "Space".
        revision: the branch, tag or commit that is asked for.
        writing: whether the token needs the right to write.
        progress: how far it came and what to do, at the end of sentences about interruptions.

    Raises:
        HubNotFoundError: no such repository or revision, or a private one.
        HubAccessError: a gated repository, an unknown token, or one that lacks the right.
        HubOfflineError: offline, or the connection broke.
        HubError: too many requests, or the Hub failed.
    """
    try:
        yield
    except SuperfilterError:
        raise
    except Exception as error:
        cause = _hub_cause(error)
        if cause is None or _is_missing_file(error):
            raise
        where = f"{kind} {repo_id!r}"
        if revision:
            where += f" at revision {revision!r}"
        _raise_translated(error, cause, where, repo_id, writing, progress)


def _raise_translated(
    error: Exception, cause: BaseException, where: str, repo_id: str, writing: bool, progress: str
) -> NoReturn:
    from huggingface_hub import errors

    if isinstance(cause, errors.OfflineModeIsEnabled) or (
        _is_offline() and not isinstance(cause, errors.HfHubHTTPError)
    ):
        raise HubOfflineError(
            f"{repo_id!r}: the Hub is not asked, because HF_HUB_OFFLINE is set"
        ) from error
    if isinstance(cause, errors.HFValidationError):
        raise HubNotFoundError(f"the Hub has no {where}: check the name") from error
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        # The client's own refusal, such as "Invalid metadata in README.md", has several lines.
        raise HubError(_reason(error)) from error
    if isinstance(cause, errors.HfHubHTTPError):
        raise _refusal(cause, where, repo_id, writing, progress) from error
    raise HubOfflineError(
        f"the connection to the Hub broke ({_reason(cause)}){_end(progress) or ': run it again'}"
    ) from error


def _refusal(cause: Any, where: str, repo_id: str, writing: bool, progress: str) -> HubError:
    """Word what the Hub answered."""
    from huggingface_hub import errors

    status, message = cause.response.status_code, _reason(cause)
    if isinstance(cause, errors.GatedRepoError):
        return HubAccessError(
            f"{repo_id!r} is gated: accept its conditions on its page on the Hub, and use a token "
            "of that account"
        )
    if isinstance(cause, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
        if status == 401:
            return HubNotFoundError(
                f"the Hub shows no {where} without a token: it is private, or there is none; log "
                "in with 'hf auth login', or set HF_TOKEN"
            )
        return HubNotFoundError(
            f"the Hub has no {where}: check the name, and that your token may read it"
        )
    if status in (401, 403) and writing:
        return HubAccessError(
            f"your token may not write to {repo_id!r} ({message}): use one that may"
        )
    if status in (401, 403):
        return HubAccessError(
            f"the Hub does not let you read {repo_id!r} ({message}): check your token"
        )
    if status == 429:
        return HubError(
            f"the Hub takes no more requests for {repo_id!r} now (429, {message}): wait some "
            "minutes, log in if you are not, and run it again"
        )
    return HubError(f"the Hub answered {status} for {repo_id!r} ({message}){_end(progress)}")


def _end(progress: str) -> str:
    return f" {progress}" if progress else ""


def _is_missing_file(error: Exception) -> bool:
    """Return whether the repository exists and a file of it does not, which callers handle."""
    from huggingface_hub import errors

    return isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _hub_cause(error: BaseException) -> Any:
    """Find what the Hub's client raised behind an error that datasets or others made of it."""
    from huggingface_hub import errors

    decisive = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HFValidationError)
    for kinds in (decisive, _broken_connections()):
        for link in _chain(error):
            if isinstance(link, kinds):
                return link
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status_of(error: BaseException) -> int | None:
    cause = _hub_cause(error)
    response = getattr(cause, "response", None)
    return response.status_code if response is not None else None


def _is_broken(error: BaseException) -> bool:
    """Return whether a connection broke.

    Neither an answer of the Hub nor offline mode.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = _hub_cause(error)
    if isinstance(cause, (HfHubHTTPError, OfflineModeIsEnabled)) or _is_offline():
        return False
    return isinstance(cause, _broken_connections())


def _is_offline() -> bool:
    """Return whether nothing may be asked: datasets hides the error that says so."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _broken_connections() -> tuple[Any, ...]:
    """Return what a broken connection raises in whichever HTTP library huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = tuple(
        base
        for base in HfHubHTTPError.__bases__
        if base is not OSError and issubclass(base, Exception)
    )
    return (ConnectionError, *transport)


def _reason(error: BaseException) -> str:
    """Return what the Hub or the connection said, in one line.

    The text of an HTTP error is left out: it holds the address, which of an upload is signed.
    """
    if hasattr(error, "server_message"):
        text = error.server_message or type(error).__name__
    else:
        text = str(error)
    return " ".join(str(text).split()) or type(error).__name__
