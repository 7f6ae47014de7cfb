"""The metric as a Space: pushed in one commit, and loaded from there by evaluate."""

import re

import pytest

from hf_superfilter import metric_path, publish_metric, rank_consistency


def test_a_published_metric_is_loaded_from_its_space_and_gives_the_same_numbers(hub, command):
    import evaluate

    before = len(hub.log("POST", "/commit/"))
    code, out, _ = command("publish-metric", "me/rank_consistency")
    assert code == 0 and out.splitlines()[-1].startswith(
        f"{hub.url}/spaces/me/rank_consistency/commit/"
    )
    assert len(hub.log("POST", "/commit/")) == before + 1
    weak, strong = [0.1, 0.4, 0.3, 0.9, 0.5], [0.2, 0.3, 0.4, 0.8, 0.6]
    metric = evaluate.load("me/rank_consistency")
    found = metric.compute(predictions=weak, references=strong, budgets=(0.4,), resamples=50)
    assert (
        found["spearman"]
        == rank_consistency(weak, strong, budgets=(0.4,), resamples=50)["spearman"]
    )


def test_publishing_again_is_safe_and_a_lost_race_is_tried_again(hub):
    publish_metric("me/rank_consistency")
    hub.fail(412, times=2, path="/commit/")
    hub.commit("space", "me/rank_consistency", {"rank_consistency.py": "old"})
    publish_metric("me/rank_consistency")
    files = hub.files("space", "me/rank_consistency")
    assert b"class RankConsistency" in files["rank_consistency.py"] and "README.md" in files


@pytest.mark.parametrize(
    ("repo", "complaint"),
    [
        ("rank_consistency", "give 'user/name'"),
        ("me/consistency", "only in 'user/rank_consistency'"),
        ("other/rank_consistency", "your token may not write to"),
    ],
)
def test_a_space_that_cannot_be_is_one_sentence(hub, repo, complaint):
    with pytest.raises((ValueError, PermissionError), match=re.escape(complaint)):
        publish_metric(repo)


def test_the_path_of_an_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'rank_consistency'"):
        metric_path("rank_consistancy")
