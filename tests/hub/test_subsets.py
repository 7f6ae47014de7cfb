"""load_subset, list_subsets, load_recipe: from the local Hub, from folders, at pinned revisions,
offline.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Sequence, Value, load_dataset
from huggingface_hub import HfApi, constants
from publishing import ONE_EACH, about_of, commits_of, picked

from hf_superfilter import (
    IFD,
    Length,
    Recipe,
    Threshold,
    TopK,
    list_subsets,
    load_recipe,
    load_rows,
    load_subset,
    publish,
    select,
    write_repo,
)
from hf_superfilter.cli.app import main

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue.", "id": 1},
    {"instruction": "Add two and two.", "input": "In digits.", "output": "4", "id": 2},
    {
        "instruction": "Why is the sky blue?",
        "input": "",
        "output": "Air scatters blue light most.",
        "id": 3,
    },
    {"instruction": "Spell it.", "input": "cat", "output": "c, a, t", "id": 4},
    {"instruction": "Say nothing.", "input": "", "output": "", "id": 5},
]


def everything_passes(table, pool):
    return pool


# By name


def test_the_default_the_name_and_the_split_decide_what_is_loaded(hub):
    publish({"train": picked(1, 2), "test": picked(3)}, "me/rows", name="first")
    publish(picked(4), "me/rows", name="second")
    assert load_subset("me/rows")["number"][:] == [1, 2]
    assert load_subset("me/rows", "first", split="test")["number"][:] == [3]
    assert load_subset("me/rows", "second")["number"][:] == [4]
    publish(picked(4), "me/rows", name="second", set_default=True)
    assert load_subset("me/rows")["number"][:] == [4]
    publish({"dev": picked(5), "test": picked(6)}, "me/rows", name="third")
    with pytest.raises(
        ValueError, match=r"'me/rows' has no split 'train'.*dev, test.*choose one with split"
    ):
        load_subset("me/rows", "third")


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (
            ["me/rows", "ifd-01"],
            ValueError,
            "'me/rows' has no subset 'ifd-01': did you mean 'ifd-10'?",
        ),
        (["me/rows", "zzz"], ValueError, "'me/rows' has no subset 'zzz': there are: ifd-10, ifd-5"),
        (
            ["me/rows", None, "tset"],
            ValueError,
            "'me/rows' has no split 'tset': did you mean 'test'?",
        ),
        (
            ["me/nothing"],
            FileNotFoundError,
            "the Hub has no data set 'me/nothing': check the name, and that",
        ),
        (
            ["other/secret"],
            FileNotFoundError,
            "the Hub has no data set 'other/secret': check the name, and that",
        ),
        (
            ["me/plain"],
            ValueError,
            "'me/plain' names no subsets in its README.md: load_rows('me/plain') loads",
        ),
        (
            ["me/rows", None, None, "v9"],
            FileNotFoundError,
            "the Hub has no data set 'me/rows' at revision 'v9': check",
        ),
        (
            ["me/rows", None, None, "0" * 40],
            FileNotFoundError,
            "the Hub has no data set 'me/rows' at revision '0000",
        ),
        (["me rows/x"], FileNotFoundError, "the Hub has no data set 'me rows/x': check the name"),
        (
            ["alpaca-ifd-01"],
            FileNotFoundError,
            "no subset 'alpaca-ifd-01' in the catalogue: did you mean 'alpaca-ifd",
        ),
        (
            ["alpaca-ifd-10", "x"],
            ValueError,
            "'alpaca-ifd-10' is a short name, which stands for one",
        ),
        (
            ["alpaca-ifd-10", None, None, "main"],
            ValueError,
            "'alpaca-ifd-10' is a short name, which stands for one",
        ),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence_with_the_nearest_that_is(
    hub, arguments, kind, said
):
    publish({"train": picked(1), "test": picked(2)}, "me/rows", name="ifd-10")
    publish(picked(1), "me/rows", name="ifd-5")
    hub.commit("dataset", "other/secret", {"README.md": "# Secret\n"}, private=True)
    hub.commit("dataset", "me/plain", {"README.md": "# Plain\n", "rows.csv": "a,b\n1,2\n"})
    repo, name, split, revision = [*arguments, None, None, None][:4]
    with pytest.raises(kind) as error:
        load_subset(repo, name, split=split, revision=revision)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    if split is None and kind is FileNotFoundError and "/" in repo:
        for call in (list_subsets, load_recipe):
            with pytest.raises(FileNotFoundError) as error:
                call(repo, revision=revision)
            assert str(error.value).startswith(said)


def test_a_new_version_is_loaded_by_the_process_that_loaded_the_old_one(hub):
    for number in range(3):
        publish(picked(number), "me/rows", name="best")
        assert load_subset("me/rows")["number"][:] == [number]


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '{"kept": 1}', "\ufffd"])
def test_damaged_facts_are_one_sentence(hub, text):
    publish(picked(1), "me/rows", name="best")
    path = about_of(commits_of(hub)[0], "best", "train", "facts.json")
    hub.commit("dataset", "me/rows", {path: text})
    with pytest.raises(
        ValueError,
        match=r"^'__about__/best/train/\w+/facts\.json' of 'me/rows' is damaged "
        r".*publish the subset again",
    ):
        list_subsets("me/rows")
    assert load_subset("me/rows")["number"][:] == [1]


def test_a_token_that_the_hub_does_not_know_is_said(hub, monkeypatch):
    publish(picked(1), "me/rows", name="best", private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    for call in (load_subset, list_subsets, load_recipe):
        with pytest.raises(
            PermissionError, match=r"'me/rows' .*Invalid credentials.*: check your token$"
        ) as error:
            call("me/rows")
        assert "\n" not in str(error.value)
        assert "hf_unknown" not in str(error.value)


# Rows of every kind


CHAT = {
    "messages": [
        [
            {"role": "user", "content": "Hi 👋", "tool_calls": None},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"name": "f", "arguments": {"x": 1.5}}],
            },
        ],
        [],
        [{"role": "user", "content": "\u2028<script>", "tool_calls": []}],
    ],
    "tools": [None, [{"name": "f", "parameters": ["x"]}], []],
}
CALL = {"name": Value("string"), "arguments": {"x": Value("float64")}}
CHAT_FEATURES = Features(
    {
        "messages": List(
            {"role": Value("string"), "content": Value("string"), "tool_calls": List(CALL)}
        ),
        "tools": List({"name": Value("string"), "parameters": List(Value("string"))}),
    }
)
ODD = {
    "label": [1, 0, None],
    "large": ["x" * 100_000, "", None],
    "vector": [[1.5, 2.5], [0.0, 0.0], [1.0, 2.0]],
    "many": [[1], [], [2, 3]],
    "été 👩🏽‍🚀": [1, 2, 3],
    "{{ 7*7 }} | `<b>`\n---": ["a", "b", "c"],
    "no": [True, False, None],
    "1": [b"\x00\xff", b"", None],
    "größe": [0.1, float("nan"), float("inf")],
    "": ["empty", "name", "d"],
    "prompt": ["mine", "is", "kept"],
}
ODD_FEATURES = Features(
    {
        "label": ClassLabel(names=["no", "yes: {x}", "---"]),
        "large": Value("large_string"),
        "vector": Sequence(Value("float32"), length=2),
        "many": LargeList(Value("int8")),
        "été 👩🏽‍🚀": Value("int32"),
        "{{ 7*7 }} | `<b>`\n---": Value("string"),
        "no": Value("bool"),
        "1": Value("binary"),
        "größe": Value("float16"),
        "": Value("string"),
        "prompt": Value("string"),
    }
)


@pytest.mark.parametrize(
    ("rows", "features"), [(CHAT, CHAT_FEATURES), (ODD, ODD_FEATURES)], ids=["chat", "odd"]
)
def test_features_of_every_kind_and_rows_come_back_equal(hub, tmp_path, rows, features):
    table = Dataset.from_dict(rows, features)
    selection = select(table, lambda table, pool: pool[::-1])
    publish(selection, "me/rows", name="best", max_shard_bytes=ONE_EACH)
    write_repo(selection, tmp_path / "repo", name="best", max_shard_bytes=ONE_EACH)
    for where in ("me/rows", str(tmp_path / "repo")):
        loaded = load_dataset(where, "best", split="train")
        assert loaded.features == features
        assert repr(loaded[:]) == repr(selection.subset[:])
        assert load_subset(where, "best").features == features
    streamed = load_dataset("me/rows", "best", split="train", streaming=True)
    assert repr(list(streamed)) == repr(list(selection.subset))


def test_a_chat_is_scored_published_and_made_again(hub, tmp_path):
    turns = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello " * n}]
        for n in (1, 3, 2)
    ]
    Dataset.from_dict({"messages": turns}).push_to_hub("me/chats")
    recipe = Recipe("me/chats", score=[Length()], select=[TopK("length", 2)])
    publish(recipe.run(tmp_path / "run"), "me/rows", name="best")
    loaded = load_subset("me/rows")
    assert loaded.column_names == ["messages", "length"]
    assert loaded["messages"][:] == [turns[1], turns[2]]
    assert loaded.features["messages"] == load_rows("me/chats").features["messages"]


# Lists


def test_the_list_says_what_is_on_record_and_none_for_what_is_not(hub, tmp_path):
    publish({"train": picked(1, 2), "test": picked(3)}, "me/rows", name="bare")
    selection = Recipe(
        "embedded:sample",
        score=[Length()],
        select=[Threshold("length", above=3), TopK("length", 0.1)],
    ).run(tmp_path / "run")
    publish(selection, "me/rows", name="long", set_default=True)
    Dataset.from_dict({"a": [1, 2, 3]}).push_to_hub("me/rows", "foreign")
    by_name = {
        subset.name: subset for subset in list_subsets("me/rows")
    }  # datasets sorts what stands in a card
    bare, long, foreign = (by_name[name] for name in ("bare", "long", "foreign"))
    assert bare[:5] == ("bare", 3, 3 / 7, None, "picks")
    assert long[:5] == (
        "long",
        51,
        51 / 519,
        "Length()",
        "Threshold(by='length', above=3) > TopK(by='length', k=0.1)",
    )
    assert foreign == ("foreign", 3, None, None, None, None, False)
    assert [subset.default for subset in (bare, long, foreign)] == [False, True, False]
    assert bare.created.endswith("+00:00")
    folder = write_repo(selection, tmp_path / "repo", name="long")
    assert list_subsets(str(folder))[0][:5] == long[:5]


def test_a_list_at_a_revision_is_of_that_revision(hub):
    publish(picked(1), "me/rows", name="one")
    old = hub.head("dataset", "me/rows")
    publish(picked(1, 2), "me/rows", name="two")
    assert [subset.name for subset in list_subsets("me/rows", revision=old)] == ["one"]
    assert [subset.name for subset in list_subsets("me/rows")] == ["one", "two"]


# Recipes


def test_a_subset_is_made_again_from_its_recipe_alone_even_after_the_source_moved_on(hub, tmp_path):
    Dataset.from_list(ROWS).push_to_hub("me/source", private=False)
    pinned = hub.head("dataset", "me/source")
    recipe = Recipe(
        "me/source",
        score=[IFD("embedded:weak")],
        select=[Threshold("ifd", below=9.0), TopK("ifd", 2)],
    )
    selection = recipe.run(tmp_path / "first")
    publish(selection, "me/rows", name="best")
    Dataset.from_list(ROWS[::-1][:3]).push_to_hub("me/source")
    again = load_recipe("me/rows", "best")
    assert (again.dataset, again.revision) == ("me/source", pinned)
    assert again == Recipe(
        "me/source",
        score=[IFD("embedded:weak")],
        select=[Threshold("ifd", below=9.0), TopK("ifd", 2)],
        revision=pinned,
    )
    rows = again.run(tmp_path / "second").subset
    assert rows[:] == selection.subset[:]
    assert load_recipe("me/rows", "best", revision=hub.head("dataset", "me/rows")) == again


def test_a_model_on_the_hub_is_pinned_at_the_commit_that_scored(hub, tmp_path, gpt2):
    HfApi().create_repo("me/tiny")
    HfApi().upload_folder(repo_id="me/tiny", folder_path=gpt2)
    used = hub.head("model", "me/tiny")
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(ROWS))
    recipe = Recipe(str(source), score=[IFD("me/tiny")], select=[TopK("ifd", 2)])
    publish(recipe.run(tmp_path / "run"), "me/rows", name="best")
    hub.commit("model", "me/tiny", {"README.md": "# Newer\n"})
    (scorer,) = load_recipe("me/rows").score
    assert (scorer.model, scorer.revision) == ("me/tiny", used)
    card = hub.files("dataset", "me/rows")["README.md"].decode()
    assert f"model <code>me/tiny</code> at revision <code>{used}</code>" in card
    assert HfApi().dataset_info("me/rows").card_data["base_model"] == ["me/tiny"]


def test_every_split_has_its_recipe_and_where_there_is_none_it_is_said(hub, tmp_path):
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(ROWS))
    runs = {
        split: Recipe(str(source), score=[Length()], select=[TopK("length", k)]).run(
            tmp_path / split
        )
        for split, k in (("train", 1), ("test", 2))
    }
    publish(runs, "me/rows", name="best")
    publish(picked(1), "me/rows", name="bare")
    assert load_recipe("me/rows").select == (TopK("length", 1),)
    assert load_recipe("me/rows", split="test").select == (TopK("length", 2),)
    for name, split in (("bare", None), ("best", "dev")):
        with pytest.raises(FileNotFoundError, match=f"no recipe was recorded for '{name}'"):
            load_recipe("me/rows", name, split=split)


@pytest.mark.parametrize(
    "recipe",
    [
        "score: [{'subprocess:Popen': {args: [touch, PATH]}}]",
        "score: [Length]\nselect: [{'pathlib:Path.touch': {}}]",
        "score: ['os:system']",
        "score: {'subprocess:Popen': {args: [touch, PATH]}}",
        "score: [&x {'subprocess:Popen': {args: [touch, PATH]}}, *x]",
        "score: !!python/object/apply:os.system ['touch PATH']",
        "score: [Length]\nselect: [{TopK: {by: x, k: 1}, 'subprocess:Popen': {args: [touch, "
        "PATH]}}]",
    ],
)
def test_a_recipe_of_somebody_else_runs_no_code_that_is_not_of_ours(hub, tmp_path, recipe):
    publish(picked(1), "other/rows", name="best", token="hf_other_write", private=False)
    text = "dataset: embedded:sample\n" + recipe.replace("PATH", str(tmp_path / "touched"))
    tree = commits_of(hub, "other/rows")[0]
    path = about_of(tree, "best", "train", "facts.json").replace("facts.json", "recipe.yaml")
    hub.commit("dataset", "other/rows", {path: text})
    with pytest.raises(
        ValueError, match=r"code that is not of hf_superfilter|the recipe is not YAML"
    ) as error:
        load_recipe("other/rows")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()


SERVED = """dataset: embedded:sample
score:
- AskLLM: {model: m, endpoint: 'http://127.0.0.1:9/v1'}
select:
- TopK: {by: ask_llm, k: 2}
"""


@pytest.fixture
def served(hub):
    """The commit of a repository of somebody else whose recipe names a server."""
    publish(picked(1), "other/rows", name="best", token="hf_other_write", private=False)
    facts = about_of(commits_of(hub, "other/rows")[0], "best", "train", "facts.json")
    hub.commit("dataset", "other/rows", {facts.replace("facts.json", "recipe.yaml"): SERVED})
    return hub.head("dataset", "other/rows")


def test_a_recipe_of_somebody_else_names_a_server_only_where_the_user_allows_it(served):
    with pytest.raises(ValueError, match=r"sends rows to the server 'http://127.0.0.1:9/v1'"):
        load_recipe("other/rows")
    (scorer,) = load_recipe("other/rows", allow_endpoint=True).score
    assert scorer.endpoint == "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("option", [[], ["--allow-endpoint"]])
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "theirs", "--format=nope"], "'nope'"),
        (["validate", "theirs", "--student=embedded:weak", "--arms=nope"], "'nope'"),
        (["compare", "theirs", "theirs", "--student=embedded:weak"], "different names"),
    ],
)
def test_the_command_line_asks_the_same_before_it_reads_a_row(
    served, tmp_path, monkeypatch, capsys, command, option, said
):
    catalogue = tmp_path / "hf_superfilter/catalogue.yaml"
    catalogue.parent.mkdir()
    catalogue.write_text(f"theirs: {{repo: other/rows, revision: '{served}', name: best}}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hf-superfilter", *command, *option])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert (said if option else "--allow-endpoint") in capsys.readouterr().err.splitlines()[-1]


# Pinned revisions


OFFLINE = """
import sys
from hf_superfilter import load_subset
for revision in sys.argv[1:]:
    try:
        print(load_subset("me/rows", "best", revision=revision)["number"][:])
    except FileNotFoundError as error:
        print(f"refused: {error}")
