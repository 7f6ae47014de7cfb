"""Recipes: what YAML says is what the constructors are given, and one sentence for whatever it says
wrong.
"""

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter import IFD, Length, Perplexity, RandomSample, Recipe, Threshold, TopK, load_rows
from hf_superfilter.recipes.entries import build
from hf_superfilter.yaml_io import dump_yaml, load_yaml

names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
columns = st.tuples(texts, texts)
budgets = st.one_of(st.integers(1, 10**9), st.floats(1e-9, 1))
numbers = st.one_of(st.integers(-100, 100), st.floats(-1e30, 1e30))
scorers = st.one_of(
    st.builds(
        IFD,
        texts,
        variant=st.sampled_from(["superfiltering", "bos", "aligned", "loss_ratio"]),
        columns=columns,
        name=names,
        max_length=st.none() | st.integers(2, 4096),
        dtype=st.sampled_from(["auto", "float32"]),
    ),
    st.builds(Perplexity, texts, append_eos=st.booleans(), revision=st.none() | texts),
    st.builds(Length, columns=columns, name=names),
    st.builds(Length, st.just("tokens"), model=texts),
)
selectors = st.one_of(
    st.builds(TopK, texts, budgets, largest=st.booleans()),
    st.builds(TopK, texts, tokens=st.integers(1, 10**9)),
    st.builds(RandomSample, budgets, seed=st.integers(0, 2**40)),
    st.builds(RandomSample, tokens=st.integers(1, 10**9)),
    st.builds(Threshold, texts, below=numbers),
    st.builds(
        Threshold,
        texts,
        above=st.integers(0, 49),
        below=st.floats(50, 100),
        percentiles=st.booleans(),
    ),
)
recipes = st.builds(
    Recipe,
    texts,
    score=st.lists(scorers, min_size=1, max_size=3),
    select=st.lists(selectors, min_size=1, max_size=3),
    split=st.none() | texts,
    config=st.none() | texts,
    revision=st.none() | texts,
    format=texts,
    template=texts,
    tokenizer=st.none() | texts,
    columns=st.none() | st.dictionaries(texts, texts, max_size=2),
)

GOOD = {
    "dataset": "embedded:sample",
    "score": ["Length"],
    "select": [{"TopK": {"by": "length", "k": 3}}],
}
MINE = """
from dataclasses import dataclass
from hf_superfilter.base import Settings

@dataclass(frozen=True, repr=False)
class Vowels(Settings):
    letters: str = "aeiou"
    name: str = "vowels"

    def __call__(self, batch, rank=None):
        counts = [sum(map(response.count, self.letters)) for response in batch["response"]]
        return {self.name: [float(count) for count in counts]}

class Picky:
    def __init__(self, size):
        self.size = size + 1

number = 5
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A third party's module."""
    (tmp_path / "mine_for_recipes.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine_for_recipes"
    sys.modules.pop("mine_for_recipes", None)


def recipe_of(other=None, **changes):
    entries = {**GOOD, **(other or {}), **changes}
    return yaml.safe_dump(
        {key: value for key, value in entries.items() if value != "left out"}, sort_keys=False
    )


@given(recipes)
def test_a_recipe_comes_back_from_its_yaml_equal(recipe):
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("written", "meant"), [("2e-5", 2e-5), ("1E-3", 1e-3), (".5e-3", 5e-4), ("3.e+2", 300.0)]
)
def test_a_number_may_be_written_as_people_do(written, meant):
    entry = f"- LearningPercentage: {{model: embedded:weak, learning_rate: {written}}}"
    (scorer,) = Recipe.from_yaml(f"dataset: embedded:sample\nscore:\n  {entry}\n").score
    assert scorer.learning_rate == meant


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "2e-5", "é: x", "{a}\n"])
def test_any_text_in_yaml_comes_back(text):
    assert load_yaml(dump_yaml({"text": text})) == {"text": text}


@given(recipes)
def test_the_yaml_of_a_recipe_is_plain_and_holds_no_defaults(recipe):
    plain = yaml.safe_load(recipe.to_yaml())
    assert None not in plain.values()
    for key in ("score", "select"):
        for part, entry in zip(getattr(recipe, key), plain[key], strict=True):
            assert list(entry) == [type(part).__name__]
            assert build(entry, key) == part


