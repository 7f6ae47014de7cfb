"""Several selections in one run folder, and publishing one of them."""

import json

import pytest
import yaml
from datasets import Dataset

from hf_superfilter import Length, TopK, load_rows, load_subset, score, select, write_repo
from hf_superfilter.errors import NotFoundError


@pytest.fixture
def run(command, tmp_path):
    """A run of the embedded sample, whose licence is known."""
    assert command("score", "embedded:sample", "--scorer", "Length", "--folder", "run")[0] == 0
    return tmp_path / "run"


def picks(command, *options):
    code, out, error = command("select", "run", "--by", "length", *options)
    assert code == 0, error
    return out


def test_a_run_folder_holds_several_selections_by_name(hub, command, run, refused):
    picks(command, "--k", "7", "--name", "longest")
    picks(command, "--k", "5", "--smallest", "--name", "shortest")
    out = picks(command, "--k", "3")
    assert "replaced" not in out
    assert len(load_rows(run / "selections/longest/selected.parquet")) == 7
    assert len(load_rows(run / "selections/shortest/selected.parquet")) == 5
    assert len(load_rows(run / "selected.parquet")) == 3

    code, out, _ = command("publish", "run", "me/rows", "--name", "longest")
    assert code == 0 and "its selection 'longest', Selection(7 of 519 rows" in out
    assert len(load_subset("me/rows", "longest")) == 7
    code, out, _ = command("publish", "run", "me/rows", "--name", "other")
    assert code == 0 and "its selection without a name, Selection(3 of 519 rows" in out
    assert command("publish", "run", "me/rows", "--name", "shortest", "--config-name", "s")[0] == 0
    assert len(load_subset("me/rows", "s")) == 5
    assert "did you mean 'longest'" in refused("report", "run", "--name", "longer")


def test_the_explorer_shows_the_selection_of_a_name(command, run, refused, monkeypatch):
    picks(command, "--k", "7", "--name", "longest")
    shown = []
    show = "hf_superfilter.reports.explorer.show_explorer"
    monkeypatch.setattr(show, lambda selection, **options: shown.append(selection))
    assert command("explore", "run", "--name", "longest")[0] == 0
    assert [len(selection.rows) for selection in shown] == [7]
    assert "did you mean 'longest'" in refused("explore", "run", "--name", "longer")


def test_replacing_a_selection_is_said(command, run):
    picks(command, "--k", "7", "--name", "best")
    assert "replaced" not in picks(command, "--k", "7", "--name", "best")
    out = picks(command, "--k", "8", "--name", "best")
    assert "replaced the selection 'best', TopK(by='length', k=7)" in out
    picks(command, "--k", "1")
    assert "replaced the selection without a name" in picks(command, "--k", "2")


def test_after_a_selection_of_no_rows_the_next_command_selects_again(command, run):
    code, out, error = command("select", "run", "--by", "length", "--above", "1e9")
    assert code == 0
    assert "nothing is kept: Threshold(by='length', above=1000000000.0) drops all of the" in error
    *_, last = out.splitlines()
    assert last == "next: hf-superfilter select run --by length --k 10%"


@pytest.mark.parametrize("name", ["a/b", "..", "", "data"])
def test_a_name_that_no_subset_could_have_is_refused(refused, run, name):
    assert "a subset's name is made of" in refused(
        "select", "run", "--by", "length", "--k", "1", "--name", name
    )


def test_a_dry_run_sends_nothing(hub, command, run):
    picks(command, "--k", "7")
    code, out, _ = command("publish", "run", "me/rows", "--dry-run")
    assert code == 0 and "7 of 519 rows" in out and "nothing was sent" in out
    with pytest.raises(NotFoundError):
        load_subset("me/rows")


@pytest.mark.parametrize("licence", [None, "unknown", "cc-by-nd-4.0"])
def test_an_unknown_or_forbidding_licence_asks_for_yes(hub, command, refused, tmp_path, licence):
    folder = tmp_path / "source"
    folder.mkdir()
    row = {"instruction": "Say yes.", "output": "yes"}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    if licence:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'license': licence})}---\n")
    assert command("score", "source", "--scorer", "Length", "--folder", "run")[0] == 0
    picks(command, "--k", "1")
    assert "--yes publishes all the same" in refused("publish", "run", "me/rows")
    assert command("publish", "run", "me/rows", "--yes")[0] == 0
    assert len(load_subset("me/rows")) == 1


def test_vectors_of_scorers_are_left_out_unless_asked_for(tmp_path):
    rows = Dataset.from_dict({"prompt": ["a", "b"], "response": ["c", "dd"], "own": [[1.0], [2.0]]})

    def place(batch):
        return {"place": [[0.5, 0.5]] * len(batch["prompt"])}

    table = score(rows, [Length(), place], tmp_path / "run")
    selection = select(table, TopK("length", 1), run=tmp_path / "run")
    for vectors in (False, True):
        home = write_repo(selection, tmp_path / f"{vectors}", vectors=vectors, pairs=True)
        columns = load_subset(str(home)).column_names
        assert ("place" in columns) == vectors and "own" in columns