"""


@pytest.fixture
def two_versions(hub):
    """The commits of two versions of a subset."""
    shas = []
    for number in (1, 2):
        publish(picked(number), "me/rows", name="best")
        shas.append(hub.head("dataset", "me/rows"))
    return shas


def test_a_pinned_revision_is_honoured_or_refused_offline_and_never_replaced(
    hub, two_versions, hub_environment
):
    first, second = two_versions

    def run(*revisions, **environment):
        program = [sys.executable, "-c", OFFLINE, *revisions]
        done = subprocess.run(
            program, env=hub_environment | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-len(revisions) :]

    assert run(first, second) == ["[1]", "[2]"]
    *cached, unknown = run(first, second, "0" * 40, HF_HUB_OFFLINE="1")
    for sha, rows, said in zip((first, second), ("[1]", "[2]"), cached, strict=True):
        assert said == rows or said.startswith(
            f"refused: 'me/rows' is in the cache, but not at revision '{sha}'"
        )
    assert unknown.startswith("refused: the Hub cannot be reached, and the cache holds no")


@pytest.mark.parametrize("gone", ["deleted", "private"])
@pytest.mark.parametrize("by", ["subset", "rows"])
def test_a_pinned_revision_that_the_hub_has_no_more_is_not_replaced_by_another_one(
    hub, two_versions, monkeypatch, gone, by
):
    """datasets answers with the last version that it cached, whatever the Hub says."""
    first, second = two_versions
    load = {
        "subset": lambda sha: load_subset("me/rows", "best", revision=sha),
        "rows": lambda sha: load_rows("me/rows", config="best", revision=sha),
    }[by]
    assert [load(sha)["number"][:] for sha in (first, second)] == [[1], [2]]
    if gone == "deleted":
        HfApi().delete_repo("me/rows", repo_type="dataset")
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_other_write")
    assert load(second)["number"][:] == [2], "the cache holds it"
    with pytest.raises(
        FileNotFoundError, match=f"in the cache, but not at revision '{first}'"
    ) as error:
        load(first)
    assert "\n" not in str(error.value)


def test_the_flag_for_offline_is_honoured_in_the_same_process(hub, two_versions, monkeypatch):
    first, second = two_versions
    assert load_subset("me/rows", "best", revision=second)["number"][:] == [2]
    assert np.array(load_subset("me/rows", "best", revision=first)["number"][:]).tolist() == [1]
    import datasets

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    seen = []
    for sha in (first, second):
        try:
            seen.append(load_subset("me/rows", "best", revision=sha)["number"][:])
        except FileNotFoundError as error:
            assert "not at revision" in str(error)
            seen.append(None)
    assert seen[0] in ([1], None)
    assert seen[1] in ([2], None)
    assert seen != [None, None]