def test_an_entry_without_arguments_is_a_name():
    for entry in ("Length", {"Length": None}, {"Length": {}}):
        assert Recipe.from_yaml(recipe_of(score=[entry])).score == (Length(),)


WRONG = [
    ({"dataset": 5}, "dataset: 5 in the recipe has to be text, not int"),
    ({"dataset": None}, "dataset: None in the recipe has to be text"),
    ({"dataset": ""}, "dataset: '' in the recipe has to be text"),
    ({"dataset": "left out"}, "the recipe has no 'dataset'"),
    ({"score": "left out"}, "the recipe has no 'score'"),
    ({"split": ["train"]}, r"split: \['train'\] in the recipe has to be text, not list"),
    ({"config": 1.5}, "config: 1.5 in the recipe has to be text"),
    ({"revision": 12}, "revision: 12 in the recipe has to be text"),
    ({"format": None}, "format: None in the recipe has to be text"),
    ({"template": {}}, "template: {} in the recipe has to be text"),
    ({"tokenizer": True}, "tokenizer: True in the recipe has to be text"),
    ({"columns": ["a", "b"]}, "columns: .* has to map a format's names"),
    ({"columns": {"instruction": 5}}, "columns: .* has to map a format's names"),
    (
        {"score": "IFD"},
        "score: 'IFD' in the recipe has to be a list of entries such as '- IFD: {model",
    ),
    ({"score": {"Length": {}}}, "score: .* has to be a list"),
    ({"score": None}, "score: None in the recipe has to be a list"),
    ({"score": []}, r"score: \[\] in the recipe has to be a list"),
    ({"select": []}, r"select: \[\] in the recipe has to be a list of entries such as '- TopK"),
    ({"score": [5]}, "score: 5 is not one entry such as"),
    ({"score": [{"Length": {}, "IFD": {}}]}, "is not one entry such as"),
    ({"score": [{"IFD": "gpt2"}]}, "IFD: 'gpt2' is not arguments and values such as"),
    ({"score": [{"Length": [1]}]}, r"Length: \[1\] is not arguments"),
    ({"score": ["IFD"]}, "IFD needs the argument 'model', such as '- IFD: {model"),
    ({"score": [{5: {}}]}, "no scorer '5'"),
    (
        {"score": ["Lenght"]},
        r"no scorer 'Lenght': did you mean 'Length'\? \(there are: .*IFD, .*Length, .*Perplexity",
    ),
    ({"score": ["TopK"]}, "no scorer 'TopK': there are: .*IFD"),
    ({"select": ["Length"]}, "no selector 'Length'"),
    ({"select": [{"TopK": {"by": "ifd", "kk": 1}}]}, "TopK has no argument 'kk': did you mean 'k'"),
    (
        {"score": [{"IFD": {"model": "gpt2", "modle": 1}}]},
        "IFD has no argument 'modle': did you mean 'model'",
    ),
    ({"select": [{"TopK": {"by": "ifd", 5: 1}}]}, "TopK has no argument 5"),
    ({"select": [{"TopK": {"by": "ifd", "k": "ten"}}]}, "TopK: k='ten': give a number of rows"),
    ({"select": [{"TopK": {"by": "ifd", "k": [1]}}]}, r"TopK: k=\[1\]: give a number of rows"),
    ({"select": [{"TopK": {"by": "ifd"}}]}, "TopK: k=None, tokens=None: give one of the two"),
    ({"select": [{"TopK": {"by": 5, "k": 1}}]}, "TopK: by=5: name the column"),
    (
        {"select": [{"TopK": {"by": "ifd", "k": 1, "largest": "no"}}]},
        "TopK: largest='no': give True or False",
    ),
    (
        {"select": [{"Threshold": {"by": "ifd", "below": "1.0"}}]},
        "Threshold: below='1.0': give a number",
    ),
    ({"select": [{"RandomSample": {"k": 1, "seed": "x"}}]}, "RandomSample: seed='x'"),
    (
        {"score": [{"Length": {"columns": "response"}}]},
        "Length: columns='response': name two columns",
    ),
    ({"score": [{"Length": {"columns": ["a", "b", "c"]}}]}, "name two columns"),
    ({"score": [{"Length": {"name": "a b"}}]}, "name='a b'"),
    ({"score": [{"Length": {"name": 5}}]}, "name=5"),
    ({"score": [{"Length": {"unit": "words"}}]}, "unit='words'"),
    ({"score": [{"IFD": {"model": 5}}]}, "IFD: model=5: give a Hub id"),
    ({"score": [{"IFD": {"model": "x", "variant": "boss"}}]}, "variant='boss': did you mean 'bos'"),
    ({"score": [{"IFD": {"model": "x", "dtype": "float"}}]}, "dtype='float': did you mean"),
    ({"score": [{"IFD": {"model": "x", "max_length": "long"}}]}, "max_length='long'"),
    ({"score": [{"IFD": {"model": "x", "batch_tokens": 1.5}}]}, "batch_tokens=1.5"),
    ({"scores": ["Length"]}, r"unknown key 'scores' in the recipe: did you mean 'score'"),
    ({"dataset:": "x"}, "unknown key 'dataset:' in the recipe: did you mean 'dataset'"),
    ({5: "x"}, "unknown key 5 in the recipe: there are: "),
]


