"""Define the command line: its commands, its exit codes, and how errors are shown."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer

from ..errors import SuperfilterError
from . import consistency, demo, explore, hub, recipes, runs, validation
from ._stopping import EXIT_CODE, Stop, watch
from ._terminal import EscapingFormatter, TerminalHandler, escape, show

app = typer.Typer(
    help="Pick the best part of a data set with a small model.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: dict[str, Any] = {
    "demo": demo.demo,
    "run": runs.run,
    "recipes": recipes.recipes,
    "score": runs.score,
    "select": runs.select,
    "report": runs.report,
    "inspect": runs.inspect,
    "explore": explore.explore,
    "publish": hub.publish,
    "list": hub.list_,
    "load": hub.load,
    "consistency": consistency.consistency,
    "validate": validation.validate,
    "compare": validation.compare,
    "publish-metric": hub.publish_metric,
}
RESUMABLE = ("demo", "run", "score", "publish", "validate", "compare", "consistency")


stop = Stop()


def describe_stop(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say on Ctrl-C how far it came."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        stop.remedy = "; the same command goes on" if name in RESUMABLE else ""
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt as error:
            stop.say(str(error))
            raise

    return run


for name, command in COMMANDS.items():
    app.command(name)(describe_stop(name, command))

# click's error for a wrong command line; typer brings click along or depends on it, by version
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
# What a user can act on: bad input, files and networks, too little memory. The rest is our defect.
USER_ERRORS = (SuperfilterError, OSError, MemoryError)


@app.callback(invoke_without_command=True)
def show_help_or_version(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.")
    ] = False,
) -> None:
    """Pick the best part of a data set with a small model."""
    if show_version:
        show(f"hf-superfilter {version('hf-superfilter')}")
    elif context.invoked_subcommand is None:
        show(context.get_help())


def main() -> None:
    """Run the command line.

    Exits with 0 when done, with 1 and one sentence for bad input, with 130 after Ctrl-C. A defect
    of ours shows its traceback.
    """
    warnings.formatwarning = lambda message, *_: escape(f"warning: {message}") + "\n"
    logger, handler = logging.getLogger("hf_superfilter"), TerminalHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    _hide_progress_without_terminal(logger)
    stop.renew()
    try:
        with watch(stop):
            sys.exit(app(prog_name="hf-superfilter", standalone_mode=False))
    except USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "hf-superfilter"
        _exit_with(f"{error.format_message().rstrip('.')}; see {command} --help")
    except typer.Abort:  # Ctrl-C, as older versions of typer hand it on
        sys.exit(EXIT_CODE)
    except USER_ERRORS as error:
        _exit_with(str(error) or type(error).__name__)
    finally:
        logger.removeHandler(handler)


def _hide_progress_without_terminal(logger: logging.Logger) -> None:
    """Show progress bars on terminals only, and messages of one of several processes only."""
    is_other_process = os.environ.get("RANK", "0") != "0"
    if is_other_process or not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if is_other_process:
        logger.setLevel(logging.WARNING)


def _exit_with(message: str) -> NoReturn:
    print(f"error: {escape(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(1)
