"""Recipes are ranked by what students learn, and one that is clearly behind is left out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hf_superfilter import (
    Length,
    RandomSample,
    Recipe,
    StudentSettings,
    SuperfilterError,
    Threshold,
    TopK,
    compare_recipes,
)
from hf_superfilter.validation.compare import (
    TRANSFER,
    _clearly_behind,
    _notes_of,
    _ranking,
    _score_folders,
)
from hf_superfilter.validation.differences import corrected_p
from hf_superfilter.validation.figures import Runs
from hf_superfilter.validation.material import material_of

SCORERS = [Length()]


def recipe(*selectors, scorers=SCORERS, dataset="embedded:sample"):
    return Recipe(dataset, scorers, selectors)


@pytest.fixture(scope="module")
def student(gpt2):
    return StudentSettings(gpt2, learning_rate=3e-3, batch_rows=4, max_length=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def ranking(student, folder):
    recipes = {
        "long": recipe(TopK("length", 24)),
        "short": recipe(TopK("length", 24, largest=False)),
    }
    return compare_recipes(recipes, student, folder=folder, held_out=24, steps=3, seeds=2, draws=2)


def test_the_best_comes_first_and_the_others_say_how_far_behind_they_are(ranking):
    first, second = ranking.places
    assert {first.recipe, second.recipe} == {"long", "short"} and ranking.best == first.recipe
    assert first.loss <= second.loss and first.behind is None
    assert second.behind.value == pytest.approx(second.loss - first.loss)
    here, there = second.chance
    assert 0.5 <= there <= here <= 1
    assert there == pytest.approx(here * TRANSFER + (1 - here) * (1 - TRANSFER))
    assert "random" in first.verdict
    assert "2504.11393" in str(ranking) and first.recipe in repr(ranking)


def test_the_ranking_stays_in_the_folder(ranking, folder):
    facts = json.loads((folder / "ranking.json").read_text())
    assert [place["recipe"] for place in facts["places"]] == [
        place.recipe for place in ranking.places
    ]
    assert facts["places"][1]["behind"]["value"] == ranking.places[1].behind.value
    assert facts["ranked_on"] == "held-out" and facts["student"] == ranking.student


def made_up():
    rng = np.random.default_rng(0)
    tokens = np.full(100, 20)

    def runs(count, shift):
        nats = 20 * (
            4 + shift + rng.normal(0, 0.002, (count, 1)) + rng.normal(0, 0.02, (count, 100))
        )
        return Runs(nats, nats / 20, tokens, np.ones(100, dtype=np.int64))

    return runs


def test_differences_to_the_best_are_corrected_over_the_recipes():
    runs, names = made_up(), ["a", "b", "c", "d"]
    measured = {
        "selected": runs(2, 0.0),
        "b": runs(2, 0.01),
        "c": runs(2, 0.03),
        "d": runs(2, 0.3),
        "random": runs(3, 0.0),
    }
    rows = dict.fromkeys(names, 10)
    ranking = _ranking(names, rows, {}, {"held-out": measured}, "held-out", "student", set())
    assert [place.recipe for place in ranking.places] == names
    behind = [place.behind for place in ranking.places[1:]]
    alone = [one.p for one in behind]
    assert [one.p_corrected for one in behind] == corrected_p(alone).tolist() != alone
    # The chance is of each pair, as the interval beside it.
    assert [place.chance[0] for place in ranking.places[1:]] == [1 - p / 2 for p in alone]


def test_what_qualifies_one_recipe_is_noted_with_its_name(tmp_path):
    recipes = {"share": recipe(TopK("length", 0.1)), "fixed": recipe(TopK("length", 24))}
    materials = {
        name: material_of(one, str(tmp_path / name), 0.25, 0) for name, one in recipes.items()
    }
    notes = _notes_of(materials)
    assert notes[0] == "rows were held out before anything was scored or selected"
    (told,) = [note for note in notes if "its fixed number" in note]
    assert told.startswith("fixed: TopK(")


def test_an_arm_that_is_clearly_behind_is_named_and_one_that_may_be_chance_is_not():
    runs = made_up()
    measured = {
        "selected": runs(1, 0.0),
        "near": runs(1, 0.001),
        "far": runs(1, 0.3),
        "random": runs(5, 0.0),
    }
    assert _clearly_behind(measured, ["selected", "near", "far"]) == {"far"}


def test_the_first_recipe_stops_after_one_run_too_where_it_is_clearly_behind(gpt2, tmp_path):
    """At this rate a student learns to end at once from the shortest responses, and no more."""
    recipes = {
        "short": recipe(TopK("length", 24, largest=False)),
        "long": recipe(TopK("length", 24)),
    }
    student = StudentSettings(gpt2, learning_rate=0.015, batch_rows=4, max_length=32)
    options = {"held_out": 24, "steps": 5, "draws": 4}
    ranking = compare_recipes(recipes, student, folder=tmp_path, seeds=2, **options)
    stopped = {place.recipe: place.stopped for place in ranking.places}
    assert stopped == {"short": True, "long": False}
    files = [path.name.rsplit("-", 1)[0] for path in (tmp_path / "validation").glob("*.parquet")]
    assert sorted(name for name in files if "random" not in name) == [
        "steps-long-1", "steps-long-2", "steps-selected-1",
    ]  # fmt: skip
    assert "short: " in str(ranking) and "left out after one run" in str(ranking)
    # Some of the shortest responses are empty; no recipe is called "selected".
    assert any("of the 24 rows of short (" in note for note in ranking.notes)
    assert "rows selected" not in str(ranking)


def test_a_target_that_is_trained_on_is_told_with_the_ranks(student, sample, tmp_path):
    recipes = {
        "long": recipe(TopK("length", 24)),
        "short": recipe(TopK("length", 24, largest=False)),
    }
    options = {"held_out": 24, "steps": 1, "seeds": 1, "draws": 2}
    target = sample.select(range(200)).select_columns(["prompt", "response"])
    ranking = compare_recipes(recipes, student, folder=tmp_path, target=target, **options)
    told = [note for note in ranking.notes if "rows of target are rows that students" in note]
    assert told and f"- {told[0]}" in str(ranking)
    assert told[0] in json.loads((tmp_path / "ranking.json").read_text())["notes"]


def test_recipes_whose_scorers_agree_share_a_folder():
    recipes = {
        "a": recipe(TopK("length", 5)),
        "b": recipe(TopK("words", 5), scorers=[Length(name="words")]),
        "c": recipe(TopK("length", 5), scorers=[Length(unit="tokens", model="embedded:weak")]),
    }
    assert _score_folders(recipes) == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("recipes", "reason"),
    [
        ({"one": recipe(RandomSample(5))}, "two or more"),
        ({"one": recipe(RandomSample(5)), "random": recipe(RandomSample(5))}, "another name"),
        (
            {"one": recipe(RandomSample(5)), "two": recipe(RandomSample(5), dataset="x.jsonl")},
            "has dataset 'x.jsonl'",
        ),
        ({"one": recipe(RandomSample(5)), "two": None}, "is no Recipe"),
        ({"one": recipe(RandomSample(5)), "untrained": recipe(RandomSample(5))}, "another name"),
        ({"one": recipe(RandomSample(5)), 2: recipe(RandomSample(5))}, "2 is no name"),
        (
            {
                "one": recipe(RandomSample(5)),
                "two": replace(recipe(RandomSample(5)), reasoning="drop"),
            },
            "has reasoning 'drop'",
        ),
        (
            {"one": recipe(RandomSample(5)), "two": recipe(Threshold("length", above=1e9))},
            r"^recipes\['two'\]: nothing was selected",
        ),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(recipes, reason, student, tmp_path):
    with pytest.raises(SuperfilterError, match=reason):
        compare_recipes(recipes, student, folder=tmp_path)
