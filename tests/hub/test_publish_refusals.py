"""What publish refuses, and what it says when the Hub or the network does: one sentence, nothing
changed, no token.
"""

import logging
import subprocess
import sys
import threading
import traceback

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, constants
from publishing import check_whole, commits_of, picked, state_of

from hf_superfilter import Length, Recipe, SuperfilterError, TopK, load_subset, publish

# Names: refused before a request is sent


@pytest.mark.parametrize(
    "repo_id",
    [
        "rows",
        "",
        "me/",
        "/rows",
        "me/rows/best",
        "me/ro ws",
        "me/rows.git",
        "me/ro--ws",
        "me/ro..ws",
        "me/rows-",
        "me/rows.",
        "me-/rows",
        "me./rows",
        "-me/rows",
        "me/-rows",
        "me/.rows",
        "me/röws",
        "me/" + "r" * 97,
        "me/rows\n",
        "../rows",
        "me\\rows",
        "https://huggingface.co/me/rows",
        "me/rows@main",
    ],
)
def test_a_repository_that_the_hub_could_not_have_is_refused_at_once(hub, repo_id):
    with pytest.raises(ValueError, match=r"^repo_id=.*: give 'user/name'"):
        publish(picked(1), repo_id)
    assert not hub.requests


@pytest.mark.parametrize(
    "name",
    [
        "",
        "data",
        "a/b",
        "a b",
        ".a",
        "-a",
        "_a",
        "a..b",
        "..",
        "a\n",
        "a:b",
        "a|b",
        "a?b",
        "a*b",
        "a<b",
        "a>b",
        "a\\b",
        "ä",
        "a" * 97,
        None,
    ],
)
def test_a_name_that_datasets_or_a_path_could_not_hold_is_refused_at_once(hub, name):
    with pytest.raises(ValueError, match=r"^name=.*: a subset's name is made of letters"):
        publish(picked(1), "me/rows", name=name)
    assert not hub.requests


@pytest.mark.parametrize(
    "split", ["", "all", "a-b", "a/b", "a b", ".a", "a.", "a..b", "ä", "train\n", "train[:5]", None]
)
def test_a_split_that_datasets_could_not_load_is_refused_at_once(hub, split):
    with pytest.raises(ValueError, match=r"^split .*: a split's name is made of letters"):
        publish({split: picked(1)}, "me/rows")
    assert not hub.requests


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({}, "there is no split to publish"),
        (
            {"train": picked(1), "test": Dataset.from_dict({"a": [1]})},
            "split 'test' is of type Dataset: give what select",
        ),
        (picked(), "nothing was kept for the split 'train'"),
        (Dataset.from_dict({"a": [1]}), "split 'train' is of type Dataset: give what select"),
    ],
)
def test_what_is_no_selection_is_refused_at_once(hub, selection, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        publish(selection, "me/rows")
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "a b", "a..b", "refs/heads/", "a\n"])
def test_a_branch_that_git_could_not_have_is_refused_at_once(hub, revision):
    with pytest.raises(ValueError, match=r"^revision=.*: give the name of a branch"):
        publish(picked(1), "me/rows", revision=revision)
    assert not hub.requests


@pytest.mark.parametrize(
    "name",
    ["a", "A.b-c_d", "1", "1e3", "no", "true", "null", "0x10", "1_000", "x" * 96, "train", "all"],
)
def test_a_name_that_yaml_could_take_for_something_else_loads(hub, name):
    publish(picked(1), "me/rows", name=name)
    publish(picked(2), "me/rows", name="other")
    assert load_dataset("me/rows", name, split="train")["number"][:] == [1]
    assert load_subset("me/rows", name)["number"][:] == load_subset("me/rows")["number"][:] == [1]


# Tokens, rights, networks


def refused(hub, kind, said, repo_id="me/rows", **options):
    """Publish, and check the one sentence and that nothing was changed."""
    before = state_of(hub)
    with pytest.raises(kind) as error:
        publish(picked(2, 3), repo_id, name="best", **options)
    assert isinstance(error.value, kind)
    assert isinstance(error.value, SuperfilterError)
    text = str(error.value)
    assert said in text
    assert "\n" not in text
    assert len(text) < 300
    assert state_of(hub) == before
    return error.value


@pytest.fixture
def published(hub):
    """The local Hub with one subset on it."""
    publish(picked(1), "me/rows", name="best")
    return hub


def check_it_can_go_on(hub):
    assert load_dataset("me/rows", "best", split="train")["number"][:] == [1]
    publish(picked(2, 3), "me/rows", name="best")
    assert load_dataset("me/rows", "best", split="train")["number"][:] == [2, 3]
    assert list(check_whole(commits_of(hub)[0])) == ["best"]


