"""How an error names what was meant."""

import difflib
from collections.abc import Iterable

SHOWN = 30


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, and all that there are.

    Example:
        >>> did_you_mean("tresh", ["top_k", "threshold"])
        "did you mean 'threshold'? (there are: threshold, top_k)"
        >>> did_you_mean("xyz", ["top_k", "threshold"])
        'there are: threshold, top_k'
    """
    options = sorted(known)
    more = f" and {len(options) - SHOWN:,} more" if len(options) > SHOWN else ""
    there = f"there are: {', '.join(options[:SHOWN]) or 'none'}{more}"
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean {by_lower[near[0]]!r}? ({there})" if near else there