@pytest.mark.parametrize(
    ("changes", "complaint"), WRONG, ids=[str(changes) for changes, _ in WRONG]
)
def test_what_a_recipe_says_wrong_is_one_clear_sentence(changes, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        Recipe.from_yaml(recipe_of(changes))
    assert "\n" not in str(caught.value) and "__init__" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", 5),
        ("dtype", [1]),
        ("name", 5),
        ("name", [1]),
        ("columns", [1]),
        ("max_length", "1"),
        ("variant", 5),
    ]
    + [(key, 5) for key in ("columns", "device", "revision", "attn_implementation")],
)
def test_a_model_setting_of_a_wrong_type_is_refused_before_any_row_is_read(key, value):
    with pytest.raises(ValueError, match=f"IFD: {key}="):
        Recipe.from_yaml(recipe_of(score=[{"IFD": {"model": "embedded:weak", key: value}}]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dataset: [x", "the recipe is not YAML: "),
        ("dataset: x\n\tscore: y", "the recipe is not YAML: "),
        ("a: !!python/object:os.system {}", "the recipe is not YAML: "),
        ("", "is not a mapping"),
        ("- dataset", "is not a mapping"),
        ("just words", "is not a mapping"),
    ],
)
def test_what_is_no_yaml_mapping_says_so_in_one_line(text, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        Recipe.from_yaml(text)
    assert "\n" not in str(caught.value)


def test_a_recipe_file_that_is_missing_or_no_text_says_so(tmp_path):
    (tmp_path / "alpaca.yaml").write_bytes("dataset: é".encode("latin-1"))
    with pytest.raises(FileNotFoundError, match=r"no recipe .*did you mean 'alpaca\.yaml'"):
        Recipe.read(tmp_path / "alpacca.yaml")
    with pytest.raises(FileNotFoundError, match="no recipe"):
        Recipe.read(tmp_path)
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        Recipe.read(tmp_path / "alpaca.yaml")


def test_a_recipe_made_in_python_is_checked_too():
    assert Recipe("x", score=[Length()], select=[TopK("length", 1)]).score == (Length(),)
    for parts in [{}, {"score": Length()}, {"score": ["Length"]}]:
        with pytest.raises(ValueError, match="a recipe needs a list of"):
            Recipe("x", **parts)
    with pytest.raises(ValueError, match=r"score: Length is a class, not a scorer: give .* Length"):
        Recipe("x", score=[Length])
    with pytest.raises(ValueError, match="select: TopK is a class, not a selector"):
        Recipe("x", score=[Length()], select=[TopK])


# Third parties


def test_a_third_party_s_scorer_is_named_by_package_and_class(mine, tmp_path):
    recipe = Recipe.from_yaml(
        recipe_of(
            score=[{f"{mine}:Vowels": {"letters": "ä"}}],
            select=[{"TopK": {"by": "vowels", "k": 1}}],
        )
    )
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert f"{mine}:Vowels" in recipe.to_yaml()
    selection = recipe.run(tmp_path / "run")
    assert selection.table["vowels"][:] == [
        float(text.count("ä")) for text in selection.table["response"][:]
    ]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{mine}:Nobody", "cannot be imported: .*no attribute 'Nobody'"),
        ("no_such_module:Vowels", "cannot be imported: No module named"),
        (":Vowels", "cannot be imported"),
        (".relative:Vowels", "cannot be imported"),
        ("embedded:weak", "cannot be imported"),
        ("{mine}:number", "is no class"),
        ("{mine}:Picky", "Picky needs the argument 'size'"),
    ],
)
def test_a_third_party_s_name_that_cannot_be_used_says_why(mine, entry, complaint):
    with pytest.raises(ValueError, match=complaint):
        Recipe.from_yaml(recipe_of(score=[entry.format(mine=mine)]))


