"""Every recipe of the package runs as it is and by name, on other data and models too, and says
what it is.
"""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from conftest import SHARED

from hf_superfilter import (
    IFD,
    Embed,
    Language,
    Length,
    PerCluster,
    Recipe,
    Threshold,
    TopK,
    load_recipe,
    load_rows,
)
from hf_superfilter.recipes.catalogue import packaged_recipes, read_catalogue
from hf_superfilter.recipes.overrides import override

NAMES = list(packaged_recipes())


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """A folder for each first scorer, where recipes that begin with it find its scores."""
    home = tmp_path_factory.mktemp("recipes")
    return lambda recipe: (
        home / hashlib.sha256(repr((recipe.dataset, recipe.score[0])).encode()).hexdigest()[:8]
    )


@pytest.fixture(scope="session")
def long_few(sample, tmp_path_factory) -> str:
    """A file of 20 rows, for what takes long."""
    path = tmp_path_factory.mktemp("rows") / "twenty.jsonl"
    sample.select(range(20)).select_columns(["instruction", "input", "output", "category"]).to_json(
        path
    )
    return str(path)


@pytest.fixture
def few(sample, tmp_path, monkeypatch) -> str:
    """A file of a few rows, in the working directory."""
    monkeypatch.chdir(tmp_path)
    sample.select(range(30)).select_columns(["instruction", "input", "output", "category"]).to_json(
        "few.jsonl"
    )
    return "few.jsonl"


# Scorers that take seconds, or megabytes, for 130 rows.
LONG = {"LearningPercentage", "AskLLM", "Demonstration", "Density"}


def models_of(recipe):
    return [scorer.model for scorer in recipe.score if getattr(scorer, "model", None)]


# Each file


def test_there_is_one_for_each_method():
    wanted = {
        "superfiltering",
        "superfiltering-d",
        "cherry",
        "learning-percentage",
        "learning-percentage-approximate",
    }
    wanted |= {
        "ask-llm",
        "density",
        "sem-dedup",
        "prototypes",
        "facility-location",
        "quality-then-coverage",
    }
    wanted |= {"perplexity-low", "perplexity-band", "length", "random", "per-category"}
    assert wanted | {"per-cluster", "per-cluster-random"} <= set(NAMES)
    assert not set(NAMES) & set(read_catalogue()), "one name means one thing"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_in_one_line_its_paper_and_what_to_change(name):
    text = packaged_recipes()[name].read_text()
    title, *others = [line for line in text.splitlines() if line.startswith("#")]
    assert title.endswith(".") and len(title) <= 90
    assert others[0].startswith("# Paper: ") and any(
        line.startswith("# Change: ") for line in others
    )
    assert next(iter(yaml.safe_load(text))) == "dataset"


