"""Publishing and loading in the words of `datasets` and huggingface_hub."""

import pickle

import pytest
from huggingface_hub import CommitInfo, HfApi
from publishing import picked

from hf_superfilter import (
    SuperfilterError,
    list_subsets,
    load_recipe,
    load_rows,
    load_subset,
    publish,
    write_repo,
)
from hf_superfilter.hub.request import parse_shard_size


def test_push_to_hub_is_publish_in_the_words_of_datasets(hub, capsys):
    selection = picked(1, 2, 3)
    commit = selection.push_to_hub(
        "me/rows", "best", split="test", commit_message="Three rows", max_shard_size="1KB"
    )
    assert isinstance(commit, CommitInfo) and str(commit) == commit.commit_url
    assert commit.oid in commit and pickle.loads(pickle.dumps(commit)).oid == commit.oid
    assert HfApi().list_repo_commits("me/rows", repo_type="dataset")[0].title == "Three rows"
    rows = load_subset("me/rows", config_name="best", split="test")
    assert rows["number"][:] == [1, 2, 3]
    assert [subset.config_name for subset in list_subsets("me/rows")] == ["best"]
    assert load_rows("me/rows", config_name="best", split="test")["number"][:] == [1, 2, 3]


def test_the_older_keywords_name_the_same(hub):
    publish(picked(1), "me/rows", name="one")
    publish(picked(2), "me/rows", config_name="one")
    publish(picked(3), "me/rows", "one", name="one")
    assert load_subset("me/rows", name="one")["number"][:] == [3]
    assert load_rows("me/rows", config="one")["number"][:] == [3]
    with pytest.raises(SuperfilterError, match="config_name='a' and name='b' name the same"):
        publish(picked(1), "me/rows", "a", name="b")


def test_a_split_beside_a_dict_of_splits_is_refused(tmp_path):
    with pytest.raises(SuperfilterError, match="split='test': a dict"):
        write_repo({"train": picked(1)}, tmp_path, split="test")
    with pytest.raises(SuperfilterError, match="config_name=''"):
        write_repo(picked(1), tmp_path, config_name="")


@pytest.mark.parametrize(
    ("size", "size_in_bytes"),
    [("500MB", 500_000_000), ("1GiB", 2**30), (1, 1)],
)
def test_sizes_are_read_as_datasets_reads_them(size, size_in_bytes):
    assert parse_shard_size(size) == size_in_bytes
    assert parse_shard_size("500MB", size_in_bytes) == size_in_bytes


@pytest.mark.parametrize("size", ["many", "", 0, -1, 1.5, True, "0MB"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(SuperfilterError, match="max_shard_size="):
        parse_shard_size(size)


def test_a_token_that_is_given_reads_what_the_surroundings_may_not(hub, monkeypatch):
    publish(picked(1), "me/rows", "best")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SuperfilterError, match="without a token"):
        load_subset("me/rows", "best")
    token = "hf_local_write"
    assert load_subset("me/rows", "best", token=token)["number"][:] == [1]
    assert load_rows("me/rows", config_name="best", token=token)["number"][:] == [1]
    assert [subset.name for subset in list_subsets("me/rows", token=token)] == ["best"]
    with pytest.raises(SuperfilterError, match="no recipe was recorded"):
        load_recipe("me/rows", "best", token=token)


def test_a_commit_is_a_text_that_may_stand_in_a_set(hub):
    first = publish(picked(0), "me/rows", name="a")
    second = publish(picked(1), "me/rows", name="b")
    assert len({first, second, str(first)}) == 2
    assert first == first.commit_url and first != second
