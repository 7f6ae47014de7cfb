"""Small selections, and a check that a commit is complete, for tests of published subsets."""

import io
import json
import re
from fnmatch import fnmatch

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from hf_superfilter import Selection, select
from hf_superfilter.hub.front_matter import read_metadata

ONE_EACH = 1  # max_shard_bytes that makes one file of every row


def picked(*numbers: int, who: str = "a", dropped: int = 2, **columns) -> Selection:
    """A selection of rows with these numbers, in this order, out of more; no run, no score, no
    pictures.
    """
    everything = sorted({*numbers, *range(1_000_001, 1_000_001 + dropped)})

    def picks(table: Dataset, pool: np.ndarray) -> np.ndarray:
        return pool[[everything.index(number) for number in numbers]]

    given = {name: [value] * len(everything) for name, value in columns.items()}
    return select(
        Dataset.from_dict({"number": everything, "who": [who] * len(everything), **given}), picks
    )


def rows_in(tree: dict[str, bytes], pattern: str) -> list[dict]:
    """The rows of a commit's Parquet files, in the order of their names."""
    shards = sorted(path for path in tree if fnmatch(path, pattern))
    return [row for path in shards for row in pq.read_table(io.BytesIO(tree[path])).to_pylist()]


def check_whole(tree: dict[str, bytes]) -> dict[str, dict[str, list[dict]]]:
    """Assert that the card of a commit names its files, all of them, with true numbers: {subset:
    {split: rows}}.
    """
    card = read_metadata(tree["README.md"].decode())
    infos = (
        card["dataset_info"] if isinstance(card["dataset_info"], list) else [card["dataset_info"]]
    )
    sizes = {
        info["config_name"]: {s["name"]: s["num_examples"] for s in info["splits"]}
        for info in infos
    }
    found, named = {}, set()
    for config in card["configs"]:
        name, found[config["config_name"]] = config["config_name"], {}
        for entry in config["data_files"]:
            shards = [path for path in tree if fnmatch(path, entry["path"])]
            totals = {int(re.search(r"-of-(\d+)\.parquet$", path)[1]) for path in shards}
            assert totals == {len(shards)}, f"{name}: shards of two versions, {sorted(shards)}"
            rows = rows_in(tree, entry["path"])
            assert len(rows) == sizes[name][entry["split"]] > 0
            facts = json.loads(tree[about_of(tree, name, entry["split"], "facts.json")])
            assert facts["kept"] == len(rows)
            assert f"<!-- hf_superfilter: {name}/{entry['split']} -->" in tree["README.md"].decode()
            found[name][entry["split"]] = rows
            named |= set(shards)
    assert named == {path for path in tree if path.endswith(".parquet")}, (
        "files that no subset names"
    )
    return found


def about_of(tree: dict[str, bytes], name: str, split: str, file: str) -> str:
    """Return the path of what is known about a split: recipe, report, facts or a plot."""
    prefix = f"__about__/{name}/{split}/"
    (path,) = (path for path in tree if path.startswith(prefix) and path.endswith(f"/{file}"))
    return path


def files_in(folder) -> dict[str, bytes]:
    """Return the files of a folder by their paths, without the lock of write_repo."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".write_repo.lock"
    }


def commits_of(hub, repo: str = "me/rows", revision: str = "main") -> list[dict[str, bytes]]:
    """The files of every commit, newest first."""
    return [
        {path: blob.data for path, blob in commit.tree.items()}
        for commit in hub.commits("dataset", repo, revision)
    ]


def state_of(hub) -> dict:
    """All that is in all repositories: equal before and after where nothing was changed."""
    return {
        where: {
            name: dict(commit.tree)
            for name, commit in {**repo.branches, **repo.tags, **repo.pulls}.items()
        }
        for where, repo in hub.hub.repositories.items()
    }