def test_a_third_party_s_type_error_becomes_a_sentence_about_the_recipe(mine):
    with pytest.raises(ValueError, match=f"{mine}:Picky: .*concatenate"):
        Recipe.from_yaml(recipe_of(score=[{f"{mine}:Picky": {"size": "x"}}]))


def test_a_plain_function_cannot_be_written_down_and_says_so_before_anything_is_scored(tmp_path):
    recipe = Recipe("embedded:sample", score=[Length()], select=[lambda table, pool: pool])
    with pytest.raises(ValueError, match="cannot be written into a recipe"):
        recipe.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Running


def test_a_recipe_on_the_embedded_sample_leaves_its_files(tmp_path):
    (tmp_path / "short.yaml").write_text(
        recipe_of(select=[{"TopK": {"by": "length", "k": 0.1, "largest": False}}])
    )
    recipe = Recipe.read(tmp_path / "short.yaml")
    selection = recipe.run(tmp_path / "run")
    rows = load_rows("embedded:sample")
    assert len(selection.table) == len(rows) and len(selection.rows) == len(rows) // 10
    assert selection.subset["length"][:] == sorted(selection.table["length"][:])[: len(rows) // 10]
    assert selection.run == tmp_path / "run"
    assert Recipe.read(tmp_path / "run" / "recipe.yaml") == recipe
    assert load_rows(tmp_path / "run/selected.parquet").to_list() == selection.subset.to_list()
    assert load_rows(tmp_path / "run/scored.parquet").to_list() == selection.table.to_list()
    assert recipe.run(tmp_path / "run").rows.tolist() == selection.rows.tolist(), (
        "a second run goes on from the first"
    )


def test_a_recipe_without_select_only_scores_and_run_says_what_is_missing(tmp_path):
    recipe = Recipe.from_yaml(recipe_of(select="left out"))
    with pytest.raises(ValueError, match=r"the recipe selects nothing: .*'select' such as '- TopK"):
        recipe.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "length" in recipe.score_rows(tmp_path / "run").column_names
    assert Recipe.read(tmp_path / "run/recipe.yaml") == recipe
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "run.log.jsonl",
        "chunks.npy",
        "length",
        "recipe.yaml",
        "scored.parquet",
    }


@pytest.mark.parametrize("name", ["scored.parquet", "recipe.yaml", "selected.parquet"])
def test_a_death_while_a_file_is_written_leaves_the_earlier_one_whole(tmp_path, monkeypatch, name):
    recipe, again = (
        Recipe.from_yaml(recipe_of()),
        Recipe.from_yaml(recipe_of(select=[{"RandomSample": {"k": 2}}])),
    )
    recipe.run(tmp_path)
    before = (tmp_path / name).read_bytes()

    def die(unfinished, target):
        if Path(target).name == name:
            raise KeyboardInterrupt
        unfinished.rename(target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        again.run(tmp_path)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_recipe_beside_a_recorded_one_loses_no_scorer_and_reads_the_rows_as_that_did():
    recorded = Recipe(
        "a.jsonl",
        score=[Length(), Length(name="chars")],
        select=[TopK("length", 1)],
        columns={"a": "b"},
    )
    asked = Recipe("a.jsonl", score=[Length("tokens", model="m", name="chars"), Perplexity("m")])
    both = asked.merge(recorded)
    assert both.score == (Length(), *asked.score)
    assert both.select == recorded.select and both.columns == {"a": "b"}
    assert asked.merge(None) == asked


def test_every_way_of_reading_rows_in_a_recipe_reaches_the_scorer(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "Hi", "a": "Hello"}\n')
    recipe = Recipe.from_yaml(
        recipe_of(
            dataset=str(tmp_path / "rows.jsonl"),
            split="train",
            format="dolly",
            template="Q: {instruction} A:",
            columns={"instruction": "q", "response": "a"},
            select=[{"RandomSample": {"k": 1}}],
        )
    )
    row = recipe.run(tmp_path / "run").table[0]
    assert (row["prompt"], row["response"], row["length"]) == ("Q: Hi A:", "Hello", 5)
