"""The command line: which commands there are, and how errors are said. What they do stands in `commands/`."""

import logging
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

import typer

from . import consistency, hub, runs

app = typer.Typer(
    help="Pick the best part of a data set with a small model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: dict[str, Any] = {
    "demo": runs.demo,
    "run": runs.run,
    "recipes": runs.recipes,
    "score": runs.score,
    "select": runs.select,
    "report": runs.report,
    "inspect": runs.inspect,
    "publish": hub.publish,
    "list": hub.list_,
    "load": hub.load,
    "consistency": consistency.consistency,
    "publish-metric": hub.publish_metric,
}
for name, command in COMMANDS.items():
    app.command(name)(command)

# click's error for a wrong command line; typer brings click along or depends on it, by version
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command line: 0 when done, 1 with one sentence for bad input; a defect of ours shows its traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    logger, said = logging.getLogger("hf_superfilter"), logging.StreamHandler(sys.stderr)
    said.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(said)
    _quiet_where_nobody_looks(logger)
    try:
        sys.exit(app(prog_name="hf-superfilter", standalone_mode=False))
    except USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "hf-superfilter"
        _end(f"{error.format_message().rstrip('.')}; see {command} --help")
    except typer.Abort:  # Ctrl-C, as older versions of typer hand it on
        sys.exit(130)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        raised_by = traceback.extract_tb(error.__traceback__)[-1].line or ""
        if isinstance(error, TypeError) and not raised_by.startswith("raise "):
            raise  # Python's own complaint about our code; a cell of the wrong type is refused with raise
        _end(str(error) or type(error).__name__)
    finally:
        logger.removeHandler(said)


def _quiet_where_nobody_looks(logger: logging.Logger) -> None:
    """Progress bars of all libraries are for terminals; of several launched processes only the first one talks."""
    others = os.environ.get("RANK", "0") != "0"
    if others or not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if others:
        logger.setLevel(logging.WARNING)


def _end(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
