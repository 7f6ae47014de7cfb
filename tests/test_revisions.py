"""Immutable revisions: local folders by content, Hub names by commit, offline from the cache."""

import pytest

from hf_superfilter.revisions import resolve_revision


def test_a_folders_revision_changes_with_contents_and_names_only(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "a.txt").write_text("same")
    assert resolve_revision(str(one)) == resolve_revision(str(two))
    (two / "a.txt").rename(two / "b.txt")
    assert resolve_revision(str(one)) != resolve_revision(str(two))
    before = resolve_revision(str(one))
    (one / "a.txt").write_text("other")
    assert resolve_revision(str(one)) != before


def test_a_full_commit_is_its_own_revision():
    assert resolve_revision("org/model", "0123456789" * 4) == "0123456789" * 4


def test_offline_the_cache_says_which_commit_a_name_stands_for(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from hf_superfilter import revisions

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revisions._commit.cache_clear()
    refs = tmp_path / "models--org--cached" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc123")
    assert resolve_revision("org/cached") == "abc123"
    with pytest.raises(FileNotFoundError, match="cache holds no model"):
        resolve_revision("org/not-cached")


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name():
    with pytest.raises(FileNotFoundError, match="no folder"):
        resolve_revision("./not/here")


def test_without_a_network_the_cache_decides_as_it_does_offline(tmp_path):
    import os
    import subprocess
    import sys

    refs = tmp_path / "hub/models--org--cached/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc123")
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
    }
    program = "from hf_superfilter.revisions import resolve_revision as r; print(r('org/cached'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "abc123", done.stderr
