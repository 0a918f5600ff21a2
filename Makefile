# Every target sets up what it needs; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?=
GPU_ARGS ?=

.PHONY: search test check format gpu clean

search: $(VENV)/.run-ready
	$(BIN)/python search.py search_space=hybrid $(ARGS)

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Everything that needs a GPU, in stages that go on where they stopped. GPU_ARGS='--only bench' for some of them.
gpu: $(VENV)/.test-ready
	$(BIN)/python scripts/gpu_suite.py $(GPU_ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# pip takes the torch that its index offers within the bound of pyproject.toml: with CUDA from PyPI on Linux. For a CPU
# build, point PIP_INDEX_URL or PIP_FIND_LINKS at one before the first run.
$(VENV)/.run-ready: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.test-ready: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@ $(VENV)/.run-ready

clean:
	rm -rf $(VENV) outputs
