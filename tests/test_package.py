"""The package as a whole: public names, habits, the wheel."""

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_superfilter
from hf_superfilter.recipes.entries import public_names

HOME = Path(hf_superfilter.__file__).parent
FILES = {
    ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(HOME.rglob("*.py"))
}

# Public names


def test_the_public_names_are_those_of_the_stub_sorted():
    stub = ast.parse((HOME / "__init__.pyi").read_text(encoding="utf-8"))
    names = {alias.asname: alias.name for node in stub.body[1:] for alias in node.names}
    assert all(public == name for public, name in names.items()), "`X as X` is a re-export"
    assert hf_superfilter.__all__ == sorted(names) == dir(hf_superfilter)


@pytest.mark.parametrize("name", hf_superfilter.__all__)
def test_every_public_name_can_be_imported_has_a_docstring_and_is_what_its_module_holds(name):
    value = getattr(hf_superfilter, name)
    assert value is getattr(sys.modules[f"hf_superfilter.{hf_superfilter._HOME[name]}"], name)
    assert value is getattr(hf_superfilter, name), "also at the second access"
    assert value.__doc__


PARTS = [*public_names("score"), *public_names("select")]


@pytest.mark.parametrize("name", PARTS)
def test_every_argument_of_a_scorer_or_selector_is_explained_where_its_docstring_leads(name):
    kind = getattr(hf_superfilter, name)
    bases = [base for base in kind.__mro__[1:] if f"`{base.__name__}`" in kind.__doc__]
    text = "\n".join(inspect.getdoc(part) for part in (kind, *bases))
    for argument in inspect.signature(kind).parameters:
        assert re.search(rf"^    (\w+, )*{argument}(, \w+)*: ", text, re.MULTILINE), argument


def test_no_public_name_is_that_of_a_module():
    assert not set(hf_superfilter.__all__) & {module.split(".")[0] for module in FILES}


def test_an_unknown_name_answers_with_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'TopK'"):
        _ = hf_superfilter.Topk


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, hf_superfilter, hf_superfilter.cli.app; dir(hf_superfilter)\n"
        "hf_superfilter.IFD('x'), hf_superfilter.TopK('ifd', 1), hf_superfilter.select, "
        "hf_superfilter.score\n"
        "hf_superfilter.Length()({'prompt': ['a'], 'response': ['b c']})\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'evaluate') if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# Habits


@pytest.mark.parametrize("module", FILES)
def test_no_error_is_swallowed_and_no_input_is_checked_with_assert(module):
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), (
            f"line {node.lineno}: raise ValueError with what to do"
        )
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            names = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
            silent = all(isinstance(part, ast.Pass) for part in node.body)
            assert not (silent and names & {"Exception", "BaseException"}), (
                f"line {node.lineno}: says nothing"
            )


def test_no_file_has_a_name_that_says_nothing_or_shadows_the_standard_library():
    names = {path.stem for path in FILES.values()} - {"__init__", "__main__"}
    assert not names & {"utils", "helpers", "common", "misc"}
    assert not names & set(sys.stdlib_module_names)


# The wheel


def test_the_wheel_holds_models_sample_and_type_marker_and_stays_small(tmp_path):
    pytest.importorskip("hatchling", reason="the wheel is built where the test extra is installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=HOME.parent, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "py.typed",
        "embedded/sample.jsonl",
        "embedded/weak/model.safetensors",
        "embedded/weak/tokenizer.json",
    }
    wanted |= {"cards/report.html.j2", "cards/dataset.md.j2", "recipes/catalogue.yaml"}
    wanted |= {f"metrics/rank_consistency/{name}" for name in ("README.md", "requirements.txt")}
    wanted |= {
        path.relative_to(HOME).as_posix()
        for path in [*FILES.values(), *HOME.glob("recipes/*.yaml")]
    }
    assert {f"hf_superfilter/{name}" for name in wanted} <= inside
    assert not [
        name
        for name in inside
        if name.endswith((".pyc", ".unfinished")) or name.startswith("tests")
    ]
    assert wheel.stat().st_size < 30e6
