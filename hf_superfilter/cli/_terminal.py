"""Write text to the terminal, with control characters of foreign data shown and not sent."""

import logging
import re

# Controls but tab and newline, and the marks that reorder or break what is shown.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    r"""Replace control characters by their escapes.

    Example:
        >>> print(escape("\x1b[2Jgone\tok"))
        \x1b[2Jgone	ok
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def show(text: object) -> None:
    """Print text for a reader."""
    print(escape(str(text)), flush=True)


class EscapingFormatter(logging.Formatter):
    """Format log records as `show` prints."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, escaped."""
        return escape(super().format(record))
