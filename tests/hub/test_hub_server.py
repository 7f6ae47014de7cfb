"""The local Hub of the tests, through the real clients: nothing in them is replaced."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_session,
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

CARD = b"---\nlicense: mit\n---\n"


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def commit(id: str, files: dict[str, bytes], **options):
    """One create_commit of these files through the real client."""
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return HfApi().create_commit(
        id, operations, commit_message="A commit", repo_type="dataset", **options
    )


def status(error) -> int:
    return error.value.response.status_code


@pytest.fixture
def dataset(hub) -> str:
    """An empty data set repository of "me"."""
    return HfApi().create_repo("me/x", repo_type="dataset").repo_id


# Commits


def test_a_card_and_a_parquet_file_come_back_as_they_were_committed(hub, dataset):
    rows, head = parquet(a=[1, 2, 3]), hub.head("dataset", dataset)
    info = commit(dataset, {"README.md": CARD, "data/train.parquet": rows}, parent_commit=head)
    assert info.oid == hub.head("dataset", dataset)
    path = hf_hub_download(dataset, "data/train.parquet", repo_type="dataset")
    assert Path(path).read_bytes() == rows == hub.files("dataset", dataset)["data/train.parquet"]
    assert [made.title for made in hub.commits("dataset", dataset)] == [
        "A commit",
        "initial commit",
    ]
    assert len(hub.log("PUT")) == len(hub.log("POST", "/commit/")) == 1


def test_an_unchanged_file_is_neither_uploaded_nor_committed_again(hub, dataset):
    files = {"README.md": CARD, "a.parquet": parquet(a=[1])}
    assert commit(dataset, files).oid == commit(dataset, files).oid
    assert len(hub.log("PUT")) == len(hub.log("POST", "/commit/")) == 1


def test_files_are_deleted_and_copied_within_a_commit(hub, dataset):
    rows = parquet(a=[1])
    commit(dataset, {"old/a.txt": b"a", "old/b.txt": b"b", "one.txt": b"1", "a.parquet": rows})
    changes = [CommitOperationDelete("old/"), CommitOperationDelete("one.txt")]
    changes += [CommitOperationCopy("a.parquet", "b.parquet")]
    HfApi().create_commit(dataset, changes, commit_message="Tidy", repo_type="dataset")
    left = {".gitattributes", "a.parquet", "b.parquet"}
    assert hub.files("dataset", dataset).keys() == left
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist"):
        HfApi().delete_file("gone.txt", dataset, repo_type="dataset")
    assert hub.files("dataset", dataset).keys() == left


def test_a_lost_race_answers_412_and_changes_nothing(hub, dataset):
    start = hub.head("dataset", dataset)
    first = commit(dataset, {"a.txt": b"first"}, parent_commit=start)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        commit(dataset, {"a.txt": b"second", "b.txt": b"second"}, parent_commit=start)
    assert status(error) == 412
    assert hub.head("dataset", dataset) == first.oid
    assert hub.files("dataset", dataset)["a.txt"] == b"first"


def test_of_eight_commits_on_one_head_exactly_one_wins_each_round(hub, dataset):
    def attempt(number: int, head: str) -> int:
        try:
            commit(dataset, {f"{number}.txt": head.encode()}, parent_commit=head)
        except HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(8) as threads:
        for _ in range(4):
            head = hub.head("dataset", dataset)
            answers = list(threads.map(attempt, range(8), [head] * 8))
            assert sorted(answers) == [200] + [412] * 7
    assert len(hub.commits("dataset", dataset)) == 5


def test_a_file_that_was_not_uploaded_cannot_be_committed(hub, dataset):
    lines = [{"key": "header", "value": {"summary": "Half", "description": ""}}]
    lines += [
        {
            "key": "lfsFile",
            "value": {"path": "a.parquet", "algo": "sha256", "oid": "0" * 64, "size": 3},
        }
    ]
    url = f"{hub.url}/api/datasets/{dataset}/commit/main"
    body = "\n".join(map(json.dumps, lines)).encode()
    answer = get_session().post(
        url, content=body, headers={"Authorization": "Bearer hf_local_write"}
    )
    assert (answer.status_code, "not been uploaded" in answer.json()["error"]) == (400, True)
    assert len(hub.commits("dataset", dataset)) == 1


def test_a_card_that_is_not_yaml_is_refused(hub, dataset):
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        commit(dataset, {"README.md": b"---\na: [\n---\n"})
    assert len(hub.commits("dataset", dataset)) == 1


# Names of commits


def test_a_pull_request_leaves_main_alone_until_it_is_merged(hub, dataset):
    head = hub.head("dataset", dataset)
    info = commit(dataset, {"a.txt": b"proposed"}, create_pr=True)
    assert (info.pr_revision, hub.head("dataset", dataset)) == ("refs/pr/1", head)
    commit(dataset, {"b.txt": b"more"}, revision=info.pr_revision)
    path = hf_hub_download(dataset, "a.txt", repo_type="dataset", revision="refs/pr/1")
    assert Path(path).read_text() == "proposed"
    refs = HfApi().list_repo_refs(dataset, repo_type="dataset", include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]
    HfApi().merge_pull_request(dataset, 1, repo_type="dataset")
    assert hub.files("dataset", dataset)["b.txt"] == b"more"


def test_anyone_may_open_a_pull_request_and_update_their_own(hub, dataset):
    theirs = HfApi(token="hf_other_write")
    one, two = ([CommitOperationAdd(f"{name}.parquet", parquet(a=[name]))] for name in "ab")
    options = {"commit_message": "Proposal", "repo_type": "dataset"}
    info = theirs.create_commit(dataset, one, create_pr=True, **options)
    theirs.create_commit(dataset, two, revision=info.pr_revision, **options)
    assert hub.files("dataset", dataset, "refs/pr/1").keys() == {
        ".gitattributes",
        "a.parquet",
        "b.parquet",
    }
    assert hub.files("dataset", dataset).keys() == {".gitattributes"}


def test_branches_and_tags_name_commits(hub, dataset):
    api, first = HfApi(), hub.head("dataset", dataset)
    api.create_tag(dataset, tag="v1", repo_type="dataset")
    api.create_branch(dataset, branch="work/one", repo_type="dataset")
    new = commit(dataset, {"a.txt": b"a"}, revision="work/one").oid
    assert hub.head("dataset", dataset) == api.dataset_info(dataset, revision="v1").sha == first
    assert api.dataset_info(dataset, revision="work/one").sha == new
    assert [
        made.commit_id for made in api.list_repo_commits(dataset, repo_type="dataset", revision=new)
    ] == [
        new,
        first,
    ]
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(dataset, branch="work/one", repo_type="dataset")
    assert status(error) == 409
    api.create_branch(dataset, branch="work/one", repo_type="dataset", exist_ok=True)
    api.delete_branch(dataset, branch="work/one", repo_type="dataset")
    api.delete_tag(dataset, tag="v1", repo_type="dataset")
    refs = api.list_repo_refs(dataset, repo_type="dataset")
    assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])


# Who may do what


def test_creating_what_exists_answers_409_unless_that_is_fine(hub, dataset):
    with pytest.raises(HfHubHTTPError, match="already created") as error:
        HfApi().create_repo(dataset, repo_type="dataset")
    assert status(error) == 409
    assert HfApi().create_repo(dataset, repo_type="dataset", exist_ok=True).repo_id == dataset
    assert HfApi().create_repo("me/x").repo_type == "model"


def test_a_private_repository_is_invisible_to_others(hub):
    HfApi().create_repo("me/secret", repo_type="dataset", private=True)
    assert HfApi().dataset_info("me/secret").private
    HfApi(token="hf_local_read").auth_check("me/secret", repo_type="dataset")
    for token, answer in (("hf_other_write", 404), (False, 401)):
        with pytest.raises(RepositoryNotFoundError) as error:
            HfApi(token=token).dataset_info("me/secret")
        assert status(error) == answer
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("me/secret", "README.md", repo_type="dataset", token=token)


def test_writing_needs_a_token_that_may_write_there(hub, dataset):
    operations = [CommitOperationAdd("a.txt", b"a")]
    for token, answer, reason in (
        ("hf_local_read", 403, "read-only"),
        ("hf_other_write", 403, "not yours"),
        ("hf_unknown", 401, "Invalid credentials"),
        (False, 401, "Invalid username or password"),
    ):
        with pytest.raises(HfHubHTTPError, match=reason) as error:
            HfApi(token=token).create_commit(
                dataset, operations, commit_message="No", repo_type="dataset"
            )
        assert status(error) == answer
    with pytest.raises(HfHubHTTPError, match="under the namespace 'other'"):
        HfApi().create_repo("other/x")
    assert len(hub.commits("dataset", dataset)) == 1


def test_what_is_missing_is_told_apart(hub, dataset):
    with pytest.raises(RepositoryNotFoundError):
        HfApi().dataset_info("me/none")
    with pytest.raises(RevisionNotFoundError):
        HfApi().dataset_info(dataset, revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(dataset, "none.txt", repo_type="dataset")
    assert not HfApi().repo_exists("gpt2") and not HfApi().file_exists(
        dataset, "none.txt", repo_type="dataset"
    )
    with pytest.raises(RepositoryNotFoundError):
        HfApi().delete_repo("me/none", repo_type="dataset")


# What goes wrong


def test_an_upload_that_is_cut_is_tried_again_and_committed_once(hub, dataset):
    rows = parquet(a=list(range(100_000)))
    hub.drop("/_lfs/", after_bytes=50_000, method="PUT")
    commit(dataset, {"a.parquet": rows})
    assert [answer for _, _, answer in hub.log("PUT")] == [0, 200]
    assert hub.files("dataset", dataset)["a.parquet"] == rows
    assert len(hub.commits("dataset", dataset)) == 2


def test_a_download_that_is_cut_is_whole_in_the_end(hub, dataset):
    commit(dataset, {"a.parquet": bytes(300_000)})
    hub.drop("a.parquet", after_bytes=100_000, method="GET")
    path = hf_hub_download(dataset, "a.parquet", repo_type="dataset")
    assert Path(path).read_bytes() == bytes(300_000)
    assert [answer for _, _, answer in hub.log("GET", "a.parquet")] == [0, 200]


def test_a_commit_may_have_happened_though_its_answer_was_lost(hub, dataset):
    hub.drop("/commit/", handled=True)
    with pytest.raises(Exception, match="disconnected"):
        commit(dataset, {"a.txt": b"a"})
    assert hub.files("dataset", dataset)["a.txt"] == b"a"


def test_asked_for_failures_come_as_often_as_asked(hub, dataset):
    hub.fail(412, times=2, path="/commit/")
    hub.fail(409, path="/commit/", message="Another commit is in progress")
    seen = []
    for _ in range(4):
        try:
            commit(dataset, {"a.txt": b"a"})
        except HfHubHTTPError as error:
            seen.append(error.response.status_code)
    assert seen == [412, 412, 409]
    hub.fail(500, path="/preupload/")
    commit(dataset, {"b.txt": b"b"})  # the client tries again by itself
    assert [answer for _, _, answer in hub.log(path="/preupload/")][-2:] == [500, 200]


def test_writes_are_refused_and_reads_are_not(hub, dataset):
    hub.refuse_writes = True
    with pytest.raises(HfHubHTTPError, match="switched off") as error:
        commit(dataset, {"a.txt": b"a"})
    assert status(error) == 403
    assert HfApi().dataset_info(dataset).sha == hub.head("dataset", dataset)


def test_someone_else_commits_just_before(hub, dataset):
    hub.delay(0.2, path="/commit/", times=1)
    hub.before(lambda: hub.commit("dataset", dataset, {"theirs.txt": "first"}), path="/commit/")
    start = time.monotonic()
    with pytest.raises(HfHubHTTPError) as error:
        commit(dataset, {"ours.txt": b"second"}, parent_commit=hub.head("dataset", dataset))
    assert status(error) == 412
    assert time.monotonic() - start > 0.2
    assert hub.files("dataset", dataset).keys() == {".gitattributes", "theirs.txt"}


def test_it_goes_away_and_comes_back_with_what_it_held(hub, dataset):
    hub.stop()
    with pytest.raises(Exception, match="refused"):
        HfApi().dataset_info(dataset)
    hub.start()
    assert HfApi().dataset_info(dataset).sha == hub.head("dataset", dataset)
