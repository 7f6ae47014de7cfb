"""The `evaluate` module of rank consistency: loaded from its folder, with no network, it gives our
own numbers.
"""

import doctest
import importlib
import inspect
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml
from evaluate.loading import evaluation_module_factory, get_imports
from test_agreement import same, scores

import hf_superfilter
from hf_superfilter.metrics.rank_consistency.agreement import rank_consistency

FOLDER = Path(hf_superfilter.__file__).parent / "metrics" / "rank_consistency"


@pytest.fixture(autouse=True)
def _own_evaluate_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the cache of modules is appended to it
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("evaluate_modules"):
            del sys.modules[name]


@pytest.fixture
def metric():
    return evaluate.load(str(FOLDER))


@pytest.fixture
def pair():
    return [side.tolist() for side in scores(300, missing=0.1, levels=5)]


SETTINGS = {
    "budgets": (0.1, 0.3),
    "largest": False,
    "below": 2.0,
    "confidence": 0.9,
    "resamples": 50,
    "seed": 3,
}


def test_the_metric_gives_the_numbers_of_the_package_with_the_same_settings(metric, pair):
    same(metric.compute(predictions=pair[0], references=pair[1]), rank_consistency(*pair))
    same(
        metric.compute(predictions=pair[0], references=pair[1], **SETTINGS),
        rank_consistency(*pair, **SETTINGS),
    )


def test_its_settings_and_their_defaults_are_those_of_the_package(metric):
    def settings(function):
        return {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.default is not p.empty
        }

    assert settings(metric._compute) == settings(rank_consistency)
    assert all(
        p.kind is not p.VAR_KEYWORD for p in inspect.signature(metric._compute).parameters.values()
    )


def test_rows_may_come_one_by_one_and_in_batches_without_losing_a_digit(metric):
    weak, strong = (
        np.random.default_rng(0).random((2, 40)) * 1e-9 + 1
    )  # as float32 they would all be equal
    for first in range(0, 30, 7):
        metric.add_batch(
            predictions=weak[first : min(first + 7, 30)],
            references=strong[first : min(first + 7, 30)],
        )
    for a, b in zip(weak[30:], strong[30:], strict=True):
        metric.add(prediction=a, reference=b)
    assert len(metric) == 40
    same(metric.compute(resamples=20), rank_consistency(weak, strong, resamples=20))


def test_null_and_nan_are_rows_without_a_score(metric):
    weak = [None, math.nan, *range(1, 30)]
    found = metric.compute(predictions=weak, references=[1.0] * 2 + weak[2:], resamples=0)
    assert (found["pairs"], found["dropped"]) == (29, 2)


def test_two_of_them_are_combined_and_keep_their_figures_apart(metric, pair):
    both = evaluate.combine(
        {"one": metric, "two": evaluate.load(str(FOLDER), keep_in_memory=True)}, force_prefix=True
    )
    both.add_batch(predictions=pair[0], references=pair[1])
    found, alone = both.compute(resamples=0), rank_consistency(*pair, resamples=0)
    assert found["one_spearman"] == found["two_spearman"] == alone["spearman"]
    assert found["two_notes"] == alone["notes"]
    assert "overlap@0.05" in evaluate.combine([str(FOLDER)]).compute(
        predictions=pair[0], references=pair[1], resamples=0
    )


def test_bad_input_is_told_as_by_the_package(metric):
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        metric.compute(predictions=[1.0, 2.0], references=[1.0])
    for scores_of, settings, message in (
        ([1.0, math.inf], {}, "1 weak scores are infinite, the first in row 1"),
        ([1.0, 2.0], {"budgets": [2.0]}, "budgets="),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.load(str(FOLDER), keep_in_memory=True).compute(
                predictions=scores_of, references=[1.0, 2.0], **settings
            )


SECOND_PROCESS = """
import json, sys
sys.modules["hf_superfilter"] = None  # whoever imports it now gets an ImportError
import evaluate
folder, cache, weak, strong = json.loads(sys.argv[1])
metric = evaluate.load(folder, num_process=2, process_id=1, experiment_id="two", cache_dir=cache)
metric.add_batch(predictions=weak, references=strong)
assert metric.compute(resamples=20) is None
print(json.dumps(evaluate.load(folder).compute(predictions=weak, references=strong, resamples=20)))
"""


def test_two_processes_share_the_rows_though_one_has_a_copy_of_the_folder_and_no_package(
    tmp_path, pair
):
    weak, strong = ([None if math.isnan(value) else value for value in side] for side in pair)
    folder, cache = tmp_path / "elsewhere" / "rank_consistency", str(tmp_path / "shared")
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__*"))
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_EVALUATE_OFFLINE": "1", "PATH": ""}
    call = [
        sys.executable,
        "-c",
        SECOND_PROCESS,
        json.dumps([str(folder), cache, weak[200:], strong[200:]]),
    ]
    with subprocess.Popen(
        call, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True
    ) as second:
        first = evaluate.load(
            str(FOLDER), num_process=2, process_id=0, experiment_id="two", cache_dir=cache
        )
        first.add_batch(predictions=weak[:200], references=strong[:200])  # waits for the second
        found = first.compute(resamples=20)
        out, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    same(found, rank_consistency(*pair, resamples=20))
    same(json.loads(out), rank_consistency(weak[200:], strong[200:], resamples=20))


def test_the_script_names_every_file_beside_it_as_evaluate_copies_only_those():
    beside = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "rank_consistency"}
    found = get_imports(str(FOLDER / "rank_consistency.py"))
    assert {name for kind, name, *_ in found if kind == "internal"} == beside
    assert {name for kind, name, *_ in found if kind == "library"} == {"datasets", "evaluate"}
    for path in FOLDER.glob("*.py"):
        assert not re.search(
            r"^\s*(from|import) (hf_superfilter|\.\.)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )


def test_the_examples_of_the_loaded_script_and_of_its_help_run(metric):
    module = importlib.import_module(evaluation_module_factory(str(FOLDER)).module_path)
    results = doctest.testmod(module, raise_on_error=True)
    assert results.attempted > 5 and results.failed == 0
    text = metric.inputs_description.replace("USER/rank_consistency", str(FOLDER))
    examples = doctest.DocTestParser().get_doctest(text, dict(vars(module)), "help", None, 0)
    assert len(examples.examples) > 5
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_card_says_what_a_space_needs_and_its_example_runs():
    _, front, text = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["sdk"] == "static" and front["tags"] == ["evaluate", "metric"] and front["title"]
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(example.replace('"USER/rank_consistency"', repr(str(FOLDER))), names)
    shown = dict(re.findall(r"`([\w@.]+)` is ([\d.]+)", text))
    assert len(shown) == 3
    for key, value in shown.items():
        assert names["found"][key] == pytest.approx(float(value), abs=5e-4)
    table = set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    keys = {re.sub("_(low|high)$|@.*", "", key) for key in names["found"]}
    assert {key.removesuffix("_chance") for key in keys} == table


def test_what_the_card_requires_is_what_the_package_requires():
    required = (FOLDER / "requirements.txt").read_text(encoding="utf-8").split()
    project = FOLDER.parents[2] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("an installed package has no pyproject.toml")
    assert all(f'"{line}"' in project.read_text(encoding="utf-8") for line in required)
    assert {line.split(">")[0] for line in required} == {"datasets", "evaluate", "numpy"}
