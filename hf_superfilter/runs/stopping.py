"""Tell from any thread how far the work at hand is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_descriptions: list[Callable[[], str]] = []


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
