"""How rows are read: the same options in Python, in recipes and on the command line."""

import json
import math

import pytest
import yaml
from transformers import AutoTokenizer

from hf_superfilter import Length, Recipe, load_rows

THOUGHT = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "4", "reasoning_content": "two and two is four"},
]
SIZES = {"keep": len("two and two is four\n4"), "drop": 1, "only": len("two and two is four")}


@pytest.fixture
def mixed(tmp_path):
    """Twenty rows, the fourth of which holds a number instead of an answer."""
    rows = [{"instruction": "Say hi.", "output": "Hi there!" * n} for n in range(1, 21)]
    rows[3]["output"] = 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "rows.jsonl"


@pytest.fixture
def thoughts(tmp_path):
    """Two chats with a thought before the answer."""
    rows = [{"messages": THOUGHT}, {"messages": THOUGHT}]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "chats.jsonl"


@pytest.fixture
def thinking(tmp_path, weak):
    """A tokenizer whose chat template reads a value of its own."""
    tokenizer = AutoTokenizer.from_pretrained(weak)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% if think is false %}(no){% endif %}{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "thinking")
    return str(tmp_path / "thinking")


def write_recipe(tmp_path, **values):
    recipe = {"score": ["Length"], "select": [{"TopK": {"by": "length", "k": 1}}], **values}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_command_stops_at_unreadable_rows_unless_it_may_pass_over_them(command, refused, mixed):
    stopped = refused("score", mixed, "--scorer", "Length", "--folder", "run")
    assert "1 of 20 rows are unreadable" in stopped and "--max-unreadable" in stopped
    asked = ("score", mixed, "--scorer", "Length", "--folder", "run", "--max-unreadable", "0.05")
    assert command(*asked)[0] == 0
    scored = load_rows("run/scored.parquet")
    wanted = [9, 18, 27, math.nan, 45]
    assert scored["length"][:5] == pytest.approx(wanted, nan_ok=True)
    refused_share = refused(*asked[:-1], "1.5")
    assert refused_share == "max_unreadable=1.5: give a share of the rows, from 0 to 1"


def test_a_recipe_says_how_many_rows_may_be_unreadable(tmp_path, command, refused, mixed):
    write_recipe(tmp_path, dataset=mixed)
    assert "1 of 20 rows are unreadable" in refused("run", "recipe.yaml", "--folder", "a")
    assert command("run", "recipe.yaml", "--folder", "a", "--max-unreadable", "0.05")[0] == 0
    assert yaml.safe_load((tmp_path / "a/recipe.yaml").read_text())["max_unreadable"] == 0.05
    write_recipe(tmp_path, dataset=mixed, max_unreadable=0.05)
    assert Recipe.read("recipe.yaml").max_unreadable == 0.05
    assert command("run", "recipe.yaml", "--folder", "b")[0] == 0
    write_recipe(tmp_path, dataset=mixed, max_unreadable="many")
    assert "max_unreadable='many': give a share" in refused("run", "recipe.yaml", "--folder", "c")


def test_the_report_lists_unreadable_rows_with_number_and_reason(tmp_path, command, mixed):
    write_recipe(tmp_path, dataset=mixed, max_unreadable=0.05)
    code, shown, _ = command("run", "recipe.yaml", "--folder", "run")
    reason = "line 4, column 'output'"
    page = (tmp_path / "run/report.html").read_text()
    assert code == 0 and "row 3 is unreadable: " in shown and reason in shown
    assert "Unreadable rows" in page and reason in page.replace("&#39;", "'")


@pytest.mark.parametrize("reasoning", SIZES)
def test_reasoning_is_an_option_of_recipes_and_commands(tmp_path, command, thoughts, reasoning):
    asked = ("score", thoughts, "--scorer", "Length", "--reasoning", reasoning, "--folder", "a")
    assert command(*asked)[0] == 0
    write_recipe(tmp_path, dataset=thoughts)
    assert command("run", "recipe.yaml", "--reasoning", reasoning, "--folder", "b")[0] == 0
    write_recipe(tmp_path, dataset=thoughts, reasoning=reasoning)
    assert command("run", "recipe.yaml", "--folder", "c")[0] == 0
    for folder in "abc":
        assert load_rows(f"{folder}/scored.parquet")["length"][:] == [SIZES[reasoning]] * 2


def test_an_unknown_reasoning_is_refused_everywhere(tmp_path, refused, thoughts):
    write_recipe(tmp_path, dataset=thoughts, reasoning="kep")
    told = "reasoning='kep': did you mean 'keep'?"
    assert told in refused("run", "recipe.yaml", "--folder", "a")
    assert told in refused("score", thoughts, "--reasoning", "kep", "--scorer", "Length")


@pytest.mark.parametrize("value", ["think=false", '{"think": false}'])
def test_template_kwargs_are_an_option_of_recipes_and_commands(
    tmp_path, command, thoughts, thinking, value
):
    chat = ("--template", "chat", "--tokenizer", thinking, "--scorer", "Length")
    assert command("score", thoughts, *chat, "--template-kwargs", value, "--folder", "a")[0] == 0
    values = {"dataset": thoughts, "template": "chat", "tokenizer": thinking}
    write_recipe(tmp_path, **values)
    assert command("run", "recipe.yaml", "--template-kwargs", value, "--folder", "b")[0] == 0
    write_recipe(tmp_path, **values, template_kwargs={"think": False})
    assert command("run", "recipe.yaml", "--folder", "c")[0] == 0
    for folder in "abc":
        prompts = load_rows(f"{folder}/scored.parquet")["prompt"][0]
        assert prompts == ["<user>Two and two?<assistant>(no)"]


def test_the_recipe_of_a_run_holds_how_its_rows_were_read(thoughts, tmp_path):
    recipe = Recipe(
        str(tmp_path / thoughts), [Length()], reasoning="drop", max_unreadable=0.5
    )  # fmt: skip
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
