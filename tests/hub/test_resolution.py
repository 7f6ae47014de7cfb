"""What is published loads, and what loaded before still loads, as datasets resolves it."""

import io
import json
from contextlib import suppress

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from huggingface_hub import HfApi
from publishing import about_of, commits_of, files_in, picked, state_of

from hf_superfilter import (
    Length,
    Recipe,
    SuperfilterError,
    TopK,
    list_subsets,
    load_subset,
    publish,
    select,
    write_repo,
)
from hf_superfilter.hub.resolution import resolve


def parquet(*numbers):
    buffer = io.BytesIO()
    Dataset.from_dict({"number": list(numbers)}).to_parquet(buffer)
    return buffer.getvalue()


def card_of(*configs):
    return f"---\nconfigs: {json.dumps(list(configs))}\n---\n# By hand\n"


def numbers_of(name=None, split="train"):
    return load_dataset("me/rows", name, split=split)["number"][:]


CSV, JSONL = b"number\n1\n2\n", b'{"number": 1}\n{"number": 2}\n'


# One builder for all


@pytest.mark.parametrize(("file", "data"), [("raw.csv", CSV), ("raw.jsonl", JSONL)])
@pytest.mark.parametrize("later", [False, True])
def test_a_repository_that_datasets_reads_as_something_else_is_refused(hub, file, data, later):
    configs = [{"config_name": "raw", "data_files": file}]
    if later:
        configs.append({"config_name": "more", "data_files": file, "default": True})
    hub.commit("dataset", "me/rows", {file: data, "README.md": card_of(*configs)})
    before = state_of(hub)
    with pytest.raises(SuperfilterError, match="a subset in Parquet would not load beside it"):
        publish(picked(3), "me/rows", name="best")
    assert state_of(hub) == before
    assert not hub.log("PUT"), "refused before the upload"
    assert numbers_of("raw") == [1, 2]


def test_a_csv_subset_that_stands_behind_ours_never_loaded_and_hinders_nobody(hub):
    publish(picked(3), "me/rows", name="best")
    text = hub.files("dataset", "me/rows")["README.md"].decode()
    raw = "- config_name: raw\n  data_files: raw.csv\ndataset_info:"
    hub.commit(
        "dataset", "me/rows", {"raw.csv": CSV, "README.md": text.replace("dataset_info:", raw, 1)}
    )
    publish(picked(4), "me/rows", name="more")
    assert (numbers_of("best"), numbers_of("more")) == ([3], [4])


@pytest.mark.parametrize("file", ["rows.py"])
def test_a_loading_script_is_named_and_nothing_is_changed(hub, file):
    hub.commit("dataset", "me/rows", {file: "x = 1\n", "README.md": "# Old\n"})
    before = state_of(hub)
    with pytest.raises(SuperfilterError, match=r"holds the loading script 'rows\.py'"):
        publish(picked(3), "me/rows", name="best")
    assert state_of(hub) == before
    with pytest.raises(ValueError, match=r"^repo_id='me/rows.py': give a name that does not end"):
        publish(picked(3), "me/rows.py")


def test_another_script_hinders_nobody(hub):
    hub.commit("dataset", "me/rows", {"prepare.py": "x = 1\n", "README.md": "# Old\n"})
    publish(picked(3), "me/rows", name="best")
    assert numbers_of("best") == [3]


def test_a_standalone_yaml_that_names_the_subsets_is_seen(hub):
    configs = "configs:\n- config_name: old\n  data_files: old.parquet\n"
    hub.commit("dataset", "me/rows", {"old.parquet": parquet(1), ".huggingface.yaml": configs})
    before = state_of(hub)
    with pytest.raises(
        SuperfilterError, match=r"by what its README\.md or \.huggingface\.yaml says"
    ):
        publish(picked(3), "me/rows", name="best")
    assert state_of(hub) == before


# Patterns of others


