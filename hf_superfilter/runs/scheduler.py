"""Schedule chunks dynamically, largest first. No process waits for others to score."""

import json
import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from .bar import Bar
from .chunks import Chunks
from .distributed import Process
from .locks import LEASE, Leases
from .work import described_by

LOG = "run.log.jsonl"
POLL = 0.25  # seconds between looks at what others have finished
HANG_FACTOR = 10.0  # a chunk that takes so many times the slowest so far is taken over
FIRST_SECONDS = 360.0  # stands for the slowest chunk while none is done


def run_chunks(
    chunks: Chunks,
    sizes: np.ndarray,
    score_chunk: Callable[[int], dict[str, Any]],
    process: Process,
    bar: Bar,
    *,
    may_exit: bool,
) -> None:
    """Score chunks until all are done, by this process or by others.

    Args:
        chunks: the chunks of one scorer.
        sizes: (chunks,) the cost of each; the largest go first, so that no process ends with one.
        score_chunk: scores one chunk, writes its file, and returns facts about it.
        process: this one; on a store without leases its number decides its share.
        bar: where progress is shown.
        may_exit: whether to return when nothing is left to take, though others still score.

    Raises:
        OSError: chunks are missing, and the folder cannot be written.
        KeyboardInterrupt: with a sentence about how far it came.
    """
    order = np.argsort(-sizes, kind="stable").tolist()
    leased = chunks.store.exclusive
    _check_writable(chunks)
    if leased:
        numbers = _lease_chunks(chunks, order, may_exit)
    else:
        numbers = _share_chunks(chunks, order, process, may_exit)
    try:
        with described_by(partial(_describe_stop, chunks)):
            _score_each(chunks, numbers, score_chunk, bar)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_describe_stop(chunks)) from error
    if not leased and process.is_main:
        _write_log(chunks)


def _score_each(
    chunks: Chunks,
    numbers: Generator[int | None, None, None],
    score_chunk: Callable[[int], dict[str, Any]],
    bar: Bar,
) -> None:
    """Score the chunks that are handed out, and log each."""
    with closing(numbers):  # an error gives the lease back at once
        for number in numbers:
            if number is not None:
                bar.begin(number)
                facts = score_chunk(number)
                if chunks.store.exclusive:
                    chunks.store.append(LOG, _log_line(chunks, number, facts))
            bar.finish_chunk()


def _describe_stop(chunks: Chunks) -> str:
    done = f"{chunks.rows_done():,} of {chunks.rows:,} {chunks.unit}"
    return f"stopped at {done}; the same command goes on"


def _check_writable(chunks: Chunks) -> None:
    """Say at once that a read-only folder cannot take the chunks that are missing."""
    if not chunks.store.writable() and (pending := chunks.pending()):
        raise OSError(
            f"the run folder {chunks.store.folder!r} cannot be written, and {len(pending)} of the "
            f"{len(chunks)} chunks of {chunks.name!r} are missing: make it writable or use another"
        )


def _lease_chunks(
    chunks: Chunks, order: list[int], may_exit: bool
) -> Generator[int | None, None, None]:
    """Yield the chunks that this process gets leases of; None where it only looked."""
    with Leases(chunks.store, chunks.name) as leases:
        while pending := set(chunks.pending()):
            seconds = [facts["seconds"] for facts in chunks.facts().values()]
            leases.patience = max(LEASE, HANG_FACTOR * max(seconds, default=FIRST_SECONDS))
            number = _take_first(leases, [number for number in order if number in pending])
            if number is None:
                if may_exit:
                    return
                time.sleep(POLL)
                yield None
                continue
            try:
                if not chunks.is_done(number):  # finished between the look and the lease
                    yield number
            finally:
                leases.release(_lease_name(number))
        _remove_remains(leases, chunks)


def _take_first(leases: Leases, numbers: list[int]) -> int | None:
    """Take the lease of the first chunk that is free."""
    for number in numbers:
        if leases.take(_lease_name(number)):
            return number
    return None


def _remove_remains(leases: Leases, chunks: Chunks) -> None:
    """Remove the leases of processes that died between writing a chunk and releasing it."""
    if not chunks.store.writable():
        return
    for name in chunks.store.names(chunks.name):
        stem = name.removesuffix(".lease")
        if stem != name and leases.take(stem):
            leases.release(stem)


def _lease_name(number: int) -> str:
    return f"{number:06d}"


def _share_chunks(
    chunks: Chunks, order: list[int], process: Process, may_exit: bool
) -> Generator[int | None, None, None]:
    """Yield a fixed share of the chunks, and then whatever is missing.

    The shares of others are taken from the other end than their owners work.
    """
    if process.count == 1:
        random.Random().shuffle(order)  # several started by hand then rarely meet
    starts = [(process.number + shift) % process.count for shift in range(process.count)]
    own, *others = [order[start :: process.count] for start in starts]
    shares = [own] if may_exit else [own, *(share[::-1] for share in others)]
    for number in chain.from_iterable(shares):
        if not chunks.is_done(number):
            yield number


def _log_line(chunks: Chunks, number: int, facts: dict[str, Any]) -> str:
    place = {"scorer": chunks.name, "chunk": number, "rows": len(chunks.span(number))}
    return json.dumps({**place, **facts})


def _write_log(chunks: Chunks) -> None:
    """Write the log of a finished scorer at once, where objects cannot grow."""
    chunks.pending()
    lines = [_log_line(chunks, number, facts) for number, facts in chunks.facts().items()]
    if chunks.store.has(LOG):
        older = chunks.store.read(LOG).decode().splitlines()
        lines = [line for line in older if json.loads(line)["scorer"] != chunks.name] + lines
    chunks.store.write(LOG, "".join(f"{line}\n" for line in lines).encode())
