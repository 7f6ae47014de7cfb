"""Which process this is among those that a launcher started. The only file that knows accelerate."""

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

MEETING = timedelta(
    minutes=30
)  # for all processes to have started; nothing waits for others after that
LAUNCHED = (
    "RANK",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # what a launcher sets beside WORLD_SIZE
LOOK = 0.05  # seconds between looks at what the first process calls for


@dataclass(frozen=True)
class Process:
    """This process: its number among `count`, and its number on its own machine, None without a launcher."""

    number: int = 0
    count: int = 1
    local: int | None = None

    @property
    def is_main(self) -> bool:
        """Whether it is the one that puts the table together; without a launcher every process is."""
        return self.number == 0


def this_process(expected: int | None = None) -> Process:
    """This process, as torchrun or `accelerate launch` started it; without a launcher the only one.

    Raises:
        ValueError: another number of processes than expected, or than accelerate sees.
        ConnectionError: the others did not start.
    """
    process = _launched() if _world() > 1 else Process()
    if expected is not None and process.count != expected:
        raise ValueError(
            f"{expected} processes were expected, and {process.count} started. On CPUs 'accelerate launch --cpu "
            f"--num_processes {expected}' starts one: use 'torchrun --nproc-per-node {expected}'"
        )
    return process


def broadcast(value: Any) -> Any:
    """The main process's value on all processes of a launch, each of which has to call it; without one the value."""
    if _world() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def device_number(rank: int | None) -> int | None:
    """The number that picks the device of a scorer: the `rank` it was given, else that of a launched process.

    `score` gives its scorers a rank. One without stands in a plain `.map(scorer)`: inside a launch that is
    worth a warning, once.
    """
    if rank is None and _world() > 1 and os.environ.get("LOCAL_RANK", "").isdigit():
        _warn_that_all_score_all()
        return int(os.environ["LOCAL_RANK"])
    return rank


@lru_cache(maxsize=1)
def _launched() -> Process:
    import torch
    from accelerate import PartialState

    world, how = _world(), "start with torchrun or accelerate launch, or unset WORLD_SIZE"
    if missing := [name for name in LAUNCHED if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} are not set: no launcher started this process; {how}"
        )
    try:
        store, number, count = next(torch.distributed.rendezvous("env://", timeout=MEETING))
        store = torch.distributed.PrefixStore(rendezvous_name(store, number, count, MEETING), store)
        state = PartialState(
            cpu=not torch.cuda.is_available(),
            timeout=MEETING,
            store=store,
            rank=number,
            world_size=count,
        )
    except (
        RuntimeError,
        TimeoutError,
    ) as error:  # a meeting that failed, and more processes than devices
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"the {world} processes of WORLD_SIZE could not be joined ({reason}): {how}"
        ) from error
    if state.num_processes != world:
        raise ValueError(
            f"WORLD_SIZE is {world}, but accelerate sees {state.num_processes} process(es): every one would score all "
            f"rows; {how}"
        )
    atexit.register(state.destroy_process_group)
    return Process(state.process_index, state.num_processes, state.local_process_index)


@lru_cache(maxsize=1)
def _warn_that_all_score_all() -> None:
    warnings.warn(
        f"each of the {_world()} launched processes scores every row: hf_superfilter.score(rows, scorers, folder) "
        "shares the rows among them",
        stacklevel=4,
    )


def _world() -> int:
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


def rendezvous_name(store: Any, number: int, count: int, timeout: timedelta) -> str:
    """A new name, the same on all `count` processes, of which `number` is this one.

    The first process calls under a new name, each other one answers it with a token of its own, and the first
    confirms all tokens. An old call may be answered, but its confirmation lacks the token: the answerer looks on.

    Raises:
        TimeoutError: not all processes came.
    """
    if number == 0:
        return _call(store, count, timeout)
    token, deadline, answered = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds(), None
    while time.monotonic() < deadline:
        if store.check(["call"]):
            name = store.get("call").decode()
            if name != answered:
                store.set(f"{name}/{number}", token)
                answered = name
            if store.check([f"{name}/all"]) and token in json.loads(store.get(f"{name}/all")):
                return name
        time.sleep(LOOK)
    raise TimeoutError(f"the first process did not come within {timeout}")


def _call(store: Any, count: int, timeout: timedelta) -> str:
    name = uuid.uuid4().hex
    store.set("call", name)
    answers = [f"{name}/{number}" for number in range(1, count)]
    try:
        store.wait(answers, timeout)
    except RuntimeError as error:
        missing = [answer.split("/")[1] for answer in answers if not store.check([answer])]
        raise TimeoutError(
            f"process {', '.join(missing)} of {count} did not come within {timeout}"
        ) from error
    store.set(f"{name}/all", json.dumps([store.get(answer).decode() for answer in answers]))
    return name