PATTERNS = [
    "**/*.parquet",
    "**",
    "**/train/*",
    "*/*/*",
    "*",
    "[a-z]*/**",
    "theirs/train/*",
    "**/train*/**",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_other_subsets_load_what_they_loaded(hub, pattern):
    files = {"theirs/train/a.parquet": parquet(1, 2, 3), "theirs/train/b.parquet": parquet(4, 5, 6)}
    files |= {"top.parquet": parquet(7)}
    data_files = [{"split": "train", "path": pattern}]
    card = card_of({"config_name": "theirs", "data_files": data_files})
    hub.commit("dataset", "me/rows", {**files, "README.md": card})
    before = numbers_of("theirs")
    publish(picked(8, 9), "me/rows", name="best")
    publish(picked(10), "me/rows", name="more")
    assert numbers_of("theirs") == numbers_of() == before
    assert (numbers_of("best"), numbers_of("more")) == ([8, 9], [10])


def test_a_pattern_of_json_loads_what_it_loaded(tmp_path):
    (tmp_path / "a.json").write_text('[{"number": 1}]')
    (tmp_path / "README.md").write_text(card_of({"config_name": "t", "data_files": "**/*.json"}))
    with pytest.raises(SuperfilterError, match="as json, as the files of its first, 't', are"):
        write_repo(picked(3), tmp_path, name="best")
    assert load_dataset(str(tmp_path), "t", split="train")["number"][:] == [1]


def test_a_pattern_that_spells_out_our_folders_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(1))
    files = ["a.parquet", "__subsets__/**/*.parquet"]
    (tmp_path / "README.md").write_text(card_of({"config_name": "t", "data_files": files}))
    before = files_in(tmp_path)
    with pytest.raises(SuperfilterError, match="'t' whose patterns would load other files"):
        write_repo(picked(3), tmp_path, name="best")
    assert files_in(tmp_path) == before


def test_what_loads_without_a_name_stays_what_it_is(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(1))
    (tmp_path / "b.parquet").write_bytes(parquet(2))
    configs = [{"config_name": n, "data_files": f"{n}.parquet"} for n in ("a", "b")]
    info = {"config_name": "b", "features": [{"name": "number", "dtype": "int64"}]}
    text = card_of(*configs).replace("---\n#", f"dataset_info: {json.dumps(info)}\n---\n#")
    (tmp_path / "README.md").write_text(text)
    assert load_dataset(str(tmp_path), split="train")["number"][:] == [2]
    write_repo(picked(3), tmp_path, name="best")
    assert load_dataset(str(tmp_path), split="train")["number"][:] == [2]
    write_repo(picked(3), tmp_path, name="best", set_default=True)
    assert load_dataset(str(tmp_path), split="train")["number"][:] == [3]


@pytest.mark.parametrize(
    ("files", "builder", "subsets"),
    [
        (["README.md", "LICENSE", "NOTES.md", ".gitattributes"], None, {}),
        (["train.csv", "test.csv"], "csv", {"train": ("train.csv",), "test": ("test.csv",)}),
        (["data/train-00000-of-00001.parquet"], "parquet", None),
        (["a.zip"], "archives", {"train": ("a.zip",)}),
    ],
)
def test_a_card_without_configs_is_resolved_by_the_names_of_the_files(files, builder, subsets):
    resolution = resolve("", files)
    assert resolution.builder == builder
    if subsets is None:
        subsets = {"train": tuple(files)}
    assert resolution.subsets == ({"default": subsets} if subsets else {})


def test_addresses_elsewhere_are_not_asked_for():
    config = {"config_name": "far", "data_files": "https://127.0.0.1:9/rows.csv"}
    assert resolve(card_of(config), []).subsets["far"] == {
        "train": ("https://127.0.0.1:9/rows.csv",)
    }


# What the card says


def test_numpy_values_in_features_are_plain_in_the_card(tmp_path):
    names = list(np.unique(["b", "a", "no"]))
    features = Features({"label": ClassLabel(names=names), "x": Value("int64")})
    table = Dataset.from_dict({"label": [0, 2], "x": [1, 2]}, features=features)
    folder = write_repo(select(table, TopK("x", 1)), tmp_path / "repo")
    rows = load_dataset(str(folder), split="train")
    assert rows.features["label"].names == ["a", "b", "no"]
    assert rows["label"][:] == [2]
    assert "!!python" not in (folder / "README.md").read_text()


