"""Provenance: what a run tells of its source, models and recipe, and which columns are the source's
own.
"""

import json
from dataclasses import dataclass

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi

from hf_superfilter import (
    IFD,
    Length,
    Perplexity,
    RandomSample,
    Recipe,
    Threshold,
    TopK,
    format_pairs,
    load_rows,
    score,
    select,
    write_repo,
)
from hf_superfilter.hub.provenance import pin_recipe, provenance_of, source_metadata
from hf_superfilter.recipes.recipe import recipe_of
from hf_superfilter.reports.summary import Summary

ROWS = [
    {"instruction": "a", "input": "", "output": "bb"},
    {"instruction": "c", "input": "d", "output": "e"},
]


def everything_passes(table, pool):
    return pool


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return str(path)


# What is on record


def test_nothing_is_on_record_for_a_bare_table():
    bare = select(Dataset.from_dict({"x": [1, 2]}), TopK("x", 1))
    assert provenance_of(Summary(bare)) == {
        "recipe": None,
        "source": None,
        "scorers": [],
        "created": None,
    }


def test_a_run_of_score_tells_scorers_and_time_but_no_source(tmp_path):
    rows = Dataset.from_dict(
        {"prompt": ["Why is the sky blue?\n"], "response": ["Air scatters blue light most."]}
    )
    table = score(rows, [Length(), IFD("embedded:weak")], tmp_path)
    known = provenance_of(Summary(select(table, TopK("length", 1), run=tmp_path)))
    assert (known["recipe"], known["source"]) == (None, None)
    assert known["created"].endswith("+00:00")
    length, ifd = known["scorers"]
    assert length == {
        "name": "length",
        "entry": {"Length": {}},
        "python": "Length()",
        "model": None,
        "revision": None,
    }
    assert (ifd["name"], ifd["python"]) == ("ifd", "IFD(model='embedded:weak')")
    assert ifd["revision"].startswith("sha256:")


def test_a_scorer_that_is_a_plain_function_is_told_by_its_name(tmp_path):
    def vowels(batch):
        return {"vowels": [1.0 for _ in batch["response"]]}

    table = score(Dataset.from_dict({"prompt": ["a"], "response": ["b"]}), [vowels], tmp_path)
    (known,) = provenance_of(Summary(select(table, TopK("vowels", 1), run=tmp_path)))["scorers"]
    assert (known["entry"], known["python"], known["model"]) == (None, "vowels", None)


def test_the_recipe_has_the_selectors_that_were_applied(source, tmp_path):
    recipe = Recipe(source, score=[Length()], select=[TopK("length", 1)])
    selection = recipe.run(tmp_path / "run")
    other = select(
        selection.table, [Threshold("length", above=0), RandomSample(1)], run=selection.run
    )
    assert recipe_of(selection) == recipe
    assert recipe_of(other) == Recipe(
        source, score=[Length()], select=[Threshold("length", above=0), RandomSample(1)]
    )
    assert recipe_of(select(selection.table, everything_passes, run=selection.run)) is None
    assert recipe_of(select(selection.table, TopK("length", 1))) is None


@dataclass(frozen=True, repr=False)
class NoRevision(Length):
    """A scorer of somebody else that knows no revision, though its record has one."""


def test_only_commits_take_the_place_of_branches():
    sha = "0123456789abcdef" * 2 + "01234567"
    recipe = Recipe(
        "a/b",
        score=[IFD("a/m"), Perplexity("a/m", revision="v1"), NoRevision(name="n")],
        revision="v2",
    )
    scorers = {
        "ifd": {"made_with": {"revision": sha}},
        "ppl": {"made_with": {"revision": "sha256:01"}},
        "n": {},
    }
    fixed = pin_recipe(recipe, {"scorers": scorers, "source": {"revision": "sha256:02"}})
    assert [scorer.revision for scorer in fixed.score[:2]] == [sha, "v1"]
    assert fixed.revision == "v2"
    assert fixed.score[2] == recipe.score[2]
    assert pin_recipe(recipe, {"scorers": {}, "source": {"revision": sha}}).revision == sha
    assert pin_recipe(recipe, {"scorers": {}}) == recipe


# Which columns are the source's own

FORMATS = {
    "alpaca": (ROWS, ["instruction", "input", "output"]),
    "alpaca with more": ([{"id": 1, **ROWS[0]}], ["id", "instruction", "input", "output"]),
    "dolly": (
        [{"instruction": "a", "context": "", "response": "bb"}],
        ["instruction", "context", "response"],
    ),
    "prompt-completion": ([{"prompt": "a", "completion": "bb"}], ["prompt", "completion"]),
    "pairs": ([{"prompt": "a", "response": "bb", "id": 1}], ["prompt", "response", "id"]),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        ["conversations"],
    ),
    "text": ([{"text": "a"}], ["text"]),
}


