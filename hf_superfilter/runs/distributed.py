"""Tell which process of a launch this is. The only file that knows accelerate.

this_process     number, count and local number, as torchrun or accelerate launch started it
broadcast        the main process's value, on all processes
device_number    the number that picks a scorer's device
rendezvous_name  a rendezvous that survives torchrun restarts
"""

import atexit
import json
import os
import time
import uuid
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from ..errors import SuperfilterError, UnreachableError

START_TIMEOUT = timedelta(minutes=30)  # for all processes to start; later nothing waits for others
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # beside WORLD_SIZE
POLL = 0.05  # seconds between looks at what the first process announced


@dataclass(frozen=True)
class Process:
    """Describe a process of a launch.

    Attributes:
        number: its rank among all `count` processes.
        count: the number of processes.
        local: its rank on its own machine, None without a launcher.
    """

    number: int = 0
    count: int = 1
    local: int | None = None

    @property
    def is_main(self) -> bool:
        """Return whether it builds the table; without a launcher every process does."""
        return self.number == 0


def this_process(expected: int | None = None) -> Process:
    """Describe this process, as torchrun or `accelerate launch` started it.

    Args:
        expected: refuse another number of processes.

    Raises:
        SuperfilterError: another number of processes than expected, or than accelerate sees.
        UnreachableError: the other processes did not start.
    """
    process = _join_launch() if _world_size() > 1 else Process()
    if expected is not None and process.count != expected:
        raise SuperfilterError(
            f"{expected} processes were expected, and {process.count} started. On CPUs "
            f"'accelerate launch --cpu --num_processes {expected}' starts one: use "
            f"'torchrun --nproc-per-node {expected}'"
        )
    return process


def broadcast(value: Any) -> Any:
    """Return the main process's value on every process; each has to call it."""
    if _world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def device_number(rank: int | None) -> int | None:
    """Return the number that picks a scorer's device.

    `score` gives its scorers a rank. Without one a scorer runs in a plain `.map(scorer)`: inside a
    launch it takes the local rank, and warns once that every process scores all rows.
    """
    if rank is None and _world_size() > 1 and os.environ.get("LOCAL_RANK", "").isdigit():
        _warn_that_all_score_all()
        return int(os.environ["LOCAL_RANK"])
    return rank


@lru_cache(maxsize=1)
def _join_launch() -> Process:
    """Join the other processes of a launch."""
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    world, advice = _world_size(), "start with torchrun or accelerate launch, or unset WORLD_SIZE"
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if missing:
        raise SuperfilterError(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} are not set: no launcher started "
            f"this process; {advice}"
        )
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=START_TIMEOUT))  # type: ignore[attr-defined]
        name = rendezvous_name(store, number, count, START_TIMEOUT)
        state = PartialState(
            cpu=not torch.cuda.is_available(),
            timeout=START_TIMEOUT,
            store=dist.PrefixStore(name, store),  # type: ignore[attr-defined]
            rank=number,
            world_size=count,
        )
    # A rendezvous that failed, or more processes than devices.
    except (RuntimeError, TimeoutError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreachableError(
            f"the {world} processes of WORLD_SIZE could not be joined ({reason}): {advice}"
        ) from error
    if state.num_processes != world:
        raise SuperfilterError(
            f"WORLD_SIZE is {world}, but accelerate sees {state.num_processes} process(es): every "
            f"one would score all rows; {advice}"
        )
    atexit.register(state.destroy_process_group)
    return Process(state.process_index, state.num_processes, state.local_process_index)


@lru_cache(maxsize=1)
def _warn_that_all_score_all() -> None:
    warnings.warn(
        f"each of the {_world_size()} launched processes scores every row: "
        "hf_superfilter.score(rows, scorers, folder) shares the rows among them",
        stacklevel=4,
    )


def _world_size() -> int:
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


def rendezvous_name(store: Any, number: int, count: int, timeout: timedelta) -> str:
    """Agree on a new name, so that a restarted launch meets no remains of the last one.

    The first process announces a new name, each other one answers under it with a token of its
    own, and the first confirms all tokens. A process may answer the name of a dead launch, but
    that one's confirmation lacks its token, so it looks on.

    Args:
        store: the key-value store of the launch, which survives torchrun restarts.
        number: this process, of `count`.
        timeout: how long to wait for the others.

    Raises:
        TimeoutError: not all processes came.
    """
    if number == 0:
        return _announce(store, count, timeout)
    token, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    answered_name = None
    while time.monotonic() < deadline:
        if store.check(["call"]):
            name: str = store.get("call").decode()
            if name != answered_name:
                store.set(f"{name}/{number}", token)
                answered_name = name
            if store.check([f"{name}/all"]) and token in json.loads(store.get(f"{name}/all")):
                return name
        time.sleep(POLL)
    raise TimeoutError(f"the first process did not come within {timeout}")


def _announce(store: Any, count: int, timeout: timedelta) -> str:
    """Announce a name as the first process, and confirm who answered."""
    name = uuid.uuid4().hex
    store.set("call", name)
    keys = [f"{name}/{number}" for number in range(1, count)]
    try:
        store.wait(keys, timeout)
    except RuntimeError as error:
        missing = [key.split("/")[1] for key in keys if not store.check([key])]
        raise TimeoutError(
            f"process {', '.join(missing)} of {count} did not come within {timeout}"
        ) from error
    store.set(f"{name}/all", json.dumps([store.get(key).decode() for key in keys]))
    return name
