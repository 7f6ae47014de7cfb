"""Leases: each to one process, and never lost to a dead, frozen or hanging one."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from hf_superfilter.runs import locks
from hf_superfilter.runs.locks import Leases
from hf_superfilter.runs.store import Store

OWNER = """
import sys, time
from hf_superfilter.runs import locks
from hf_superfilter.runs.store import Store
locks.LEASE = float(sys.argv[2])
with locks.Leases(Store(sys.argv[1]), "chunks") as leases:
    print(leases.take("one"), flush=True)
    sys.stdin.readline()
    print(leases.holds("one"), flush=True)
"""


@pytest.fixture
def owner(tmp_path):
    """Start another process that holds the lease "one"; ended with the test."""
    processes = []

    def start(lease=30.0):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, tmp_path, str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(leases, name):
    """Ask for a lease until it is given; a process that cannot have it hangs, and is killed."""
    while not leases.take(name):
        time.sleep(0.02)


def test_a_lease_is_given_to_one_and_after_its_release_to_another(tmp_path):
    with Leases(Store(tmp_path), "chunks") as first, Leases(Store(tmp_path), "chunks") as second:
        assert first.take("one") and not second.take("one")
        assert first.holds("one") and not second.holds("one")
        first.release("one")
        assert second.take("one") and not first.holds("one")
    assert list((tmp_path / "chunks").iterdir()) == []


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, owner):
    process = owner()
    with Leases(Store(tmp_path), "chunks") as leases:
        assert not leases.take("one"), "it lives"
        process.kill()
        process.wait()
        # Older releases of filelock remove the file at one look, and take it at the next.
        assert leases.take("one") or leases.take("one")


def test_the_lease_of_a_frozen_process_is_taken_over_and_it_learns_of_it(
    tmp_path, owner, monkeypatch
):
    monkeypatch.setattr(locks, "LEASE", 0.5)
    process = owner(0.5)
    process.send_signal(signal.SIGSTOP)
    with Leases(Store(tmp_path), "chunks") as leases:
        wait_for(leases, "one")
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go on\n")[0] == "False\n"
        assert leases.holds("one"), "its release left the new owner's lease alone"


def test_a_process_that_keeps_one_lease_for_longer_than_patience_loses_it(tmp_path, owner):
    owner()
    with Leases(Store(tmp_path), "chunks") as leases:
        leases.patience = 0.3
        assert not leases.take("one")
        wait_for(leases, "one")
        assert leases.holds("one")


def record(**changes):
    """A lease file as a living process of another machine wrote it."""
    fields = {"pid": 7, "host": "elsewhere", "mode": "lease", "token": "ab", "duration": 30.0}
    lines = [f"{key}={value}" for key, value in (fields | changes).items()]
    return "\n".join(["filelock/2", *lines, ""]).encode()


DAMAGED = {
    "list": b"[]",
    "null": b"null",
    "text": b"some text\n",
    "mapping": b"{}",
    "number": b"17",
    "nothing": b"",
    "line break": b"\n",
    "not UTF-8": b"\xff\xfe\x00\x80",
    "large": b"x" * 5_000,
    "half a record": record()[:20],
    "negative pid": record(pid=-1),
    "pid 0": record(pid=0),
    "huge pid": record(pid=2**70),
    "pid in words": record(pid="one"),
    "no token": record(token=""),
    "other duration": record(duration=7.0),
    "infinite duration": record(duration="1e999"),
    "unknown mode": record(mode="shared"),
    "frozen elsewhere": record(duration=0.4),
    "older lines": b"-5\nelsewhere\n",
    "older dead process": f"{2**22 + 1}\n{socket.gethostname()}\n".encode(),
    "older JSON": b'{"machine": "here", "pid": -3, "started": 1.0, "token": "ab"}',
}


def test_whatever_stands_in_the_place_of_a_lease_is_taken_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "LEASE", 0.4)
    folder = tmp_path / "chunks"
    folder.mkdir()
    for name, contents in DAMAGED.items():
        (folder / f"{name}.lease").write_bytes(contents)
    (folder / "folder.lease").mkdir()
    (folder / "full folder.lease/inner").mkdir(parents=True)
    (folder / "dangling link.lease").symlink_to(tmp_path / "nowhere")
    (folder / "link to a folder.lease").symlink_to(tmp_path)
    (folder / "read-only.lease").write_bytes(b"[]")
    (folder / "read-only.lease").chmod(0o400)
    os.mkfifo(folder / "pipe.lease")
    names = sorted(path.stem for path in folder.iterdir())
    with Leases(Store(tmp_path), "chunks") as leases:
        free = list(names)
        while free:
            free = [name for name in free if not leases.take(name)]
            time.sleep(0.02)
        assert all(leases.holds(name) for name in names)
    left = sorted(path.name.split(".lease")[0] for path in folder.iterdir())
    assert left == ["folder", "full folder"], (
        "set aside, not removed: somebody's files may lie there"
    )
    assert caplog.text.count("is a folder in the place of a file") == 2


def test_a_folder_that_cannot_be_written_is_an_error_and_no_endless_wait(tmp_path):
    (tmp_path / "chunks").write_text("a file in the place of the folder")
    with Leases(Store(tmp_path), "chunks") as leases, pytest.raises(OSError):
        leases.take("one")
