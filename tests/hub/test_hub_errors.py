"""What the Hub refuses or fails: retried where it passes, else one sentence."""

import time

import pytest
from huggingface_hub import constants
from publishing import check_whole, commits_of, picked, state_of

from hf_superfilter import list_subsets, load_recipe, load_subset, publish
from hf_superfilter.errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    NotFoundError,
    SuperfilterError,
)

READERS = {"load_subset": load_subset, "list_subsets": list_subsets, "load_recipe": load_recipe}
TRANSIENT = (429, 500, 503, "drop")


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def published(hub):
    """The local Hub with one subset on it."""
    publish(picked(1), "me/rows", name="best", private=False)
    hub.requests.clear()
    return hub


def fault_at(hub, kind, position, times=1):
    if kind == "drop":
        hub.drop(times=times, skip=position)
    else:
        hub.fail(kind, times=times, skip=position)


# Five sentences


@pytest.mark.parametrize("reader", READERS)
def test_gated_private_missing_rate_limited_and_offline_are_five_sentences(
    published, monkeypatch, quick, reader
):
    read, sentences = READERS[reader], {}

    def sentence_of(kind, repo_id="me/rows"):
        with pytest.raises(kind) as error:
            read(repo_id)
        published.faults.clear()
        assert "\n" not in str(error.value)
        return str(error.value)

    published.fail(403, times=99, code="GatedRepo")
    sentences["gated"] = sentence_of(HubAccessError)
    published.fail(429, times=999)
    sentences["limited"] = sentence_of(HubError)
    sentences["missing"] = sentence_of(HubNotFoundError, "me/nothing")
    published.commit("dataset", "other/secret", {"README.md": "# Secret\n"}, private=True)
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        patch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
        sentences["private"] = sentence_of(HubNotFoundError, "other/secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sentences["offline"] = sentence_of(HubNotFoundError, "me/nothing")
    assert len(set(sentences.values())) == 5
    assert "is gated: accept its conditions" in sentences["gated"]
    assert "takes no more requests" in sentences["limited"]
    assert sentences["missing"].startswith("the Hub has no data set 'me/nothing': check the name")
    assert "without a token: it is private, or there is none" in sentences["private"]
    assert "the Hub cannot be reached, and the cache holds no" in sentences["offline"]


def test_the_list_is_that_of_the_cached_card_when_offline(published, monkeypatch):
    assert load_subset("me/rows")["number"][:] == [1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (subset,) = list_subsets("me/rows")
    assert (subset.name, subset.rows, subset.default, subset.share) == ("best", 1, True, None)


def test_an_error_at_the_upload_is_one_sentence_without_the_signed_address(published, quick):
    published.fail(403, path="/_lfs/", times=99, message="Signature expired")
    before = state_of(published)
    with pytest.raises(HubAccessError) as error:
        publish(picked(2), "me/rows", name="best")
    assert "\n" not in str(error.value)
    assert "/_lfs/" not in str(error.value)
    assert state_of(published) == before


# Every request


@pytest.mark.parametrize("kind", TRANSIENT)
def test_what_passes_is_retried_wherever_it_happens(published, quick, kind):
    for position in range(99):
        fault_at(published, kind, position)
        assert [subset.name for subset in list_subsets("me/rows")] == ["best"]
        if any(fault.times for fault in published.faults):
            break  # there are no more requests
    assert position >= 2


@pytest.mark.parametrize("kind", [401, 403])
def test_a_refusal_is_never_retried(published, quick, kind):
    published.fail(kind, times=99)
    with pytest.raises(HubAccessError):
        list_subsets("me/rows")
    assert [status for *_, status in published.requests] == [kind]


def test_what_does_not_pass_ends_after_some_tries(published, quick):
    for kind in TRANSIENT:
        fault_at(published, kind, 0, times=999)
        published.requests.clear()
        with pytest.raises((HubError, NotFoundError)):
            list_subsets("me/rows")
        published.faults.clear()
        assert 5 <= len(published.requests) <= 40


def test_a_data_file_that_the_hub_never_gives_is_not_asked_for_in_two_loops(published, quick):
    published.fail(503, path=r"\.parquet$", times=999)
    with pytest.raises((HubError, NotFoundError)) as error:
        load_subset("me/rows")
    assert "\n" not in str(error.value)
    assert len([path for _, path, _ in published.requests if path.endswith(".parquet")]) <= 5 * 7


CALLS = {
    "list_subsets": lambda: list_subsets("me/rows"),
    "load_subset": lambda: load_subset("me/rows", "best"),
    "publish": lambda: publish(picked(2, 3), "me/rows", name="best"),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_the_fault_walk_over_every_request(hub, quick, monkeypatch, tmp_path, call):
    """Fail each request once in each way; print what came of it."""
    import datasets

    table, number = [], 0

    def fresh():
        nonlocal number
        number += 1
        hub.reset()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"hub{number}"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"ds{number}")
        publish(picked(1), "me/rows", name="best", private=False)
        hub.requests.clear()

    fresh()
    CALLS[call]()
    positions = len(hub.requests)
    for position in range(positions):
        for kind in (*TRANSIENT, 401, 403):
            fresh()
            before = state_of(hub)
            fault_at(hub, kind, position)
            try:
                CALLS[call]()
                outcome = "done"
            except SuperfilterError as error:
                outcome = f"refused: {error}"
                assert "\n" not in outcome
                if kind in (401, 403):
                    assert state_of(hub) == before or call != "publish"
            path = hub.requests[position][1] if position < len(hub.requests) else "?"
            table.append((position, kind, path, outcome))
            assert kind in (401, 403) or outcome == "done", table[-1]
            check_whole(commits_of(hub)[0])
    print(f"\n{call}: {positions} requests")
    for row in table:
        print(*row, sep="  ")
