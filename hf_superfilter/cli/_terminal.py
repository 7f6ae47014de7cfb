"""Write text to the terminal, with control characters of foreign data shown and not sent."""

import logging
import re
import shlex
import sys
from typing import Any

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


def show_end(made: object, where: object, *following: object, is_data: bool = False) -> None:
    """End a command in three lines: what was made, where, and the command to go on with.

    Args:
        made, where: as they are shown.
        following: the arguments of the next hf-superfilter, to be pasted into a shell.
        is_data: whether programs read the output, which then ends with `where`; the rest goes to
            stderr.
    """
    print(escape(str(made)), file=sys.stderr if is_data else sys.stdout, flush=True)
    show(where)
    show_next(*following, is_data=is_data)


def show_next(*following: object, is_data: bool = True) -> None:
    """Show the command to go on with, on stderr where programs read the output."""
    words = shlex.join(["hf-superfilter", *map(str, following)])
    print(escape(f"next: {words}"), file=sys.stderr if is_data else sys.stdout, flush=True)


class TerminalHandler(logging.StreamHandler[Any]):
    """Write log records above a progress bar, where one is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the bars, write a record, and draw them again."""
        bars: Any = sys.modules.get("tqdm")
        if bars is None:
            super().emit(record)
            return
        with bars.tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class EscapingFormatter(logging.Formatter):
    """Format log records as `show` prints."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, escaped."""
        return escape(super().format(record))
