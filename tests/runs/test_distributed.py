"""Processes that are started again must meet each other, not what the dead left in the store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch

from hf_superfilter.runs.distributed import rendezvous_name

SOON = timedelta(seconds=20)


def meet(store, numbers, count, timeout=SOON):
    with ThreadPoolExecutor(count) as threads:
        return list(
            threads.map(lambda number: rendezvous_name(store, number, count, timeout), numbers)
        )


def test_all_agree_on_a_name_that_is_new_each_time_in_one_and_the_same_store():
    store = torch.distributed.HashStore()
    names = []
    for numbers in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = meet(store, numbers, 3)
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_a_call_that_a_dead_first_process_left_unconfirmed_is_passed_over():
    store = torch.distributed.HashStore()
    store.set("call", "of the dead")
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(rendezvous_name, store, 1, 2, SOON)
        store.wait(["of the dead/1"], SOON)  # it answers the old call first
        first = threads.submit(rendezvous_name, store, 0, 2, SOON)
        assert first.result() == other.result() != "of the dead"


def test_whoever_does_not_come_is_named():
    short = timedelta(seconds=0.3)
    with pytest.raises(TimeoutError, match=r"process 1, 2 of 3 did not come within 0:00:00\.3"):
        rendezvous_name(torch.distributed.HashStore(), 0, 3, short)
    with pytest.raises(TimeoutError, match="the first process did not come"):
        rendezvous_name(torch.distributed.HashStore(), 1, 3, short)
