"""Ctrl-C: what is said, the exit code, and how far a run is afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from hf_superfilter import Length, Perplexity, load_rows, score
from hf_superfilter.runs.progress import unfinished_scorers


class StopAtSecondChunk:
    """A scorer during whose second chunk a user presses Ctrl-C."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return {"size": np.array([len(text) for text in batch["response"]])}


@pytest.fixture
def table(tmp_path):
    rows = [{"prompt": "a", "response": "b" * number} for number in range(1, 11)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(tmp_path / "pairs.jsonl")


def test_a_stopped_run_says_how_many_rows_are_done(table, tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"stopped at 4 of 10 rows; the same command"):
        score(table, [StopAtSecondChunk()], tmp_path / "run", chunk_size=4)
    (progress,) = unfinished_scorers(tmp_path / "run")
    assert progress[1:] == (4, 10)


def test_a_finished_run_has_nothing_unfinished(table, tmp_path):
    score(table, [Length()], tmp_path / "run", chunk_size=4)
    assert unfinished_scorers(tmp_path / "run") == []


def test_ctrl_c_ends_a_command_with_130_and_inspect_says_how_far_it_is(table, command, monkeypatch):
    plain = Length.__call__

    def interrupted(scorer, batch, rank=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Length, "__call__", interrupted)
    asked = ("score", "pairs.jsonl", "--scorer", "Length", "--folder", "run")
    code, _, error = command(*asked)
    assert code == 130 and "stopped at 0 of 10 rows; the same command goes on" in error
    assert "Traceback" not in error
    assert "length: 0 of 10 rows are scored" in command("inspect", "run")[1]
    monkeypatch.setattr(Length, "__call__", plain)
    assert command(*asked)[0] == 0
    assert "unfinished" not in command("inspect", "run")[1]


def test_ctrl_c_while_a_model_is_loaded_says_that_the_command_goes_on(table, command, monkeypatch):
    def interrupted(scorer, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Perplexity, "self_check", interrupted)
    code, _, error = command(
        "score", "pairs.jsonl", "--scorer", "Perplexity", "--model", "embedded:weak"
    )
    assert code == 130 and "stopped; the same command goes on" in error


# A scorer whose second chunk is one call into C that takes minutes and that no signal ends.
STUCK = """
import hashlib
from dataclasses import dataclass
from hf_superfilter import Settings

@dataclass(frozen=True, repr=False)
class Stuck(Settings):
    name: str = "stuck"
    columns = ("prompt", "response")

    def __call__(self, batch):
        if "slow" in batch["response"]:
            print("in C", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        return {"stuck": [len(text) for text in batch["response"]]}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT of another process")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_process_that_is_deep_in_a_kernel(tmp_path, times):
    (tmp_path / "stuck.py").write_text(STUCK)
    texts = ["quick" + "." * 600_000, "slow"]
    lines = [json.dumps({"prompt": "a", "response": text}) + "\n" for text in texts]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    asked = ["score", "pairs.jsonl", "--scorer", "stuck:Stuck", "--folder", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_superfilter", *asked],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background with Ctrl-C ignored, this suite perhaps too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "in C\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()  # where it does not end by itself
        process.communicate()
    assert process.returncode == 130
    assert error.count("stopped at 1 of 2 rows; the same command goes on") == 1
    assert "Traceback" not in error
    (progress,) = unfinished_scorers(tmp_path / "run")
    assert progress[1:] == (1, 2), "what was written is there"