def test_licence_details_tasks_and_a_title_are_in_the_card(hub, tmp_path):
    Dataset.from_dict({"instruction": ["a"], "output": ["b"]}).push_to_hub("me/source")
    text = hub.files("dataset", "me/source")["README.md"].decode()
    head = "license: other\nlicense_name: my-licence\nlicense_link: https://e.org/l\n"
    head += "task_categories:\n- text-generation\n- question-answering\n"
    hub.commit("dataset", "me/source", {"README.md": text.replace("---\n", f"---\n{head}", 1)})
    recipe = Recipe("me/source", score=[Length()], select=[TopK("length", 1)])
    publish(recipe.run(tmp_path / "run"), "me/my-best_rows", name="best")
    data = HfApi().dataset_info("me/my-best_rows").card_data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "my-licence")
    assert data["license_link"] == "https://e.org/l"
    assert data["task_categories"] == ["text-generation", "question-answering"]
    assert data["pretty_name"] == "my best rows"


# Contents and caches


def test_other_rows_of_the_same_size_are_loaded_and_not_the_cached_ones(tmp_path):
    for number in (1, 2, 1, 3):
        folder = write_repo(picked(number), tmp_path / "repo", name="best")
        assert load_dataset(str(folder), "best", split="train")["number"][:] == [number]
        assert load_subset(str(folder))["number"][:] == [number]


@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("numbers", [(2,), (1,)], ids=["other rows", "the same rows"])
def test_a_write_that_is_killed_between_two_steps_leaves_what_loads(
    tmp_path, monkeypatch, step, numbers
):
    from pathlib import Path

    write_repo(picked(1), tmp_path, name="best")
    write_repo(picked(5), tmp_path, name="more")
    calls, rename = [], Path.replace

    def die(self, target):
        if tmp_path not in Path(target).parents:
            return rename(self, target)
        calls.append(target)
        if len(calls) == step:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with suppress(KeyboardInterrupt):
            write_repo(picked(*numbers), tmp_path, name="best")
    assert load_dataset(str(tmp_path), "best", split="train")["number"][:] in ([1], [*numbers])
    assert load_dataset(str(tmp_path), "more", split="train")["number"][:] == [5]
    assert [subset.name for subset in list_subsets(str(tmp_path))] == ["best", "more"]
    write_repo(picked(6), tmp_path, name="best")
    assert load_dataset(str(tmp_path), "best", split="train")["number"][:] == [6]
    assert len([path for path in files_in(tmp_path) if path.endswith(".parquet")]) == 2
    assert not list(tmp_path.glob(".unfinished_*"))


def test_eight_writers_at_once_leave_eight_subsets(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: write_repo(picked(i), tmp_path, name=f"n{i}"), range(8)))
    assert sorted(subset.name for subset in list_subsets(str(tmp_path))) == [
        f"n{i}" for i in range(8)
    ]
    for number in range(8):
        assert load_dataset(str(tmp_path), f"n{number}", split="train")["number"][:] == [number]


# Odd names and numbers


@pytest.mark.parametrize(
    "name", ["README.md", "train.parquet", "config.json", "a.py", "__about__x"[2:]]
)
def test_a_subset_may_be_called_as_a_file_is(hub, name):
    publish(picked(1), "me/rows", name=name)
    publish(picked(2), "me/rows", name="other")
    assert (numbers_of(name), numbers_of("other")) == ([1], [2])
    assert hub.files("dataset", "me/rows")["README.md"].startswith(b"---\n")


