"""How an error names what was meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them.

    Example:
        >>> did_you_mean("tresh", ["top_k", "threshold"])
        "did you mean 'threshold'?"
        >>> did_you_mean("xyz", ["top_k", "threshold"])
        'there are: threshold, top_k'
    """
    options = sorted(known)
    near = difflib.get_close_matches(name.lower(), [option.lower() for option in options], n=1, cutoff=0.5)
    for option in options:
        if near and option.lower() == near[0]:
            return f"did you mean {option!r}?"
    return f"there are: {', '.join(options) or 'none'}"
