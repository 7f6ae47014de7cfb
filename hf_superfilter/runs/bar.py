"""Show one bar for all processes that score, which moves within a chunk too."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Any

import numpy as np

from .chunks import Chunks
from .distributed import Process
from .work import heard_by

REFRESH = 1.0  # seconds between signs of life
LEAST_SECONDS = 3.0  # of scoring, before what is left is estimated
MAX_LISTED = 4  # processes that the bar lists one by one
FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"


class Bar:
    """Draw how far a scorer is, and say what is waited for.

    Args:
        chunks: of the scorer.
        sizes: (chunks,) the cost of each, by which the time left is estimated.
        drawing: a bar of tqdm.
    """

    def __init__(self, chunks: Chunks, sizes: np.ndarray, drawing: Any) -> None:
        self._chunks, self._sizes, self._drawing = chunks, sizes, drawing
        self._lock = Lock()
        self._share = 0.0
        self._postfix: list[str] = []
        self._begun: tuple[float, float] | None = None  # time and cost when scoring began
        self.begin(None)
        self.say("loading the model")

    @property
    def is_shown(self) -> bool:
        """Whether it is drawn at all: in the main process, on a terminal."""
        return not self._drawing.disable

    def say(self, what: str) -> None:
        """Say what is waited for."""
        self._what, self._since = what, time.perf_counter()

    def begin(self, number: int | None) -> None:
        """Go on to a chunk; None where this process holds none."""
        with self._lock:
            self._current, self._share = number, 0.0
            self._expected = self._computed = 0

    def expect(self, tokens: int) -> None:
        """Hear of tokens that follow; a part of what was announced adds nothing."""
        self._expected = max(self._expected, self._computed + tokens)

    def advance(self, tokens: int) -> None:
        """Hear of tokens that are computed, and draw them."""
        self._computed += tokens
        if self._current is not None and self._expected:
            self._share = max(self._share, min(1.0, self._computed / self._expected))
            self._start_clock()
            self.say("")
            self.draw()

    def _start_clock(self) -> None:
        """Estimate what is left by what follows the first batch, which waited for the model."""
        if self._begun is None:
            self._begun = time.perf_counter(), self._cost_done()

    def finish_chunk(self) -> None:
        """Count what all processes have finished, and forget the chunk at hand."""
        if not self.is_shown:
            return
        pending = set(self._chunks.pending())
        self.begin(None)
        self._start_clock()
        self._postfix = _describe_processes(self._chunks, pending)
        self.say("this chunk")
        self.draw()

    def draw(self) -> None:
        """Draw rows done, the time left, and what is waited for."""
        if not self.is_shown:
            return
        with self._lock:
            rows = self._chunks.rows_done()
            if self._current is not None:
                rows += int(self._share * len(self._chunks.span(self._current)))
            drawing = self._drawing
            drawing.n = min(max(drawing.n, rows), self._chunks.rows)
            parts = [*self._time_left(), *self._postfix]
            seconds = time.perf_counter() - self._since
            if self._what and seconds >= REFRESH:
                parts.append(f"{self._what}: {seconds:.0f} s")
            drawing.set_postfix_str(", ".join(parts))

    def _cost_done(self) -> float:
        done = sum(float(self._sizes[number]) for number in list(self._chunks.facts()))
        if self._current is not None:
            done += self._share * float(self._sizes[self._current])
        return done

    def _time_left(self) -> list[str]:
        """Say how long the rest takes, by the cost done since scoring began."""
        if self._begun is None:
            return []
        since, cost_before = self._begun
        seconds, cost = time.perf_counter() - since, self._cost_done()
        if seconds < LEAST_SECONDS or cost <= cost_before:
            return []
        left = (float(self._sizes.sum()) - cost) * seconds / (cost - cost_before)
        return [f"about {in_words(left)} left"]


@contextmanager
def open_bar(chunks: Chunks, sizes: np.ndarray, process: Process) -> Iterator[Bar]:
    """Open a bar, drawn in the main process on a terminal where chunks are missing."""
    from datasets.utils import tqdm

    options: dict[str, Any] = {"unit": chunks.unit, "desc": f"{chunks.verb} {chunks.name}"}
    options["disable"] = None if process.is_main else True  # None: where stderr is no terminal
    if process.is_main and not chunks.pending():
        options["disable"] = True
    options["bar_format"] = FORMAT
    with tqdm(total=chunks.rows, initial=chunks.rows_done(), **options) as drawing:
        bar = Bar(chunks, sizes, drawing)
        with heard_by(bar), _heartbeat(bar):
            yield bar


@contextmanager
def _heartbeat(bar: Bar) -> Iterator[None]:
    """Draw the bar every second, whatever the main thread waits for."""
    if not bar.is_shown:
        yield
        return
    ended = Event()

    def refresh() -> None:
        while not ended.wait(REFRESH):
            bar.draw()

    thread = Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def in_words(seconds: float) -> str:
    """Write a length of time for people.

    Example:
        >>> [in_words(seconds) for seconds in (0.4, 34, 200, 4_000, 90_000)]
        ['1 s', '34 s', '3 min', '1.1 h', '25 h']
    """
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3_600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


def _describe_processes(chunks: Chunks, pending: set[int]) -> list[str]:
    """Say how many processes hold a chunk now, and of a few how many each has done."""
    parts = []
    if chunks.store.exclusive:
        stems = [name.split(".")[0] for name in chunks.store.names(chunks.name) if ".lease" in name]
        busy = {int(stem) for stem in stems if stem.isdigit()} & pending
        if len(busy) > 1:
            parts.append(f"{len(busy)} at work")
    counts = Counter(facts["process"] for facts in chunks.facts().values())
    if 1 < len(counts) <= MAX_LISTED:
        per_process = " ".join(f"{name}={count}" for name, count in sorted(counts.items()))
        parts.append(f"chunks {per_process}")
    return parts
