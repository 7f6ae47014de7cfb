"""A row's fault is the row's: it is passed over, named, and stops nothing unless there are many."""

import json

import pytest
from datasets import Dataset

from hf_superfilter import IFD, Embed, Length, Perplexity, format_pairs, load_rows, score

UNREADABLE = {
    "surrogate": ('"half \\ud83d"', "lone surrogate"),
    "number": ("8", "holds int 8, not text"),
}


def rows_with(tmp_path, output, count=400, bad=(333,)):
    good = json.dumps({"instruction": "Say hi.", "output": "Hi there!"})
    lines = [good] * count
    for number in bad:
        lines[number] = f'{{"instruction": "Say hi.", "output": {output}}}'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return format_pairs(load_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("kind", UNREADABLE)
def test_one_row_of_400_is_unreadable_and_the_others_are_scored(tmp_path, kind):
    output, reason = UNREADABLE[kind]
    rows = rows_with(tmp_path, output)
    table = score(rows, [Perplexity("embedded:weak"), Length()], tmp_path / "run")
    statuses = table["ppl_status"][:]
    assert [n for n, status in enumerate(statuses) if status != "ok"] == [333]
    assert statuses[333] == "unreadable"
    (entry,) = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["ppl"]["unreadable"]
    assert entry["row"] == 333 and "line 334" in entry["reason"] and reason in entry["reason"]
    log = (tmp_path / "run/run.log.jsonl").read_text().splitlines()
    logged = [e for line in log for e in json.loads(line).get("unreadable", [])]
    assert entry in logged


def test_an_unknown_role_is_the_fault_of_its_row(tmp_path):
    good = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    bad = [{"role": "wizard", "content": "Hi"}, good[1]]
    rows = format_pairs(Dataset.from_dict({"messages": [good, bad, good]}))
    table = score(rows, [Length()], tmp_path, max_unreadable=0.5)
    assert [reason is None for reason in table["unreadable_reason"][:]] == [True, False, True]
    assert "wizard" in table["unreadable_reason"][1]


def test_more_than_the_allowed_share_stops_the_run_with_the_first_three(tmp_path):
    rows = rows_with(tmp_path, "8", count=100, bad=(3, 5, 7, 9))
    with pytest.raises(ValueError, match=r"4 of 100 rows .*row 3: .*row 5: .*row 7: [^;]*; corr"):
        score(rows, [Length()], tmp_path / "run")


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u00a0", None])
def test_white_space_is_an_empty_response_for_every_scorer(blank):
    batch = {"prompt": ["Say hi.\n", "Say hi.\n"], "response": ["Hello there.", blank]}
    for scorer in (IFD("embedded:weak"), Perplexity("embedded:weak")):
        assert scorer(batch)[f"{scorer.name}_status"] == ["ok", "empty_response"]


@pytest.mark.parametrize("form", [None, "arrow", "pandas", "torch", "numpy"])
def test_map_gives_the_same_scores_a_row_at_a_time_and_in_every_format(form):
    rows = format_pairs(
        Dataset.from_dict({"instruction": ["Say hi.", "Count."], "output": ["Hi!", "one two"]})
    )
    for scorer in (Length(), IFD("embedded:weak", dtype="float32"), Embed("embedded:weak")):
        batched = rows.map(scorer, batched=True)
        single = rows.with_format(form).map(scorer).with_format(None)
        assert single["prompt"][:] == batched["prompt"][:]
        assert single[scorer.main][:] == pytest.approx(batched[scorer.main][:], rel=1e-5)
