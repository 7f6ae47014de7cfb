"""Define the errors that a user can act on.

    ValueError
    └── SuperfilterError           a setting, a name, a row or a file that has to be changed
        ├── WrongTypeError         (TypeError) a value of another type than needed
        ├── NotFoundError          (FileNotFoundError) no such file, folder, recipe or short name
        ├── AccessError            (PermissionError) a key or right is missing
        ├── UnreachableError       (ConnectionError) a server or another process does not answer
        ├── UnreadableFileError    (OSError) a damaged file
        ├── NotEnoughMemoryError   (MemoryError) a single row does not fit
        └── HubError               (OSError) the Hub refused or failed
            ├── HubNotFoundError   also a NotFoundError: no such repository, revision or file
            ├── HubAccessError     also an AccessError: gated, or a token that lacks the right
            └── HubOfflineError    also an UnreachableError: offline, or the connection broke

Each class is also the built-in error in brackets, so `except FileNotFoundError` works as usual.
Any other exception that leaves this package is a defect of it.
"""

import difflib
from collections.abc import Iterable

MAX_LISTED = 30


class SuperfilterError(ValueError):
    """Report bad input in one sentence that says what to do."""


class WrongTypeError(SuperfilterError, TypeError):
    """Report a value of another type than needed."""


class NotFoundError(SuperfilterError, FileNotFoundError):
    """Report that a file, folder, recipe or short name does not exist."""


class AccessError(SuperfilterError, PermissionError):
    """Report a missing key or right."""


class UnreachableError(SuperfilterError, ConnectionError):
    """Report that a server or another process does not answer."""


class UnreadableFileError(SuperfilterError, OSError):
    """Report a damaged file."""


class NotEnoughMemoryError(SuperfilterError, MemoryError):
    """Report that a single row does not fit into memory."""


class HubError(SuperfilterError, OSError):
    """Report that the Hub refused or failed."""


class HubNotFoundError(HubError, NotFoundError):
    """Report a repository, revision or file that the Hub does not show."""


class HubAccessError(HubError, AccessError):
    """Report a gated repository, or a token that lacks the right."""


class HubOfflineError(HubError, UnreachableError):
    """Report that the Hub cannot be reached."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Suggest the nearest known name, and list all.

    Example:
        >>> did_you_mean("tresh", ["top_k", "threshold"])
        "did you mean 'threshold'? (there are: threshold, top_k)"
        >>> did_you_mean("xyz", ["top_k", "threshold"])
        'there are: threshold, top_k'
    """
    options = sorted(known)
    listed = f"there are: {', '.join(options[:MAX_LISTED]) or 'none'}"
    if len(options) > MAX_LISTED:
        listed += f" and {len(options) - MAX_LISTED:,} more"
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    if near:
        return f"did you mean {by_lower[near[0]]!r}? ({listed})"
    return listed
