"""Tell how far the work at hand is: to Ctrl-C from any thread, to a bar within a chunk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_descriptions: list[Callable[[], str]] = []
_listeners: list["Listener"] = []


class Listener(Protocol):
    """Hear how many tokens are to be computed, and how many are."""

    def expect(self, tokens: int) -> None:
        """Hear of tokens that follow."""
        ...

    def advance(self, tokens: int) -> None:
        """Hear of tokens that are computed."""
        ...


@contextmanager
def described_by(describe: Callable[[], str]) -> Iterator[None]:
    """Let a function say how far the work is while the block runs.

    Args:
        describe: returns a sentence at once, from what is in memory; any thread may call it.
    """
    _descriptions.append(describe)
    try:
        yield
    finally:
        _descriptions.remove(describe)


def describe_work() -> str | None:
    """Say how far the innermost work is; None where none is described.

    Example:
        >>> with described_by(lambda: "half way"):
        ...     describe_work()
        'half way'
    """
    innermost = _descriptions[-1:]
    return innermost[0]() if innermost else None


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let a listener hear of tokens while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def expect(tokens: int) -> None:
    """Announce tokens that a model is about to compute; what was announced already counts once."""
    for listener in _listeners[-1:]:
        listener.expect(tokens)


def advance(tokens: int) -> None:
    """Report tokens that a model has computed, after each batch."""
    for listener in _listeners[-1:]:
        listener.advance(tokens)
