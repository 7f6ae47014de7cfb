"""Ctrl-C: what is said, the exit code, and how far a run is afterwards."""

import json

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