@pytest.mark.parametrize("by", ["recipe", "score"])
@pytest.mark.parametrize("format", FORMATS)
def test_prompt_and_response_are_own_columns_only_where_the_source_has_them(tmp_path, format, by):
    rows, own = FORMATS[format]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if by == "recipe":
        selection = Recipe(str(source), score=[Length()], select=[TopK("length", 1)]).run(
            tmp_path / "run"
        )
    else:
        table = score(format_pairs(load_rows(source)), [Length()], tmp_path / "run")
        selection = select(table, TopK("length", 1), run=tmp_path / "run")
    assert selection.subset.column_names == [*own, "length"]


@pytest.mark.parametrize(
    "columns", [["prompt"], ["response"], ["prompt", "response"], ["prompt", "response", "x"]]
)
def test_a_table_without_a_run_keeps_what_cannot_be_known_to_be_made(columns):
    selection = select(Dataset.from_dict({name: ["a"] for name in columns}), everything_passes)
    assert selection.subset.column_names == columns


def test_made_columns_are_written_when_they_are_asked_for(source, tmp_path):
    selection = Recipe(source, score=[Length()], select=[TopK("length", 1)]).run(tmp_path / "run")
    for pairs, made in ((False, []), (True, ["prompt", "response"])):
        folder = write_repo(selection, tmp_path / "repo", pairs=pairs)
        columns = ["instruction", "input", "output", *made, "length"]
        assert load_dataset(str(folder), split="train").column_names == columns
        card = (folder / "README.md").read_text()
        assert (
            "Left out, because they were only made for scoring: <code>prompt</code>" in card
        ) == (not pairs)


def test_the_columns_that_a_set_format_hides_are_written_too(tmp_path):
    table = Dataset.from_dict({"a": [1, 2], "b": ["x", "y"]}).with_format("numpy", columns=["a"])
    folder = write_repo(select(table, TopK("a", 1)), tmp_path / "repo")
    assert load_dataset(str(folder), split="train")[:] == {"a": [2], "b": ["y"]}


# The source's card


def test_the_card_of_the_source_is_read_at_the_commit_that_was_scored(hub, tmp_path):
    Dataset.from_list(ROWS).push_to_hub("me/source")

    def license_it(licence):
        text = hub.files("dataset", "me/source")["README.md"].decode().split("---\n", 2)[1]
        kept = "".join(line + "\n" for line in text.splitlines() if not line.startswith("license"))
        return hub.commit(
            "dataset", "me/source", {"README.md": f"---\nlicense: {licence}\n{kept}---\n"}
        )

    pin = license_it("cc-by-4.0")
    selection = Recipe("me/source", score=[Length()], select=[TopK("length", 1)]).run(
        tmp_path / "run"
    )
    license_it("mit")
    source = provenance_of(Summary(selection))["source"]
    assert (source["dataset"], source["revision"]) == ("me/source", pin)
    assert source_metadata(source)["license"] == "cc-by-4.0"
    (tmp_path / "me/source").mkdir(parents=True)
    (tmp_path / "me/source/README.md").write_text("---\nlicense: other\n---\n")


def test_a_folder_of_the_same_name_is_not_taken_for_the_source_on_the_hub(
    hub, tmp_path, monkeypatch
):
    hub.commit("dataset", "me/source", {"README.md": "---\nlicense: mit\n---\n"})
    (tmp_path / "me/source").mkdir(parents=True)
    (tmp_path / "me/source/README.md").write_text("---\nlicense: other\n---\n")
    monkeypatch.chdir(tmp_path)
    there = {"dataset": "me/source", "revision": hub.head("dataset", "me/source")}
    assert source_metadata(there) == {"license": "mit"}
    assert source_metadata({"dataset": "me/source", "revision": "sha256:01"}) == {
        "license": "other"
    }


def test_a_source_without_a_card_a_file_and_the_sample(hub, tmp_path):
    sha = hub.commit("dataset", "me/bare", {"rows.csv": "a\n1\n"})
    assert source_metadata({"dataset": "me/bare", "revision": sha}) == {}
    assert source_metadata(None) == {}
    assert source_metadata({"dataset": str(tmp_path / "x.json"), "revision": "sha256:01"}) == {}
    assert (
        source_metadata({"dataset": "embedded:sample", "revision": "sha256:01"})["license"]
        == "apache-2.0"
    )
    HfApi().delete_repo("me/bare", repo_type="dataset")
    with pytest.raises(
        FileNotFoundError, match=r"'me/bare' is not on the Hub any more .*moved, private or deleted"
    ):
        source_metadata({"dataset": "me/bare", "revision": "0" * 40})
