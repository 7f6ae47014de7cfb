"""publish through the real clients against the local Hub: one whole commit, whoever else commits
meanwhile.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from publishing import ONE_EACH, about_of, check_whole, commits_of, picked, rows_in

from hf_superfilter import TopK, hub_client, list_subsets, load_subset, publish, select

EIGHT = range(8)
SHARD = "00000-of-00001.parquet"


def numbers_of(repo="me/rows", name=None, **options):
    return load_dataset(repo, name, split=options.pop("split", "train"), **options)["number"][:]


def puts(hub):
    return [path for _, path, status in hub.log("PUT", "/_lfs/") if status == 200]


def commits_asked_for(hub):
    return hub.log("POST", "/commit/")


# One commit


@pytest.mark.parametrize("shards", [1, 60])
def test_a_selection_makes_the_round_trip_in_one_commit_best_row_first(hub, shards):
    order = [(7 * number) % 60 for number in range(60)]
    url = publish(
        picked(*order), "me/rows", name="best", max_shard_bytes=ONE_EACH if shards == 60 else 10**9
    )
    tree, first = commits_of(hub)
    assert len([path for path in tree if path.endswith(".parquet")]) == shards
    assert list(first) == [".gitattributes"], "the repository as the Hub makes it, then one commit"
    assert url == f"{hub.url}/datasets/me/rows/commit/{hub.head('dataset', 'me/rows')}"
    assert len(puts(hub)) == shards
    assert check_whole(tree)["best"]["train"] == [
        {"number": number, "who": "a"} for number in order
    ]
    assert numbers_of(name="best") == load_subset("me/rows", "best")["number"][:] == order


def test_pictures_report_and_facts_are_in_the_same_commit(hub):
    table = Dataset.from_dict({"x": list(range(20)), "response": [str(x) for x in range(20)]})
    publish(select(table, TopK("x", 5)), "me/rows", name="best")
    tree = commits_of(hub)[0]
    about = [
        about_of(tree, "best", "train", file)
        for file in ("facts.json", "report.html", "scores.png", "lengths.png")
    ]
    shard = about[0].replace("__about__", "__subsets__").replace("facts.json", SHARD)
    assert {path for path in tree if not path.startswith(".")} == {"README.md", shard, *about}
    assert len(puts(hub)) == 3, "the rows and two pictures"


@pytest.mark.parametrize("failures", [(412, 412), (409,), (500,), (503, 409, 412)])
def test_a_commit_that_is_refused_a_few_times_arrives_once_and_its_data_is_uploaded_once(
    hub, failures
):
    for status in failures:
        hub.fail(status, path="/commit/")
    publish(picked(3, 1, 2), "me/rows", name="best", max_shard_bytes=ONE_EACH)
    assert [status for *_, status in commits_asked_for(hub)] == [*failures, 200]
    assert len(puts(hub)) == 3
    assert len(commits_of(hub)) == 2
    assert numbers_of(name="best") == [3, 1, 2]


def test_a_connection_that_breaks_in_the_middle_of_an_upload_is_taken_up_again(hub):
    hub.drop("/_lfs/", method="PUT", after_bytes=100)
    publish(picked(3, 1, 2), "me/rows", name="best", max_shard_bytes=ONE_EACH)
    assert len(puts(hub)) == 3
    assert check_whole(commits_of(hub)[0])["best"]["train"][0]["number"] == 3


@pytest.mark.parametrize(
    "path", ["/resolve/", "/api/datasets/me/rows$", "/preupload/", "/lfs/objects/batch"]
)
def test_a_connection_that_breaks_on_the_way_to_the_commit_is_taken_up_again(hub, path):
    publish(picked(1), "me/rows", name="one")
    hub.drop(path, after_bytes=20)
    publish(picked(2), "me/rows", name="two")
    assert list(check_whole(commits_of(hub)[0])) == ["one", "two"]


def test_an_answer_that_is_lost_after_the_commit_makes_no_second_commit(hub):
    hub.drop("/commit/", handled=True)
    url = publish(picked(3, 1, 2), "me/rows", name="best")
    assert len(commits_of(hub)) == 2
    assert url.endswith(hub.head("dataset", "me/rows"))
    publish(picked(5), "me/rows", name="best")
    hub.drop("/commit/", handled=True)
    publish(picked(6, 7), "me/rows", name="best", max_shard_bytes=ONE_EACH)
    assert len(commits_of(hub)) == 4
    assert [row["number"] for row in check_whole(commits_of(hub)[0])["best"]["train"]] == [6, 7]


def test_a_network_that_dies_before_the_commit_leaves_the_old_version_and_a_retry_succeeds(
    hub,
):
    publish(picked(1), "me/rows", name="best")
    old = hub.head("dataset", "me/rows")
    hub.drop("/commit/", times=5)
    with pytest.raises(
        ConnectionError, match=r"^the connection to the Hub broke .* run it again"
    ) as error:
        publish(picked(2, 3), "me/rows", name="best")
    assert "\n" not in str(error.value)
    assert hub.head("dataset", "me/rows") == old
    assert numbers_of(name="best") == [1]
    uploaded = len(puts(hub))
    publish(picked(2, 3), "me/rows", name="best")
    assert len(puts(hub)) == uploaded, "the data lay there already"
    assert numbers_of(name="best") == [2, 3]


# Races


@pytest.fixture
def waits(hub, monkeypatch):
    """Let clients wait as long as a user's: eight at once have to get out of each other's way."""
    monkeypatch.setattr(hub_client, "WAIT", 0.2)


def publish_together(*calls):
    """Run publishers at once, each a dict of arguments; all start together."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return publish(call.pop("selection"), "me/rows", **call)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def test_eight_publishers_at_once_lose_nothing_and_every_commit_is_whole(hub, waits):
    urls = publish_together(
        *(
            {
                "selection": picked(*range(i + 1), who=f"w{i}"),
                "name": f"n{i}",
                "max_shard_bytes": 20,
            }
            for i in EIGHT
        )
    )
    trees = commits_of(hub)[:-1]
    assert len(set(urls)) == len(trees) == 8
    for count, tree in zip(range(8, 0, -1), trees, strict=True):
        assert len(check_whole(tree)) == count, (
            "each commit adds one subset and keeps those before it"
        )
    for name, splits in check_whole(trees[0]).items():
        assert splits == {
            "train": [{"number": n, "who": f"w{name[1:]}"} for n in range(int(name[1:]) + 1)]
        }
    assert [load_dataset("me/rows", f"n{i}", split="train").num_rows for i in EIGHT] == [
        i + 1 for i in EIGHT
    ]
    assert [subset.default for subset in list_subsets("me/rows")] == [True] + [False] * 7


