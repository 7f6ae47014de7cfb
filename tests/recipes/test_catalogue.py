"""Short names: the package's entries are recipes that parse, the user's come beside them, damage is
one sentence.
"""

import pytest
import yaml
from publishing import picked

from hf_superfilter import Recipe, load_recipe, load_subset, publish
from hf_superfilter.recipes.catalogue import (
    PACKAGE_CATALOGUE,
    find_entry,
    read_catalogue,
    user_catalogue,
)

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """Where the user's catalogue is, which is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = user_catalogue()
    assert file == tmp_path / "config/hf_superfilter/catalogue.yaml"
    file.parent.mkdir(parents=True)
    return file


def test_every_entry_of_the_package_is_a_recipe_that_parses_or_a_pinned_subset():
    entries = read_catalogue()
    assert {"alpaca-ifd-10", "sample-ifd-15"} <= set(entries)
    for name, entry in entries.items():
        if "recipe" in entry:
            recipe = Recipe.from_mapping(entry["recipe"])
            assert recipe.select
            assert load_recipe(name) == Recipe.from_yaml(recipe.to_yaml()) == recipe
        else:
            assert set(entry) >= {"repo", "revision"}
    assert yaml.safe_load(PACKAGE_CATALOGUE.read_text()) == entries


def test_what_the_name_promises_is_what_the_recipe_does():
    for name, entry in read_catalogue().items():
        *_, by, percent = name.split("-")
        last = Recipe.from_mapping(entry["recipe"]).select[-1]
        assert (last.by, last.k) == (by, int(percent) / 100)


def test_the_users_file_extends_and_overrides(own):
    mine = {
        "dataset": "embedded:sample",
        "score": ["Length"],
        "select": [{"TopK": {"by": "length", "k": 3}}],
    }
    own.write_text(
        yaml.safe_dump(
            {"mine": {"recipe": mine}, "dolly-ifd-10": {"repo": "me/dolly", "revision": SHA}}
        )
    )
    entries = read_catalogue()
    assert list(entries)[-1] == "mine"
    assert entries["dolly-ifd-10"] == {"repo": "me/dolly", "revision": SHA}
    assert "alpaca-ifd-10" in entries
    assert load_recipe("mine") == Recipe.from_mapping(mine)


def test_without_xdg_the_file_is_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_catalogue() == tmp_path / ".config/hf_superfilter/catalogue.yaml"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_adds_nothing(own, text):
    own.write_text(text)
    assert "alpaca-ifd-10" in read_catalogue()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff\xfe", "is not YAML"),
        (b"- a", "is not a mapping of short names to entries"),
        (b"a", "is not a mapping of short names to entries"),
        (b"a: me/rows", "'a' in the catalogue .* needs repo and revision"),
        (b"a:", "'a' in the catalogue .* needs repo and revision"),
        (b"a: {1: 2, x: 3}", "; it has 1, x"),
        (b"a: {}", "'a' in the catalogue .* needs repo and revision"),
        (b"a: {repo: me/rows}", "needs repo and revision .*; it has repo"),
        (b"a: {repo: me/rows, revision: main}", "revision 'main' is not a whole commit sha"),
        (b"a: {repo: me/rows, revision: 1234567}", "revision 1234567 is not a whole commit sha"),
        (b"a: {repo: 3, revision: " + SHA.encode() + b"}", "repo 3 is not 'user/name'"),
        (b"a: {repo: me/rows, revision: x, recipe: {}}", "; it has recipe, repo, revision"),
        (b"a/b: {recipe: {}}", "'a/b' in the catalogue"),
        (b"'..': {recipe: {}}", r"'\.\.' in the catalogue"),
        (b"[a]: {recipe: {}}", "needs repo and revision"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(own, text, said):
    own.write_bytes(text)
    with pytest.raises(ValueError, match=said) as error:
        load_subset("alpaca-ifd-10")
    assert str(own) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "recipe", [None, [], {"dataset": "x"}, {"dataset": "x", "score": ["Lenght"]}]
)
def test_a_damaged_recipe_is_said_when_it_is_used_and_spoils_no_other(own, recipe):
    own.write_text(yaml.safe_dump({"mine": {"recipe": recipe}}))
    for use in (load_recipe, lambda name: load_subset(name, make=True)):
        with pytest.raises(ValueError, match=r"^'mine' in the catalogue: ") as error:
            use("mine")
        assert "\n" not in str(error.value)
    assert load_recipe("dolly-ifd-10").dataset == "databricks/databricks-dolly-15k"


def test_an_unknown_name_answers_with_the_nearest(own):
    own.write_text(yaml.safe_dump({"mine": {"recipe": {}}}))
    with pytest.raises(
        FileNotFoundError,
        match=r"no subset 'mien' in the catalogue: did you mean 'mine'\?.*'user/name'",
    ):
        find_entry("mien")


def test_what_is_not_published_is_made_when_that_is_asked_for(tmp_path, monkeypatch, own, sample):
    monkeypatch.chdir(tmp_path)
    sample.select(range(20)).select_columns(["instruction", "input", "output"]).to_json(
        "rows.jsonl"
    )
    text = (
        PACKAGE_CATALOGUE.read_text()
        .replace("embedded:strong", "embedded:weak")
        .replace("embedded:sample", "rows.jsonl")
    )
    own.write_text(text[text.index("sample-ifd-15") :])
    with pytest.raises(
        FileNotFoundError,
        match=r"not published; make it with load_subset\('sample-ifd-15', make=True\)",
    ):
        load_subset("sample-ifd-15")
    assert not (tmp_path / "runs").exists()
    rows = load_subset("sample-ifd-15", make=True)
    assert rows.num_rows == 3
    assert rows["ifd"][:] == sorted(rows["ifd"][:])[::-1]
    assert (tmp_path / "runs/sample-ifd-15/selected.parquet").is_file()
    assert load_subset("sample-ifd-15", make=True)[:] == rows[:]


def test_a_published_entry_loads_at_its_revision(hub, own):
    publish(picked(1), "me/rows", name="best")
    pin = hub.head("dataset", "me/rows")
    publish(picked(2), "me/rows", name="best")
    own.write_text(
        yaml.safe_dump(
            {
                "named": {"repo": "me/rows", "revision": pin, "name": "best"},
                "default": {"repo": "me/rows", "revision": pin},
                "gone": {"repo": "me/rows", "revision": SHA},
            }
        )
    )
    for name in ("named", "default"):
        assert load_subset(name)["number"][:] == load_subset(name, make=True)["number"][:] == [1]
    assert load_subset("me/rows")["number"][:] == [2]
    with pytest.raises(FileNotFoundError, match="no recipe was recorded for 'best'"):
        load_recipe("named")
    with pytest.raises(
        FileNotFoundError, match=f"the Hub has no data set 'me/rows' at revision '{SHA}'"
    ):
        load_subset("gone")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpaca-ifd-10").mkdir()
    with pytest.raises(ValueError, match="'alpaca-ifd-10' names no subsets in its README"):
        load_subset("alpaca-ifd-10")
