"""Every notebook runs from top to bottom, and what it says of its own outputs is not stale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


# Two steps of training call what eight do.
SHORTER = {"compare_recipes": ("steps=8", "steps=2")}
SHORT_SAMPLE = """
from hf_superfilter.data import sources
sources.embedded_sample = lambda: {path!r}
"""


def code_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


# One notebook chooses its Hub before anything from Hugging Face is imported.
APART = [path for path in NOTEBOOKS if "HF_ENDPOINT" in "".join(code_of(path))]
HERE = [path for path in NOTEBOOKS if path not in APART]


def test_there_is_a_notebook():
    assert APART and HERE, "without one the tests below test nothing"


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")  # TRL's own default
@pytest.mark.parametrize("path", HERE, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, short_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long, short = SHORTER.get(path.stem, ("", ""))
    assert long in "".join(code_of(path))
    names = {}
    for number, cell in enumerate(code_of(path)):
        exec(compile(cell.replace(long, short), f"{path.name}, cell {number}", "exec"), names)
    assert list(tmp_path.glob("runs/*/run.json"))


@pytest.mark.parametrize("path", APART, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_as_a_program(path, quarter_of_sample, tmp_path):
    program = tmp_path / f"{path.stem}.py"
    program.write_text("\n".join([SHORT_SAMPLE.format(path=quarter_of_sample), *code_of(path)]))
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("runs/*/run.json"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_outputs_and_without_paths_or_errors(path):
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 2
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert "/home/" not in text and "/tmp/" not in text and "/root/" not in text