def test_eight_splits_of_one_name_published_at_once_are_all_there(hub, waits):
    publish_together(*({"selection": {f"s{i}": picked(i, i + 1)}, "name": "best"} for i in EIGHT))
    loaded = load_dataset("me/rows", "best")
    assert {split: rows["number"][:] for split, rows in loaded.items()} == {
        f"s{i}": [i, i + 1] for i in EIGHT
    }
    assert [len(check_whole(tree)["best"]) for tree in commits_of(hub)[:-1]] == list(
        range(8, 0, -1)
    )


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_eight_publishers_of_one_name_leave_it_whole_after_every_commit(hub, waits, there):
    if there:
        publish(picked(*range(5), who="first"), "me/rows", name="best", max_shard_bytes=ONE_EACH)
    mine = {f"w{i}": list(range(i % 4 + 1)) for i in EIGHT} | {"first": list(range(5))}
    calls = [{"selection": picked(*mine[f"w{i}"], who=f"w{i // 4}"), "name": "best"} for i in EIGHT]
    publish_together(*({**call, "max_shard_bytes": ONE_EACH} for call in calls))
    trees = commits_of(hub)[:-1]
    assert len(trees) == 8 + there
    for tree in trees:
        rows = check_whole(tree)["best"]["train"]
        assert len({row["who"] for row in rows}) == 1, "rows of two publishers"
    assert numbers_of(name="best") == [
        row["number"] for row in check_whole(trees[0])["best"]["train"]
    ]


def test_a_file_that_another_replaced_meanwhile_is_committed_again(hub):
    """The client leaves out what is on the Hub already: what was there when it looked, not when it
    commits.
    """
    publish(picked(1, 2, who="x"), "me/rows", name="best")
    hub.before(
        lambda: publish(picked(8, 9, who="y"), "me/rows", name="best"),
        path="/commit/",
        method="POST",
    )
    publish(picked(1, 2, who="x", dropped=3), "me/rows", name="best")
    assert [status for *_, status in commits_asked_for(hub)] == [200, 200, 412, 200]
    assert check_whole(commits_of(hub)[0])["best"]["train"][0] == {"number": 1, "who": "x"}
    assert numbers_of(name="best") == [1, 2]


