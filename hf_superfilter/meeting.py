"""A name that the living processes of a launch agree on, in a store that may still hold what dead ones wrote.

torchrun gives processes that it starts again (`--max-restarts`) the store of those that died (seen with torch
2.13: `dynamic_rendezvous.py` keeps one bootstrap store for all rounds), and both would write under the same
keys: a process that reads the address of a dead one is refused, or waits for it until the meeting times out.
"""

import json
import time
import uuid
from datetime import timedelta
from typing import Any

LOOK = 0.05  # seconds between looks at what the first process calls for


def agree_on_name(store: Any, number: int, count: int, timeout: timedelta) -> str:
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
        raise TimeoutError(f"process {', '.join(missing)} of {count} did not come within {timeout}") from error
    store.set(f"{name}/all", json.dumps([store.get(answer).decode() for answer in answers]))
    return name