@pytest.mark.filterwarnings("ignore:the .* rows to train on are fewer than:UserWarning")
@pytest.mark.filterwarnings("ignore:every row of 'reasoning' is undefined:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_the_embedded_sample_and_model_with_no_network(
    name, run_folders, long_few, short_sample
):
    recipe = load_recipe(name)
    if any(isinstance(scorer, Language) for scorer in recipe.score):
        pytest.importorskip("py3langid", reason="the extra [language] is not installed")
    assert recipe == Recipe.read(packaged_recipes()[name]) == Recipe.from_yaml(recipe.to_yaml())
    assert recipe.dataset == "embedded:sample" and all(
        model.startswith("embedded:") for model in models_of(recipe)
    )
    if models_of(recipe):
        recipe = override(recipe, settings={"model": "embedded:weak"})
        assert set(models_of(recipe)) == {"embedded:weak"}
    rows = 130
    if LONG & {type(scorer).__name__ for scorer in recipe.score}:
        recipe, rows = override(recipe, dataset=long_few, format="alpaca"), 20
    selection = recipe.run(run_folders(recipe))
    assert 0 < len(selection.rows) < len(selection.table) == rows
    budget = getattr(recipe.select[-1], "k", None)
    if isinstance(budget, float):
        assert len(selection.rows) == int(rows * budget)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_all_rows_of_the_sample_with_the_model_that_it_names(name, tmp_path):
    selection = load_recipe(name).run(tmp_path)
    assert 0 < len(selection.rows) < len(selection.table) == 519


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not there")
def test_a_recipe_runs_on_dolly(name, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    load_rows(SHARED / "instruct/dolly.jsonl.zst").select(range(300)).to_json("dolly.jsonl")
    options = ["--model", "embedded:weak"] if models_of(load_recipe(name)) else []
    code, out, error = command("run", name, "--dataset", "dolly.jsonl", *options)
    assert code == 0, error
    assert " of 300 rows kept" in out


# By name, with other values


def test_run_by_name_takes_another_data_set_model_and_budget(few, command, tmp_path):
    code, out, error = command(
        "run", "per-category", "--dataset", few, "--model", "embedded:weak", "--set", "k=6"
    )
    assert code == 0, error
    assert "6 of 30 rows kept" in out and "embedded:weak" in out
    made = Recipe.read(tmp_path / "runs/per-category/recipe.yaml")
    assert made.dataset == few and made.select == (
        Threshold("ifd", below=1.0),
        PerCluster("ifd", 6, group="category"),
    )


def test_a_file_and_a_short_name_of_the_catalogue_run_the_same_way(few, command):
    Path("mine.yaml").write_text(
        "dataset: few.jsonl\nscore: [Length]\nselect: [{TopK: {by: length, k: 0.5}}]\n"
    )
    assert "15 of 30 rows kept" in command("run", "mine.yaml")[1]
    assert "3 of 30 rows kept" in command("run", "mine.yaml", "--set", "TopK.k=0.1")[1]
    changed = ["--dataset", few, "--model", "embedded:weak", "--folder", "other"]
    assert " of 30 rows kept" in command("run", "sample-ifd-15", *changed)[1]
    assert json.loads(Path("other/run.json").read_text())["rows"] == 30


def test_the_list_has_a_line_for_each_and_a_name_prints_the_file(command):
    code, out, _ = command("recipes")
    assert code == 0
    for name in NAMES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert ("embedded:" in line) == bool(models_of(load_recipe(name)))
    assert (
        command("recipes", "length")[1].strip() == packaged_recipes()["length"].read_text().strip()
    )


def test_an_unknown_name_answers_with_the_nearest(refused):
    assert "did you mean 'superfiltering'?" in refused("run", "superfilterin")
    assert "did you mean 'superfiltering'?" in refused("recipes", "superfilterin")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kk=3", "'kk': the recipe takes no argument 'kk'; "),
        ("TopJ.k=3", "the recipe has no 'TopJ'; did you mean 'TopK'?"),
        ("TopK.kay=3", "'TopK.kay': TopK takes no argument 'kay'"),
        ("k=-1", "k=-1: give a number of rows"),
        ("k", "--set 'k': give an argument and its value, such as k=0.05"),
        ("k=[", "--set 'k=[': '[' is not YAML"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_read(
    setting, said, refused, tmp_path
):
    assert said in refused("run", "length", "--set", setting)
    assert not (tmp_path / "runs").exists()


def test_settings_go_where_they_are_stated_and_else_where_they_can():
    recipe = Recipe(
        "embedded:sample",
        (IFD("a"), IFD("b", name="other"), Embed("c"), Length()),
        (Threshold("ifd", below=1.0), PerCluster("ifd", 0.1)),
        split="train",
        columns={"instruction": "x"},
        template="alpaca",
    )
    assert models_of(override(recipe, settings={"model": "m"})) == ["m", "m", "m"]
    assert models_of(override(recipe, settings={"Embed.model": "m"})) == ["a", "b", "m"]
    assert models_of(override(recipe, settings={"other.model": "m"})) == ["a", "m", "c"]
    assert override(recipe, settings={"seed": 3}).select[1] == PerCluster("ifd", 0.1, seed=3)
    assert override(recipe) == recipe
    moved = override(recipe, dataset="elsewhere", format="dolly")
    assert (moved.dataset, moved.format, moved.split, moved.columns, moved.template) == (
        "elsewhere",
        "dolly",
        None,
        None,
        "alpaca",
    )
    assert override(Recipe("x", (Length(),), (TopK("length", 1),)), settings={"k": 2}).select == (
        TopK("length", 2),
    )
