"""Stop on Ctrl-C within a second, also while a kernel holds the main thread.

Python raises KeyboardInterrupt between two bytecodes of the main thread, which a matrix product may
hold for seconds. The signal also wakes a thread here, which says at once how far the work is and
ends the process where the main thread does not. Run folders bear that: what is written is whole.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread, current_thread, main_thread

from ..runs.work import describe_work

EXIT_CODE = 130
GRACE = 0.6  # seconds that the main thread has to end by itself


class Stop:
    """Say once why a command stops, whoever notices first.

    Attributes:
        remedy: what the sentence ends with, as `; the same command goes on`.
        is_signalled: whether the process was sent Ctrl-C, and so may be ended.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.renew()

    def renew(self) -> None:
        """Forget an earlier command of this process."""
        self.remedy, self.is_signalled, self._is_said = "", False, False

    def say(self, sentence: str | None = None) -> None:
        """Say the sentence, or how far the work at hand is, unless something was said."""
        with self._lock:  # whoever comes second waits until it is said, and may end the process
            if self._is_said:
                return
            self._is_said = True
            if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
                text = sentence or describe_work() or f"stopped{self.remedy}"
                print(f"\n{text}", file=sys.stderr, flush=True)


@contextmanager
def watch(stop: Stop) -> Iterator[None]:
    """Answer Ctrl-C from a thread of its own while the block runs."""
    if current_thread() is not main_thread():
        yield  # only the main thread may ask for signals
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    Thread(target=_answer, args=(stop, reading), daemon=True).start()
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        if stop.is_signalled:
            exit_now()
        writing.close()  # ends the thread


def _answer(stop: Stop, reading: socket.socket) -> None:
    """Wait for Ctrl-C, say how far the work is, and end the process when its time is over."""
    with reading:
        if not _next_signal(reading):
            return
        stop.is_signalled = True
        stop.say()
        reading.settimeout(GRACE)
        with suppress(TimeoutError):
            _next_signal(reading)  # a second one ends at once
        exit_now()


def _next_signal(reading: socket.socket) -> bool:
    """Wait for a Ctrl-C; False where the other end was closed."""
    while True:
        numbers = reading.recv(1)
        if not numbers:
            return False
        if numbers[0] == signal.SIGINT:
            return True


def exit_now() -> None:
    """End the process without waiting for threads, children or the collection of garbage."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_CODE)


def _forget_signals() -> None:
    """Let a child of the process not wake its parent's thread."""
    if current_thread() is main_thread():
        signal.set_wakeup_fd(-1)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_signals)