def test_a_subset_that_another_publishes_meanwhile_is_in_the_card_too(hub):
    hub.before(lambda: publish(picked(8), "me/rows", name="theirs"), path="/commit/", method="POST")
    publish(picked(1), "me/rows", name="mine")
    assert list(check_whole(commits_of(hub)[0])) == ["theirs", "mine"]
    assert numbers_of() == [8], "the first that was there is the default"


# Publishing again


HEAD = """---
# who made this
license: mit  # really
language: no
pretty_name: "Rows: of all sorts"
annotations_creators:
- 'no'   # Norwegian

thumbnail: |
  first

    second
  # no comment
extra_gated_prompt: >-
  you
  agree
configs:
- config_name: theirs
  data_files:
  - split: train
    path: other/*.parquet
  default: true
  sep: "\\t"
  version: 1.10.0
my_list: [1, 0x1F, no, 1.50]
---
"""
TITLE, MIDDLE, LAST = (
    "# Rows\r\n\r\nBy  hand,\twith a trailing blank: \n",
    "\nBetween.\n\n---\n\n",
    "\n\n<b>After</b>\n\n\n",
)
FOREIGN = [
    '# who made this\nlicense: mit  # really\nlanguage: no\npretty_name: "Rows: of all sorts"\n',
    "annotations_creators:\n- 'no'   # Norwegian\n\nthumbnail: |\n  first\n\n    second\n  # no "
    "comment\n",
    "extra_gated_prompt: >-\n  you\n  agree\n",
    "my_list: [1, 0x1F, no, 1.50]\n",
]


def parquet_of(selection):
    import io

    buffer = io.BytesIO()
    selection.subset.to_parquet(buffer)
    return buffer.getvalue()


def card_of(hub, repo="me/rows", revision="main"):
    return hub.files("dataset", repo, revision)["README.md"].decode()


def test_publishing_again_replaces_the_shards_and_leaves_all_that_is_foreign_byte_for_byte(hub):
    hub.commit(
        "dataset",
        "me/rows",
        {"README.md": HEAD + TITLE, "other/a.parquet": parquet_of(picked(5, who="t"))},
    )
    publish(picked(1, 2, 3), "me/rows", name="one", max_shard_bytes=ONE_EACH)
    hub.commit("dataset", "me/rows", {"README.md": card_of(hub) + MIDDLE})
    publish(picked(4), "me/rows", name="two")
    hub.commit("dataset", "me/rows", {"README.md": card_of(hub) + LAST})
    before = card_of(hub)
    publish(picked(9, 8), "me/rows", name="one", max_shard_bytes=ONE_EACH)
    after, tree = card_of(hub), commits_of(hub)[0]
    shards = [path.split("/")[-1] for path in tree if path.startswith("__subsets__/one/train/")]
    assert sorted(shards) == ["00000-of-00002.parquet", "00001-of-00002.parquet"]
    for text in (before, after):
        for part in FOREIGN:
            assert part in text
        body = text.split("---\n", 2)[2]
        outside = [
            part.split("<!-- /hf_superfilter")[-1].split(" -->\n")[-1]
            for part in body.split("<!-- hf_superfilter: ")
        ]
        assert [outside[0], outside[1], outside[2]] == [TITLE + "\n", MIDDLE, LAST]
    theirs = HfApi().dataset_info("me/rows").card_data["configs"][0]
    assert theirs == {
        "config_name": "theirs",
        "data_files": [{"split": "train", "path": "other/*.parquet"}],
        "default": True,
        "sep": "\t",
        "version": "1.10.0",
    }
    assert (numbers_of(name="one"), numbers_of(name="two"), numbers_of()) == ([9, 8], [4], [5])
    section_of_two = before[
        before.index("<!-- hf_superfilter: two/") : before.index("<!-- /hf_superfilter: two/")
    ]
    assert section_of_two in after