def test_columns_that_look_like_formulas_and_huge_numbers_are_written(tmp_path):
    values = [1e308, -1e308, 1e308, 1.0, float("nan")]
    table = Dataset.from_dict({"$x_$": values, "response": ["a", "$b_$", "c", "d", "e"]})
    folder = write_repo(select(table, TopK("$x_$", 2)), tmp_path / "repo", name="best")
    assert load_dataset(str(folder), "best", split="train")["$x_$"][:] == [1e308, 1e308]
    card = (folder / "README.md").read_text()
    assert "1e+308" in card
    assert "0" * 40 not in card
    facts = (folder / about_of(files_in(folder), "best", "train", "facts.json")).read_text()
    json.loads(facts, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize(
    ("changes", "share"),
    [({"rows": 0, "kept": 0}, None), ({"rows": 4, "kept": 1}, 0.25), ({"rows": 0}, None)],
)
def test_facts_of_no_rows_have_no_share(tmp_path, changes, share):
    folder = write_repo(picked(1), tmp_path, name="best")
    path = folder / about_of(files_in(folder), "best", "train", "facts.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert list_subsets(str(folder))[0].share == share


@pytest.mark.parametrize(
    "changes",
    [{"rows": -1}, {"kept": 1.5}, {"rows": True}, {"kept": "1"}, {"scorers": 3}, {"steps": [{}]},
     {"published": 5}, {"scorers": [{"python": ["x"]}]}],
)  # fmt: skip
def test_facts_of_the_wrong_kind_are_one_sentence(tmp_path, changes):
    folder = write_repo(picked(1), tmp_path, name="best")
    path = folder / about_of(files_in(folder), "best", "train", "facts.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SuperfilterError, match=r"is damaged .* publish the subset again") as error:
        list_subsets(str(folder))
    assert "\n" not in str(error.value)


def test_facts_that_are_deep_or_large_are_one_sentence(tmp_path):
    folder = write_repo(picked(1), tmp_path, name="best")
    path = folder / about_of(files_in(folder), "best", "train", "facts.json")
    for text, message in (
        ("[" * 100_000, "is damaged"),
        (" " * 10_000_001, "more than 10,000,000"),
    ):
        path.write_text(text)
        with pytest.raises(SuperfilterError, match=message):
            list_subsets(str(folder))


def test_the_commits_of_two_versions_name_different_patterns(hub):
    for number in (1, 2):
        publish(picked(number), "me/rows", name="best")
    cards = [tree["README.md"].decode() for tree in commits_of(hub)[:2]]
    assert cards[0] != cards[1]
    assert len([path for path in commits_of(hub)[0] if path.endswith(".parquet")]) == 1


ODD_CONFIGS = {
    "a number for a name": "config_name: 2024, data_files: raw.parquet",
    "a truth value for a name": "config_name: yes, data_files: raw.parquet",
    "no name": "config_name:, data_files: raw.parquet",
    "a name with a slash": "config_name: a/b, data_files: raw.parquet",
    "files that are null": "config_name: raw, data_files: null",
    "files outside": "config_name: raw, data_files: /etc/passwd",
    "a folder without data": "config_name: raw, data_dir: none",
}


@pytest.mark.parametrize("config", ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_beside_a_subset_for_which_datasets_loads_nothing_nothing_is_written(tmp_path, config):
    Dataset.from_dict({"text": ["x"]}).to_parquet(tmp_path / "raw.parquet")
    card = f"---\nconfigs:\n- {{{config}}}\n---\n"
    (tmp_path / "README.md").write_text(card)
    with pytest.raises((ValueError, TypeError, FileNotFoundError)):
        load_dataset(str(tmp_path), "raw", cache_dir=str(tmp_path.parent / "cache"))
    table = Dataset.from_dict({"text": ["a", "b"], "quality": [1.0, 2.0]})
    with pytest.raises(SuperfilterError):
        write_repo(select(table, TopK("quality", 1)), tmp_path, config_name="best")
    assert (tmp_path / "README.md").read_text() == card


def test_a_key_that_is_no_text_is_named_since_the_clients_fail_on_it(tmp_path):
    (tmp_path / "README.md").write_text("---\non: 1\n---\n")
    table = Dataset.from_dict({"text": ["a", "b"], "quality": [1.0, 2.0]})
    with pytest.raises(SuperfilterError, match="has the key True, which is no text to YAML"):
        write_repo(select(table, TopK("quality", 1)), tmp_path, config_name="best")


def test_a_card_that_yaml_1_1_alone_reads_is_written_anew(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\u2028pretty_name: rows\n---\nRows.\n")
    table = Dataset.from_dict({"text": ["a", "b"], "quality": [1.0, 2.0]})
    write_repo(select(table, TopK("quality", 1)), tmp_path, config_name="best")
    text = (tmp_path / "README.md").read_text()
    assert "Rows." in text and "pretty_name: rows" in text
    loaded = load_dataset(str(tmp_path), "best", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["text"][:] == ["b"]
