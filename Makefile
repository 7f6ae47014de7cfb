# Thin names for commands. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
# A virtual environment keeps its programs in another folder on Windows.
ifeq ($(OS),Windows_NT)
PROGRAMS := Scripts
else
PROGRAMS := bin
endif
BIN := .venv/$(PROGRAMS)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
LOWEST := .venv-lowest
# The examples and tests run on what is in the package: nothing may ask the network.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := true
# Dozens of processes of the tests would compile the package anew, and each run the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-browser test-lowest check docs bench clean

demo: .venv/installed
	$(BIN)/hf-superfilter demo

# Two tests at once, each with one thread: torch's threads of several processes would wait for each other.
# Each process takes half of the files, so that most fixtures are made once, and helps the other at the end.
test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The pages in Chromium, which has to be there; `make test` skips these tests where playwright is not.
test-browser: .venv/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

# The oldest release of every package that pyproject.toml names; uv picks them, pip cannot.
test-lowest: $(LOWEST)/tested
	OMP_NUM_THREADS=1 $(LOWEST)/$(PROGRAMS)/python -m pytest -n 2 --dist worksteal

check: .venv/checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/tested
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.coverage

# torch first and by itself, so that the pinned build is there before anything asks for "some torch".
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e .
	touch $@

.venv/tested: .venv/installed
	$(PIP) -e '.[test]'
	touch $@

.venv/browser: .venv/tested
	$(PIP) -e '.[test,browser]'
	touch $@

# TORCH is for a machine that lacks the oldest torch: make test-lowest TORCH=torch==2.13.0+cpu
$(LOWEST)/tested: pyproject.toml
	test -x $(LOWEST)/$(PROGRAMS)/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/$(PROGRAMS)/python -m pip install --quiet --disable-pip-version-check uv
	echo '$(TORCH)' > $(LOWEST)/overrides.txt
	$(LOWEST)/$(PROGRAMS)/uv pip install --quiet --python $(LOWEST)/$(PROGRAMS)/python --resolution lowest-direct --overrides $(LOWEST)/overrides.txt -e '.[test]'
	touch $@

.venv/checked: .venv/tested
	$(PIP) -e '.[dev]'
	touch $@

.venv/documented: .venv/installed
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf .venv $(LOWEST) runs build dist site .pytest_cache .ruff_cache .mypy_cache