def test_a_key_of_ours_that_somebody_added_to_a_subset_stays(hub):
    publish(picked(1), "me/rows", name="one")
    card = card_of(hub).replace(
        "- config_name: one\n", "- config_name: one\n  version: 2.0.0\n  drop_labels: false\n"
    )
    hub.commit("dataset", "me/rows", {"README.md": card})
    publish(picked(2), "me/rows", name="one")
    (config,) = HfApi().dataset_info("me/rows").card_data["configs"]
    assert (config["version"], config["drop_labels"], config["default"]) == ("2.0.0", False, True)


def test_what_datasets_pushed_stays_beside_what_is_published(hub):
    Dataset.from_dict({"number": [5]}).push_to_hub("me/rows", "pushed", set_default=True)
    Dataset.from_dict({"number": [6]}).push_to_hub("me/rows", "pushed_too", split="test")
    publish(picked(1), "me/rows", name="mine")
    assert numbers_of() == numbers_of(name="pushed") == [5]
    assert numbers_of(name="pushed_too", split="test") == [6]
    assert numbers_of(name="mine") == [1]
    Dataset.from_dict({"number": [7]}).push_to_hub("me/rows", "pushed")
    assert numbers_of(name="mine") == [1]


def test_a_subset_that_datasets_pushed_under_the_same_name_is_refused(hub):
    Dataset.from_dict({"number": [5]}).push_to_hub("me/rows", "best")
    head = hub.head("dataset", "me/rows")
    with pytest.raises(
        ValueError, match=r"subset 'best' that was not published by hf_superfilter: choose another"
    ):
        publish(picked(1), "me/rows", name="best")
    assert hub.head("dataset", "me/rows") == head
    assert numbers_of(name="best") == [5]


def test_files_that_no_card_names_are_neither_deleted_nor_mixed_in(hub):
    publish(picked(4), "me/rows", name="other")
    hub.commit(
        "dataset",
        "me/rows",
        {
            "best/train/notes.md": "mine",
            "best/train/old.parquet": parquet_of(picked(5)),
            "__subsets__/best/train/old.parquet": parquet_of(picked(6)),
        },
    )
    before = commits_of(hub)[0]
    for number in (1, 2):
        publish(picked(number), "me/rows", name="best")
        assert numbers_of(name="best") == [number]
    assert before.items() - commits_of(hub)[0].items() == {("README.md", before["README.md"])}


@pytest.mark.parametrize("file", ["train.parquet", "data/train-00000.jsonl", "rows.csv.gz"])
def test_data_that_no_card_names_is_not_hidden(hub, file):
    hub.commit("dataset", "me/rows", {file: b"{}", "README.md": "# By hand\n"})
    head = hub.head("dataset", "me/rows")
    with pytest.raises(
        ValueError, match="does not name under 'configs': a subset named there would hide it"
    ):
        publish(picked(1), "me/rows", name="best")
    assert hub.head("dataset", "me/rows") == head


def test_a_second_default_is_refused(hub):
    publish(picked(1), "me/rows", name="best")
    head = hub.head("dataset", "me/rows")
    with pytest.raises(
        ValueError, match="two default subsets, 'best' and 'default', and load neither"
    ):
        publish(picked(2), "me/rows")
    assert hub.head("dataset", "me/rows") == head
    publish(picked(2), "me/rows", name="better", set_default=True)
    assert (numbers_of(), numbers_of(name="best")) == ([2], [1])


def test_a_card_that_makes_no_sense_is_left_alone(hub):
    hub.commit("dataset", "me/rows", {"README.md": "---\nconfigs:\n- data_files: a\n---\n"})
    with pytest.raises(
        ValueError,
        match=r"^README\.md has .* under 'configs', and needs a mapping with a config_name",
    ):
        publish(picked(1), "me/rows", name="best")
    assert len(commits_of(hub)) == 2


# Splits, branches, pull requests


def test_several_splits_go_into_one_commit_and_one_of_them_is_replaced_alone(hub):
    publish(
        {"train": picked(1, 2), "test": picked(3)}, "me/rows", name="best", max_shard_bytes=ONE_EACH
    )
    assert len(commits_of(hub)) == 2
    loaded = load_dataset("me/rows", "best")
    assert {split: rows["number"][:] for split, rows in loaded.items()} == {
        "train": [1, 2],
        "test": [3],
    }
    publish({"test": picked(4, 5)}, "me/rows", name="best", max_shard_bytes=ONE_EACH)
    assert check_whole(commits_of(hub)[0])["best"]["train"] == rows_in(
        commits_of(hub)[1], "__subsets__/best/train/*/*.parquet"
    )
    assert [numbers_of(name="best", split=split) for split in ("train", "test")] == [[1, 2], [4, 5]]
    assert load_subset("me/rows", split="test")["number"][:] == [4, 5]


