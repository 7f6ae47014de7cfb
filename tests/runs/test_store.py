"""Objects of a run folder: whole or not there, created by one, and no remains of dead writers."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hf_superfilter.runs.store import Store, atomic_write, sweep_unfinished

URLS = ["{}", "file://{}", "memory://store{}"]


@pytest.mark.parametrize("url", URLS)
def test_of_several_that_create_an_object_one_does_and_all_read_the_same(tmp_path, url):
    store = Store(url.format(tmp_path))
    names = [f"writer {number}".encode() * 1_000 for number in range(8)]
    for attempt in range(10):
        name = f"folder/{attempt}.json"
        if store.exclusive:
            with ThreadPoolExecutor(8) as threads:
                created = list(threads.map(lambda data, name=name: store.create(name, data), names))
        else:
            created = [store.create(name, data) for data in names]
        assert sum(created) == 1
        assert store.read(name) == names[created.index(True)]


def test_an_error_or_an_existing_file_leaves_nothing_unfinished(tmp_path):
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "file", replace=False) as path:
        path.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


WRITER = """
import sys
from hf_superfilter.runs.store import atomic_write
with atomic_write(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_unfinished_files_of_dead_writers_are_swept_and_those_of_living_ones_stay(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path / "scorer/file"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        sweep_unfinished(tmp_path)
        assert len(list(tmp_path.rglob("*.unfinished"))) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    by_hand = tmp_path / "scorer/columns/000000.arrow.unfinished"
    by_hand.parent.mkdir()
    by_hand.write_text("of an older version")
    elsewhere = tmp_path / "scorer/file.00000000-0123456789ab.unfinished"
    elsewhere.write_text("of another machine, an instant ago")
    sweep_unfinished(tmp_path)
    assert list(tmp_path.rglob("*.unfinished")) == [elsewhere]
    os.utime(elsewhere, (1, 1))
    sweep_unfinished(tmp_path)
    assert not list(tmp_path.rglob("*.unfinished"))
