"""Python, commands and recipes of the README and of the documentation run as they stand.

They read a quarter of the embedded sample; the recipe of the README and the demo read all of it.
"""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.md"))


def blocks(language: str, page: Path = README) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(language, page)]


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")  # TRL's own default
@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_in_order(page, hub, short_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python", page):
        exec(compile(block, page.name, "exec"), names)
    if page == README:
        assert (tmp_path / "selected.parquet").exists()
        assert names["rows"]["ifd"][:] == names["selection"].subset["ifd"][:]
        assert len(names["rows"]) == 13


@pytest.mark.parametrize("page", with_blocks("console"), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_order(
    page, command, hub_environment, short_sample, quarter_of_sample, tmp_path
):
    recipes = blocks("yaml", page)
    if recipes:
        recipe = recipes[0].replace("embedded:sample", quarter_of_sample)  # for other processes too
        (tmp_path / "recipe.yaml").write_text(recipe)
    lines = [shlex.split(line) for block in blocks("console", page) for line in block.splitlines()]
    commands = [words for words in lines if words[0] in ("hf-superfilter", "torchrun")]
    assert commands
    for program, *words in commands:
        if program == "hf-superfilter":  # in this process, which saves an import of torch for each
            code, _, error = command(*words)
        else:
            words = [sys.executable, "-m", "torch.distributed.run", *words]
            environment = hub_environment | {"OMP_NUM_THREADS": "1"}
            process = subprocess.run(
                words, cwd=tmp_path, capture_output=True, text=True, env=environment
            )
            code, error = process.returncode, process.stderr
            assert process.stdout.count("report: runs/recipe/report.html") == 1, error
            assert (tmp_path / "runs/recipe/report.html").exists()
        assert code == 0, f"{words}\n{error}"


def test_every_command_stands_on_some_page():
    from hf_superfilter.cli.app import COMMANDS

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in COMMANDS if f"hf-superfilter {name}" not in text]
    assert set(missing) <= {"demo", "report"}, "demo is run by make, report by select"


def test_the_recipe_of_the_readme_runs(tmp_path):
    from hf_superfilter import Recipe

    selection = Recipe.from_yaml(blocks("yaml")[0]).run(tmp_path / "run")
    assert len(selection.rows) == 51
    assert Recipe.read(tmp_path / "run/recipe.yaml") == Recipe.from_yaml(blocks("yaml")[0])


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", *BENCHMARKS], ids=lambda page: page.stem
)
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    folders = "hf_superfilter|tests|benchmarks|notebooks|scripts|docs"
    for path in set(re.findall(rf"[` ]((?:{folders})/[\w/.-]*\w)", text)):
        assert (ROOT / path).exists(), path
    for target in set(re.findall(r"\]\(([\w./-]+\.md)\)", text)):
        assert (page.parent / target).exists(), target


def test_every_scorer_and_selector_stands_in_the_tables():
    from hf_superfilter import _HOME

    text = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    for name, home in _HOME.items():
        if home.startswith(("scoring.", "selection.")) and home != "selection.funnel":
            assert f"| `{name}(" in text, f"{name} has no row in docs/choosing.md"


def test_the_reference_names_every_public_name():
    import hf_superfilter

    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^::: hf_superfilter\.(\w+)$", text, flags=re.MULTILINE))
    # What a batch and its columns are is said at Scorer.
    assert documented == set(hf_superfilter.__all__) - {"Batch", "Columns"}


def test_the_page_of_models_begins_as_its_program_would_write_it():
    program = (ROOT / "tests/architectures.py").read_text(encoding="utf-8")
    heads = [
        ast.literal_eval(node.value)
        for node in ast.parse(program).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HEAD"
    ]
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert [page[: len(head)] for head in heads] == heads and len(heads) == 1


def test_the_readme_has_two_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160