def test_splits_with_different_columns_are_refused(hub):
    other = picked(3, extra=1.5)
    with pytest.raises(
        ValueError, match="splits 'train' and 'test' of 'best' have different columns"
    ):
        publish({"train": picked(1), "test": other}, "me/rows", name="best")
    publish({"train": picked(1)}, "me/rows", name="best")
    with pytest.raises(
        ValueError, match="splits 'train' and 'test' of 'best' have different columns"
    ):
        publish({"test": other}, "me/rows", name="best")
    assert list(check_whole(commits_of(hub)[0])["best"]) == ["train"]


def test_a_repository_made_now_is_private_and_one_that_exists_stays_as_it_is(hub):
    publish(picked(1), "me/rows")
    publish(picked(1), "me/public", private=False)
    publish(picked(2), "me/public", private=True)
    assert [HfApi().dataset_info(repo).private for repo in ("me/rows", "me/public")] == [
        True,
        False,
    ]


def test_a_pull_request_leaves_main_as_it_is_until_it_is_merged(hub):
    publish(picked(1), "me/rows", name="best")
    old = hub.head("dataset", "me/rows")
    url = publish(picked(2, 3), "me/rows", name="best", create_pr=True)
    assert hub.head("dataset", "me/rows") == old
    assert url.endswith(hub.head("dataset", "me/rows", "refs/pr/1"))
    assert numbers_of(name="best") == [1]
    assert numbers_of(name="best", revision="refs/pr/1") == [2, 3]
    publish(picked(4), "me/rows", name="more", revision="refs/pr/1")
    HfApi().merge_pull_request("me/rows", 1, repo_type="dataset")
    assert list(check_whole(commits_of(hub)[0])) == ["best", "more"]
    assert (numbers_of(name="best"), numbers_of(name="more")) == ([2, 3], [4])


def test_anyone_may_propose_a_subset_for_somebody_elses_public_repository(hub):
    hub.commit("dataset", "other/rows", {"README.md": "# Theirs\n"})
    publish(picked(1), "other/rows", name="best", create_pr=True)
    assert numbers_of("other/rows", "best", revision="refs/pr/1") == [1]
    assert len(commits_of(hub, "other/rows")) == 2


def test_a_branch_is_made_if_need_be_and_tags_and_commits_load_what_they_stand_for(hub):
    publish(picked(1), "me/rows", name="best")
    HfApi().create_tag("me/rows", tag="v1", repo_type="dataset")
    publish(picked(2), "me/rows", name="best", revision="trial")
    publish(picked(3), "me/rows", name="best", revision="trial")
    sha = hub.commits("dataset", "me/rows", "trial")[1].sha
    publish(picked(4), "me/rows", name="best")
    for revision, number in (("v1", 1), (sha, 2), ("trial", 3), (None, 4), ("main", 4)):
        assert numbers_of(name="best", revision=revision) == [number]
        assert load_subset("me/rows", "best", revision=revision)["number"][:] == [number]


def test_a_subset_is_streamed_in_its_order(hub):
    publish(picked(5, 3, 4, 1), "me/rows", name="best", max_shard_bytes=ONE_EACH)
    rows = load_dataset("me/rows", "best", split="train", streaming=True)
    assert [row["number"] for row in rows] == [5, 3, 4, 1]


def test_publish_says_what_it_does_before_it_does_it(hub, capsys):
    said = []
    hub.before(lambda: said.append(capsys.readouterr().out), path="/api/repos/create")
    publish({"train": picked(1, 2), "test": picked(3)}, "me/rows", name="best", private=False)
    (text,) = said
    assert "publish 'best' to me/rows (main; a new repository is PUBLIC):" in text
    assert "split train: 2 of 4 rows, columns number, who" in text
    assert "split test: 1 of 3 rows" in text
    assert "WARNING: the licence of the source is not known" in text
    files = len([path for path in commits_of(hub)[0] if not path.startswith(".")])
    assert f"{files} files, 0.0 MB, in one commit" in text