def test_without_a_token_it_says_how_to_get_one(published, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused(
        published,
        PermissionError,
        "no token for the Hub: log in with 'hf auth login', or set HF_TOKEN",
    )
    monkeypatch.setenv("HF_TOKEN", "hf_local_write")
    check_it_can_go_on(published)


@pytest.mark.parametrize(
    ("token", "said"),
    [("hf_local_read", "This token is read-only"), ("hf_unknown", "Invalid credentials")],
)
def test_a_token_that_may_not_write_is_refused(published, token, said):
    error = refused(
        published, PermissionError, "your token may not write to 'me/rows'", token=token
    )
    assert said in str(error)
    assert "use one that may" in str(error)
    check_it_can_go_on(published)


@pytest.mark.parametrize("exists", [False, True])
def test_a_namespace_or_public_repository_of_somebody_else_is_refused(published, exists):
    if exists:
        published.commit("dataset", "other/rows", {"README.md": "# Theirs\n"})
    refused(published, PermissionError, "your token may not write to 'other/rows'", "other/rows")


@pytest.mark.parametrize("create_pr", [False, True])
def test_a_private_repository_of_somebody_else_is_as_if_it_were_not_there(published, create_pr):
    published.commit("dataset", "other/rows", {"README.md": "# Theirs\n"}, private=True)
    refused(
        published,
        PermissionError,
        "your token may not write to 'other/rows'",
        "other/rows",
        create_pr=create_pr,
    )


def test_a_hub_that_refuses_writes_from_the_commit_on_changes_nothing(published):
    published.fail(403, path="/commit/", message="Storage is full")
    refused(published, PermissionError, "your token may not write to 'me/rows' (Storage is full)")
    published.fail(500, times=99, path="/api/datasets/me/rows", message="500 Internal Server Error")
    refused(published, OSError, "the Hub answered 500 for 'me/rows' (500 Internal Server Error")
    published.faults.clear()
    check_it_can_go_on(published)


def test_a_card_that_the_hub_does_not_take_changes_nothing(published):
    published.fail(400, path="/api/validate-yaml")
    refused(published, ValueError, "Invalid metadata in README.md")
    check_it_can_go_on(published)


def test_the_offline_flag_is_named(published, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(
        published, ConnectionError, "'me/rows': the Hub is not asked, because HF_HUB_OFFLINE is set"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_it_can_go_on(published)


def test_a_hub_that_cannot_be_reached_is_said(published):
    published.stop()
    try:
        refused(published, ConnectionError, "nothing was changed, run it again")
    finally:
        published.start()
    check_it_can_go_on(published)


def test_a_proposal_for_a_branch_that_is_not_there_is_refused(published):
    said = "the Hub has no data set 'me/rows' at revision 'trial'"
    refused(published, FileNotFoundError, said, create_pr=True, revision="trial")


def test_a_repository_that_was_renamed_is_not_made_anew_under_its_old_name(published):
    published.move("dataset", "me/rows", "me/renamed")
    refused(
        published,
        FileNotFoundError,
        "'me/rows' is called 'me/renamed' on the Hub now: publish to that name",
    )
    publish(picked(2), "me/renamed", name="more")
    assert load_dataset("me/rows", "more", split="train")["number"][:] == [2], (
        "the old name leads there"
    )


# The source


def source_run(hub, folder, **card):
    """A selection from a data set on the Hub, scored."""
    head = "".join(f"{key}: {value}\n" for key, value in card.items())
    Dataset.from_dict({"instruction": ["a", "b"], "output": ["long answer", "no"]}).push_to_hub(
        "me/source"
    )
    text = hub.files("dataset", "me/source")["README.md"].decode()
    hub.commit("dataset", "me/source", {"README.md": text.replace("---\n", f"---\n{head}", 1)})
    return Recipe("me/source", score=[Length()], select=[TopK("length", 1)]).run(folder)


def test_a_source_that_was_renamed_meanwhile_still_gives_its_licence(hub, tmp_path, capsys):
    selection = source_run(hub, tmp_path / "run", license="mit")
    hub.move("dataset", "me/source", "me/renamed")
    publish(selection, "me/rows", name="best")
    assert HfApi().dataset_info("me/rows").card_data["license"] == "mit"
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("hidden", ["deleted", "private"])
def test_a_source_that_is_gone_is_said_loudly_and_in_the_card(
    hub, tmp_path, capsys, hidden, monkeypatch
):
    selection = source_run(hub, tmp_path / "run", license="mit")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another/hub"))
    if hidden == "deleted":
        HfApi().delete_repo("me/source", repo_type="dataset")
    else:
        HfApi().update_repo_settings("me/source", repo_type="dataset", private=True)
        monkeypatch.setenv("HF_TOKEN", "hf_other_write")
    publish(selection, "me/rows" if hidden == "deleted" else "other/rows", name="best")
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "is not on the Hub any more" in line
    ]
    gone = (
        "the source 'me/source' is not on the Hub any more under that name and revision "
        "(moved, private or deleted)"
    )
    assert line == f"  WARNING: {gone}"
    repo = "me/rows" if hidden == "deleted" else "other/rows"
    card = hub.files("dataset", repo)["README.md"].decode()
    assert "**Licence: the licence of the source is not known" in card
    assert "is not on the Hub any more under that name and revision" in card
    assert "license:" not in card


def test_a_source_whose_card_cannot_be_read_stops_before_anything_is_sent(
    hub, tmp_path, monkeypatch
):
    selection = source_run(hub, tmp_path / "run", license="mit")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another/hub"))
    before = state_of(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = (
        r"^the card of the source 'me/source', whose licence is inherited, cannot be read: "
        r".*again when it can$"
    )
    with pytest.raises(ConnectionError, match=said) as error:
        publish(selection, "me/rows", name="best")
    assert "\n" not in str(error.value)
    assert state_of(hub) == before


# Tokens stay where they are


@pytest.mark.parametrize("token", ["hf_secret_read", "hf_secret_write", "hf_secret_unknown"])
@pytest.mark.parametrize("trouble", ["none", "commit refused", "connection cut", "unreachable"])
def test_a_token_is_in_no_text_that_anybody_sees(hub, tmp_path, capfd, caplog, token, trouble):
    hub.hub.tokens |= {"hf_secret_read": ("me", "read"), "hf_secret_write": ("me", "write")}
    for name in ("huggingface_hub", "httpx", "httpx2", "httpcore", "hf_superfilter", "datasets"):
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.set_level(logging.DEBUG)
    if trouble == "commit refused":
        hub.fail(403, path="/commit/")
    if trouble == "connection cut":
        hub.drop("/commit/")
    if trouble == "unreachable":
        hub.stop()
    said = ""
    try:
        publish(picked(1), "me/rows", name="best", token=token)
    except OSError as error:
        said = "".join(traceback.format_exception(error)) + repr(error)
    finally:
        hub.start()
        hub.hub.tokens = {name: who for name, who in hub.hub.tokens.items() if "secret" not in name}
    captured = capfd.readouterr()
    files = (
        hub.files("dataset", "me/rows") if ("dataset", "me/rows") in hub.hub.repositories else {}
    )
    assert bool(said) == (
        token != "hf_secret_write" or trouble in ("commit refused", "unreachable")
    )
    for text in (
        said,
        captured.out,
        captured.err,
        caplog.text,
        *map(repr, caplog.records),
        *files.values(),
    ):
        assert "secret" not in (text if isinstance(text, str) else text.decode("latin-1"))


@pytest.mark.parametrize(
    "token",
    ["hf_secret\n", " hf_secret", "hf secret", "hf_sécret", "hf_secret\x00", "'hf_secret'\r\n"],
)
def test_a_token_that_cannot_be_sent_is_not_quoted(hub, token):
    with pytest.raises(PermissionError, match="the token holds") as error:
        publish(picked(1), "me/rows", token=token)
    assert "cret" not in "".join(traceback.format_exception(error.value))
    assert not hub.requests


# Killed


PROGRAM = """
from datasets import Dataset
from hf_superfilter import TopK, publish, select
table = Dataset.from_dict({"number": list(range(9))})
publish(select(table, lambda table, pool: pool[:4]), "me/rows", name="best", max_shard_bytes=1)
"""


def test_kill_9_in_the_middle_of_publish_leaves_the_old_version_and_publishing_again_succeeds(
    published, hub_environment
):
    program = [sys.executable, "-c", PROGRAM]
    for path in ("/_lfs/", "/commit/"):
        old, arrived = published.head("dataset", "me/rows"), threading.Event()
        published.before(arrived.set, path=path)
        published.delay(60, path=path, times=1)
        with subprocess.Popen(program, env=hub_environment, stdout=subprocess.DEVNULL) as process:
            assert arrived.wait(60)
            process.kill()
        assert process.returncode == -9
        assert published.head("dataset", "me/rows") == old
    check_it_can_go_on(published)
    assert load_subset("me/rows")["number"][:] == [2, 3]
    exec(PROGRAM, {})
    assert load_subset("me/rows")["number"][:] == [0, 1, 2, 3]
    assert len(check_whole(commits_of(published)[0])["best"]["train"]) == 4
