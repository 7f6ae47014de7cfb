"""The command leaves at once, with its exit code, and after everything that asked to run last."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
from hf_superfilter.__main__ import run
sys.argv = ["hf-superfilter", *{words!r}]
class Late:
    def __del__(self):
        print("taken apart")
keep = Late()
def last():
    print("handler")
from hf_superfilter.cli import app
real = app.main
def main():
    atexit.register(last)
    real()
app.main = main
run()
"""


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["nonsense"], 1), (["score", "/no/such.jsonl"], 1)]
)
def test_the_exit_code_is_kept_and_handlers_run_but_nothing_is_taken_apart(words, code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(words=words)], capture_output=True, text=True
    )
    assert done.returncode == code
    assert "handler" in done.stdout and "taken apart" not in done.stdout
    assert ("error:" in done.stderr) == (code == 1)


def test_a_traceback_keeps_pythons_own_ending():
    program = PROGRAM.format(words=[]).replace("    real()", "    raise RuntimeError('defect')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "RuntimeError: defect" in done.stderr
    assert "taken apart" in done.stdout
