"""write_repo: the files that publish commits, in a folder; what was there before survives whatever
goes wrong.
"""

import resource
from contextlib import contextmanager

import pytest
from datasets import Dataset, load_dataset
from publishing import ONE_EACH, about_of, check_whole, commits_of, files_in, picked

from hf_superfilter import (
    Length,
    Recipe,
    TopK,
    list_subsets,
    load_recipe,
    load_subset,
    publish,
    select,
    write_repo,
)
from hf_superfilter.errors import SuperfilterError
from hf_superfilter.hub.front_matter import read_metadata
from hf_superfilter.hub.split_files import _selection_facts
from hf_superfilter.reports.summary import Summary


@contextmanager
def files_of_at_most(size):
    """A disk on which no file can grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_files_are_those_that_publish_commits(hub, tmp_path):
    selection = Recipe("embedded:sample", score=[Length()], select=[TopK("length", 20)]).run(
        tmp_path / "run"
    )
    for splits in ({"train": selection}, {"test": selection, "train": picked_like(selection)}):
        options = {"name": "best", "max_shard_bytes": 5_000}
        publish(splits, "me/rows", **options)
        folder = write_repo(splits, tmp_path / "me/rows", **options)
        there, here = commits_of(hub)[0], files_in(folder)
        assert sorted(here) == sorted(set(there) - {".gitattributes"})
        changing = {path for path in here if path.endswith(("facts.json", "README.md"))}
        assert {path for path in here if here[path] != there[path]} <= changing
        card, theirs = (read_metadata(files["README.md"].decode()) for files in (here, there))
        assert card == theirs
        assert list(check_whole(here)["best"]) == list(check_whole(there)["best"])


def picked_like(selection):
    return select(selection.table, TopK("length", 3), run=selection.run)


def test_a_folder_loads_by_name_and_like_a_repository(tmp_path):
    selection = Recipe("embedded:sample", score=[Length()], select=[TopK("length", 5)]).run(
        tmp_path / "run"
    )
    folder = write_repo(
        {"train": selection, "test": picked_like(selection)}, tmp_path / "repo", name="best"
    )
    write_repo(picked(3, 1), folder, name="more", max_shard_bytes=ONE_EACH)
    assert load_dataset(str(folder), "best")["test"].num_rows == 3
    assert load_dataset(str(folder), "more", split="train")["number"][:] == [3, 1]
    assert (
        load_dataset(str(folder), split="train").num_rows == load_subset(str(folder)).num_rows == 5
    )
    assert load_recipe(str(folder), split="test").select == (TopK("length", 3),)
    assert [(subset.name, subset.rows, subset.default) for subset in list_subsets(str(folder))] == [
        ("best", 8, True),
        ("more", 2, False),
    ]


def test_writing_again_gives_the_same_files_and_replaces_stale_shards(tmp_path):
    folder = write_repo(picked(1, 2, 3), tmp_path / "repo", name="best", max_shard_bytes=ONE_EACH)
    by_hand = (folder / "README.md").read_bytes() + b"\r\nBy hand.\r\n"
    (folder / "README.md").write_bytes(by_hand)
    before = files_in(folder)
    write_repo(picked(1, 2, 3), folder, name="best", max_shard_bytes=ONE_EACH)
    after = files_in(folder)
    assert {path for path in after if before[path] != after[path]} <= {
        about_of(after, "best", "train", "facts.json")
    }, "the time of day"
    write_repo(picked(4, 5), folder, name="best", max_shard_bytes=ONE_EACH)
    assert len([path for path in files_in(folder) if path.endswith(".parquet")]) == 2
    assert (folder / "README.md").read_bytes().endswith(b"\r\nBy hand.\r\n")
    assert load_subset(str(folder))["number"][:] == [4, 5]


def test_a_full_disk_leaves_what_was_there_and_writing_again_succeeds(tmp_path):
    folder = write_repo(picked(1), tmp_path / "repo", name="best")
    before = files_in(folder)
    large = picked(*range(2_000), dropped=0)
    for name in ("best", "new"):
        with pytest.raises(OSError, match="File too large"), files_of_at_most(12_000):
            write_repo(large, folder, name=name)
        assert files_in(folder) == before
        assert load_subset(str(folder))["number"][:] == [1]
    write_repo(large, folder, name="best")
    assert load_subset(str(folder)).num_rows == 2_000


def test_a_refusal_leaves_what_was_there(tmp_path):
    folder = write_repo({"train": picked(1), "test": picked(2)}, tmp_path / "repo", name="best")
    before = files_in(folder)
    for splits, name, said in (
        ({"train": picked(3), "test": picked(4, other=1)}, "best", "have different columns"),
        ({"train": picked(4, other=1)}, "best", "have different columns"),
        ({"train": picked(4)}, "default", "two default subsets"),
        ({"train": picked()}, "best", "nothing was kept"),
    ):
        with pytest.raises(ValueError, match=said):
            write_repo(splits, folder, name=name)
        assert files_in(folder) == before


def test_a_folder_that_is_not_of_ours_is_not_touched(tmp_path):
    notes = tmp_path / "src/train/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(
        ValueError, match=r"holds data, such as 'src/train/notes.txt', that its README.md does not"
    ):
        write_repo(picked(1), tmp_path, name="src")
    assert files_in(tmp_path) == {"src/train/notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (b"---\nconfigs: [\n---\n", "the YAML at the head of README.md is damaged"),
        (b"---\n- a\n---\n", "the YAML at the head of README.md is no mapping"),
        (b"\xff\xfe# Rows", "README.md is not UTF-8 text"),
        (
            b"---\nconfigs:\n- data_files: a\n---\n",
            "README.md has .* under 'configs', and needs a mapping with a config_name",
        ),
        (
            b"---\nconfigs: rows\n---\n",
            "README.md has 'rows' under 'configs', and needs a mapping with a config_name",
        ),
        (
            b"---\ndataset_info: rows\n---\n",
            "README.md has 'rows' under 'dataset_info', and needs a mapping: fix it",
        ),
    ],
)
def test_a_card_that_cannot_be_read_is_left_alone(tmp_path, card, said):
    (tmp_path / "README.md").write_bytes(card)
    with pytest.raises(ValueError, match=f"^{said}") as error:
        write_repo(picked(1), tmp_path, name="best")
    assert "\n" not in str(error.value)
    assert files_in(tmp_path) == {"README.md": card}


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_file_that_is_no_utf8_is_named_in_one_sentence(tmp_path, file):
    (tmp_path / file).write_bytes(b"configs: \xff\xfe")
    with pytest.raises(SuperfilterError, match=f"^{file} is not UTF-8 text") as error:
        write_repo(picked(1), tmp_path, name="best")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".write_repo.lock"] == [file]


def test_a_recorded_recipe_that_is_no_utf8_is_named_in_one_sentence(tmp_path):
    selection = Recipe("embedded:sample", [Length()], [TopK("length", 5)]).run(tmp_path / "run")
    (tmp_path / "run/recipe.yaml").write_bytes(b"dataset: \xff")
    with pytest.raises(SuperfilterError, match=r"recipe.yaml in .* is not UTF-8 text") as error:
        write_repo(selection, tmp_path / "repo", name="best")
    assert "\n" not in str(error.value)


def test_facts_are_made_without_a_trace_in_the_summary():
    selection = picked(1)
    summary = Summary(selection)
    before = [dict(step) for step in summary.steps]
    facts = _selection_facts(summary, {"created": None, "scorers": []})
    assert "entry" in facts["steps"][0]
    assert summary.steps == before


def test_pictures_that_are_files_go_into_the_rows(tmp_path):
    from datasets import Image, List
    from PIL import Image as Pillow

    for name, size in (("a.png", 2), ("b.png", 3)):
        Pillow.new("RGB", (size, size), "red").save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    table = Dataset.from_dict(
        {"picture": [*paths, None], "several": [paths, [], None], "x": [1, 2, 3]}
    )
    table = table.cast_column("picture", Image()).cast_column("several", List(Image()))
    folder = write_repo(select(table, TopK("x", 3)), tmp_path / "repo")
    for path in paths:
        (tmp_path / path).unlink()
    rows = load_dataset(str(folder), split="train")
    assert rows.features == table.features
    assert [row["picture"] and row["picture"].size for row in rows] == [None, (3, 3), (2, 2)]
    assert [picture.size for picture in rows[2]["several"]] == [(2, 2), (3, 3)]
    assert str(tmp_path).encode() not in b"".join(
        file.read_bytes() for file in folder.rglob("*.parquet")
    )


@pytest.mark.parametrize("size", [0, -1, 1.5, None, True])
def test_a_size_of_files_that_is_none_is_refused(hub, size):
    with pytest.raises(ValueError, match=r"^max_shard_bytes=.*: give a whole number of bytes"):
        publish(picked(1), "me/rows", max_shard_bytes=size)
    assert not hub.requests


def test_a_table_whose_rows_were_picked_and_sliced_keeps_its_order(tmp_path):
    table = Dataset.from_dict({"x": list(range(100))}).shuffle(seed=3).select(range(10, 60))
    selection = select(table, TopK("x", 7))
    folder = write_repo(selection, tmp_path / "repo", max_shard_bytes=16)
    rows = load_dataset(str(folder), split="train")
    assert rows["x"][:] == sorted(table["x"][:])[::-1][:7]
    assert len(list((folder / "__subsets__/default/train").glob("*/*.parquet"))) == 4
