"""Who does which chunk: the largest that nobody has, until none is left. Nobody waits for others to score."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np

from .chunks import Chunks
from .distributed import Process
from .locks import EXPIRY, Leases

LOG = "run.log.jsonl"
POLL = 0.25  # seconds between looks at what others have finished
HANGS = 10.0  # a chunk that takes so many times as long as the slowest so far is taken over
SHOWN = 4  # processes that the bar names one by one
FIRST = 360.0  # seconds that stand for the slowest while none is done


def work(
    chunks: Chunks,
    sizes: np.ndarray,
    do: Callable[[int], dict[str, Any]],
    process: Process,
    *,
    leaves: bool,
) -> None:
    """Do chunks until all are done, by this process or by others.

    Args:
        chunks: the ledger.
        sizes: (chunks,) what each costs; the largest go first, so that no process ends with a long one.
        do: scores one chunk, puts its file, and answers with facts about it.
        process: this one; on a store without exclusive creation its number decides its share.
        leaves: whether it may leave when nothing is left to take, though others are still at work.
    """
    order, local = np.argsort(-sizes, kind="stable").tolist(), chunks.store.exclusive
    turns = _leased(chunks, order, leaves) if local else _shared(chunks, order, process, leaves)
    with closing(turns):  # an error gives the lease back at once
        if not (first := list(islice(turns, 1))):
            return
        with _progress(chunks, process) as report:
            for number in chain(first, turns):
                if number is not None:
                    facts = do(number)
                    if local:
                        chunks.store.append(LOG, _line(chunks, number, facts))
                report()
    if not local and process.is_main:
        _write_log(chunks)


def _leased(chunks: Chunks, order: list[int], leaves: bool) -> Generator[int | None]:
    """The chunks that this process gets leases of; None where it only looked."""
    with Leases(chunks.store, chunks.name) as leases:
        while pending := set(chunks.pending()):
            slowest = max((facts["seconds"] for facts in chunks.facts().values()), default=FIRST)
            leases.patience = max(EXPIRY, HANGS * slowest)
            taken = next(
                (number for number in order if number in pending and leases.take(f"{number:06d}")),
                None,
            )
            if taken is None:
                if leaves:
                    return
                time.sleep(POLL)
                yield None
                continue
            try:
                if not chunks.is_done(taken):  # finished between the look and the lease
                    yield taken
            finally:
                leases.give_back(f"{taken:06d}")


def _shared(chunks: Chunks, order: list[int], process: Process, leaves: bool) -> Generator[int]:
    """This process's share of the chunks; then, from the other end than their owners work, whatever is missing."""
    if process.count == 1:
        random.Random().shuffle(order)  # several started by hand then rarely meet
    shares = [
        order[(process.number + i) % process.count :: process.count] for i in range(process.count)
    ]
    for share in shares[:1] if leaves else [shares[0], *(share[::-1] for share in shares[1:])]:
        for number in share:
            if not chunks.is_done(number):
                yield number


def _line(chunks: Chunks, number: int, facts: dict[str, Any]) -> str:
    return json.dumps(
        {"scorer": chunks.name, "chunk": number, "rows": len(chunks.span(number)), **facts}
    )


def _write_log(chunks: Chunks) -> None:
    """The log of a store where nothing can be added to an object: written once a scorer is finished."""
    chunks.pending()
    lines = [_line(chunks, number, facts) for number, facts in chunks.facts().items()]
    if chunks.store.has(LOG):
        known = chunks.store.read(LOG).decode().splitlines()
        lines = [line for line in known if json.loads(line)["scorer"] != chunks.name] + lines
    chunks.store.write(LOG, "".join(f"{line}\n" for line in lines).encode())


@contextmanager
def _progress(chunks: Chunks, process: Process) -> Iterator[Callable[[], None]]:
    """One bar for all processes, shown by the main one where there is a terminal."""
    from datasets.utils import tqdm

    began, before = time.perf_counter(), _tokens(chunks)
    shown: Any = {"unit": "rows", "desc": f"Scoring {chunks.name}"}
    shown["disable"] = None if process.is_main else True  # None: where stderr is no terminal
    with tqdm(total=chunks.rows, initial=chunks.done(), **shown) as bar:

        def report() -> None:
            if bar.disable:
                return
            pending = set(chunks.pending())
            bar.update(chunks.done() - bar.n)
            speed = (_tokens(chunks) - before) / (time.perf_counter() - began)
            bar.set_postfix_str(
                ", ".join([*[f"{speed:,.0f} tokens/s"] * (speed > 0), *_at_work(chunks, pending)])
            )

        yield report


def _at_work(chunks: Chunks, pending: set[int]) -> list[str]:
    """What to say of the processes: how many hold a chunk now, and of a few what each has done."""
    leases = [name for name in chunks.store.names(chunks.name) if name.endswith(".lease")]
    said = (
        [f"{sum(int(name.split('.')[0]) in pending for name in leases)} at work"]
        if chunks.store.exclusive
        else []
    )
    done = Counter(facts["process"] for facts in chunks.facts().values())
    if 1 < len(done) <= SHOWN:
        said.append("chunks " + " ".join(f"{name}={count}" for name, count in sorted(done.items())))
    return said


def _tokens(chunks: Chunks) -> float:
    return sum(facts["tokens"] for facts in chunks.facts().values())
