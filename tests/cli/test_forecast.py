"""What a run says before it begins, how its bar moves, and how commands end."""

import json
import shlex

import numpy as np
import pytest
from datasets import Dataset

from hf_superfilter import Perplexity
from hf_superfilter.base import as_scorer
from hf_superfilter.models import batching
from hf_superfilter.runs.bar import Bar
from hf_superfilter.runs.chunks import Chunks
from hf_superfilter.runs.forecast import forecast
from hf_superfilter.runs.store import Store
from hf_superfilter.runs.work import heard_by


@pytest.fixture
def rows(tmp_path):
    lines = [
        {"instruction": f"Say {number}.", "output": f"{number} and more"} for number in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "rows.jsonl"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(command, rows, tmp_path):
    code, out, _ = command("score", rows, "--model", "embedded:weak", "--dry-run")
    assert code == 0 and not (tmp_path / "runs").exists()
    first, last = out.splitlines()
    for part in ("ifd: 60 rows (about ", " tokens), embedded:weak in ", "thread", ", about "):
        assert part in first
    assert last == "nothing was written (--dry-run); the folder would be runs/score"


def test_a_dry_run_of_a_recipe_says_what_cannot_be_measured(command, rows, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "dataset: rows.jsonl\nscore: [Length, Combine: {weights: {length: 1}}]\n"
        "select: [TopK: {by: combined, k: 5}]\n"
    )
    code, out, _ = command("run", "r.yaml", "--dry-run")
    assert code == 0 and not (tmp_path / "runs").exists()
    assert "time not estimated: it looks at all rows before it scores any" in out
    assert "then select: TopK(by='combined', k=5)" in out


def test_a_dry_run_counts_only_what_is_left(command, rows):
    asked = ("score", rows, "--scorer", "Length", "--folder", "run")
    assert command(*asked)[0] == 0
    assert "length: 60 rows, scored already" in command(*asked, "--dry-run")[1]


@pytest.mark.parametrize(
    "scorer", [lambda batch: {"x": batch["prompt"]}, Perplexity("m", endpoint="http://x:1/v1")]
)
def test_what_may_cost_money_or_do_anything_is_not_run_for_an_estimate(scorer):
    table = Dataset.from_dict({"prompt": ["a"], "response": ["b"]})
    expected = forecast(as_scorer(scorer), table)
    assert expected.seconds is None and "time not estimated" in str(expected)


def test_the_tokens_of_a_forecast_are_near_those_of_the_run(sample, weak):
    third = sample.select(range(0, len(sample), 3))
    table = third.filter(lambda row: bool(row["response"].strip()))
    expected = forecast(as_scorer(Perplexity(weak)), table, thorough=True)
    tokens = np.sum(Perplexity(weak)(table[:])["ppl_tokens"])
    assert expected.rows == len(table) and expected.tokens == pytest.approx(tokens, rel=0.25)


class Drawing:
    """A bar on a terminal, as tqdm has it."""

    disable, n = False, 0

    def set_postfix_str(self, text):
        self.text = text


def test_the_bar_moves_with_every_batch_of_a_chunk(tmp_path, sample, weak):
    chunks = Chunks(Store(tmp_path), "ppl", np.array([0, 40]))
    drawing = Drawing()
    bar = Bar(chunks, np.array([1.0]), drawing)
    places = []
    bar.begin(0)
    with heard_by(bar), pytest.MonkeyPatch.context() as patch:
        advance = batching.advance
        patch.setattr(batching, "advance", lambda n: (advance(n), places.append(drawing.n)))
        Perplexity(weak, batch_tokens=512)(sample[:40])
    assert len(places) > 3 and places == sorted(places) and places[-1] == 40


def test_every_next_command_can_be_pasted(command, rows, tmp_path):
    pasted = ["score", "rows.jsonl", "--scorer", "Length", "--folder", "a run"]
    for _ in range(2):
        code, out, _ = command(*pasted)
        made, where, following = out.splitlines()[-3:]
        assert code == 0 and made and where and following.startswith("next: hf-superfilter ")
        pasted = shlex.split(following)[2:]
    assert pasted == ["publish", "a run", "user/name", "--dry-run"]


def test_the_catalogue_says_what_has_to_be_made_and_how(command, refused):
    out = command("list")[1]
    assert "sample-ifd-15: to be made, load sample-ifd-15 --make runs its recipe" in out
    assert "load alpaca-ifd-10 --make" in refused("load", "alpaca-ifd-10")
