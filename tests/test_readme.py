"""The README's Python, commands and recipe run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_in_order(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "selected.parquet").exists()
    assert (
        names["rows"]["ifd"][:] == names["selection"].subset["ifd"][:] and len(names["rows"]) == 51
    )


def test_the_commands_run_in_order(command, hub_environment, tmp_path):
    (tmp_path / "recipe.yaml").write_text(blocks("yaml")[0])
    lines = [shlex.split(line) for block in blocks("console") for line in block.splitlines()]
    commands = [words for words in lines if words[0] in ("hf-superfilter", "torchrun")]
    assert {"score", "select", "publish", "load", "consistency"} <= {words[1] for words in commands}
    for program, *words in commands:
        if (
            program == "hf-superfilter"
        ):  # here, which saves an import of torch for each; test_cli starts processes
            code, _, error = command(*words)
        else:
            words = [sys.executable, "-m", "torch.distributed.run", *words]
            environment = hub_environment | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                words, cwd=tmp_path, capture_output=True, text=True, env=environment
            )
            code, error = done.returncode, done.stderr
        assert code == 0, f"{words}\n{error}"
    assert (tmp_path / "selected.jsonl").exists()
    assert len((tmp_path / "subset.jsonl").read_text().splitlines()) == 51


def test_the_recipe_runs(tmp_path):
    from hf_superfilter import Recipe

    selection = Recipe.from_yaml(blocks("yaml")[0]).run(tmp_path / "run")
    assert len(selection.rows) == 51
    assert Recipe.read(tmp_path / "run/recipe.yaml") == Recipe.from_yaml(blocks("yaml")[0])


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:hf_superfilter|tests|benchmarks)/[\w/.]*)`", README)))
)
def test_every_path_that_the_readme_names_is_there(path):
    assert (ROOT / path).exists()


def test_every_scorer_and_selector_stands_in_the_tables():
    from hf_superfilter import _HOME

    for name, home in _HOME.items():
        if home.startswith(("scoring.", "selection.")):
            assert f"| `{name}(" in README, f"{name} has no row in the README's tables"
