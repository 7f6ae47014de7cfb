"""The Hub's client, with patience and in one sentence: what is tried again, and how its errors read."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
RACES = 40  # how often others may commit first before publish gives up
FAILURES = 4  # how often the Hub may fail on the way


def patiently(step: Callable[[], _T]) -> _T:
    """Try a step again after a lost race (409, 412), a failure of the Hub (5xx) or a broken connection."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    races = failures = 0
    while True:
        try:
            return step()
        except OfflineModeIsEnabled:
            raise
        except (HfHubHTTPError, *_broken()) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            races += status in (409, 412)
            failures += status is None or status >= 500
            if (
                not (status in (409, 412) or status is None or status >= 500)
                or races > RACES
                or failures > FAILURES
            ):
                raise
            time.sleep(random.uniform(0.1, 0.3) * min(races + 2**failures, 20))


def _broken() -> tuple[Any, ...]:
    """What a broken connection raises in whichever HTTP library huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [
        base
        for base in HfHubHTTPError.__bases__
        if base is not OSError and issubclass(base, Exception)
    ]
    return (ConnectionError, *bases)


@contextmanager
def one_sentence(repo_id: str, when: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence; tokens are in none of its messages."""
    from huggingface_hub import errors

    try:
        yield
    except ValueError as error:  # the client's "Invalid metadata" has several lines
        raise ValueError(" ".join(str(error).split())) from error
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"{repo_id!r}: the Hub is not asked, because HF_HUB_OFFLINE is set"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the Hub has no data set {repo_id!r} (or not that branch), or your token may not see it; {when}"
        ) from error
    except errors.HfHubHTTPError as error:
        status, said = (
            error.response.status_code,
            " ".join((error.server_message or type(error).__name__).split()),
        )
        if status in (401, 403):
            raise PermissionError(
                f"your token may not write to {repo_id!r} ({said}): use one that may"
            ) from error
        raise OSError(f"the Hub answered {status} for {repo_id!r} ({said}) {when}") from error
    except _broken() as error:
        if isinstance(error, ConnectionError) and "the source" in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"the connection to the Hub broke ({reason}) {when}") from error
