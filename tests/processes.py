"""Processes that are forked from the one of the tests, and launches of several.

A new interpreter imports torch, transformers and datasets for six seconds; a forked one has them.
Interpreters of their own stay where it is them that is tested: torchrun as a user calls it, what an
import brings in, what another hash seed changes, how a process ends.
"""

import logging
import multiprocessing
import os
import runpy
import signal
import sys
import uuid
import warnings
from pathlib import Path

import datasets  # noqa: F401 - the children shall have these three
import torch  # noqa: F401
import transformers.modeling_utils  # noqa: F401

# Windows has new interpreters only.
METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


class Forked:
    """Run a program in a forked process, with the methods that tests call on a Popen.

    Args:
        command: the file of the program, and what it reads as sys.argv[1:].
        folder: its working directory, which gets a file of its output and one of its errors.
        processes: start so many of it as torchrun does; None runs the program alone.
        launcher: other settings of torch's LaunchConfig.
        environment: variables to set.
    """

    def __init__(self, command, folder, *, processes=None, launcher=None, environment=None):
        number = len(list(Path(folder).glob("errors-*.txt")))
        self.output = Path(folder) / f"output-{number}.txt"
        self.errors = Path(folder) / f"errors-{number}.txt"
        self.errors.touch()
        command = [str(part) for part in command]
        target, arguments = _run, (command,)
        if processes is not None:
            target, arguments = _launch, (command, processes, launcher or {})
        files = self.output, self.errors
        self._process = multiprocessing.get_context(METHOD).Process(
            target=_begin, args=(files, folder, environment or {}, target, arguments)
        )
        with warnings.catch_warnings():  # Python 3.12 warns of threads, which no child here needs
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout=None):
        """Wait for its end, and return the exit code."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, self.errors.read_text()[-3000:]
        return self._process.exitcode

    def send_signal(self, number):
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it at once, whether it runs or is frozen."""
        self.send_signal(signal.SIGKILL)


def _begin(files, folder, environment, target, arguments):
    for descriptor, path in zip((1, 2), files, strict=True):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    # What pytest would keep for itself is written, as an interpreter of its own does.
    logging.root.handlers.clear()
    warnings.simplefilter("default")
    warnings.showwarning = _show_warning
    os.environ.update(environment)
    os.chdir(folder)
    target(*arguments)


def _show_warning(message, category, filename, lineno, file=None, line=None):
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _run(command):
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _launch(command, processes, launcher):
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = {
        "min_nodes": 1, "max_nodes": 1, "run_id": uuid.uuid4().hex, "max_restarts": 0,
        "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "monitor_interval": 0.1,
    }  # fmt: skip
    settings |= {"nproc_per_node": processes, "start_method": METHOD} | launcher
    elastic_launch(LaunchConfig(**settings), _join)(command)


def _join(command):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process of the tests
    try:
        _run(command)
    except SystemExit as end:  # a launcher waits for a function to return
        if end.code:
            raise
