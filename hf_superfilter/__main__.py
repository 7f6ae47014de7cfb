"""`python -m hf_superfilter` is the command `hf-superfilter`."""

import atexit
import os
import sys

_codes: list[object] = []  # the exit code, once the command has ended


def run() -> None:
    """Run the command line, then end the process at once.

    At its end Python takes torch and transformers apart object by object, 1.3 s of CPU. So the
    handler that is registered first, and runs after all others, leaves before that.
    """
    atexit.register(_leave)
    from .cli.app import main

    try:
        main()
    except SystemExit as end:
        _codes.append(end.code)
        raise


def _leave() -> None:
    if not _codes:
        return  # a traceback or a signal, whose exit code is Python's to choose
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # a closed pipe, which Python reports
    code = _codes[0]
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    run()
