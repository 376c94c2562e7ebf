# Every target makes its own environment with pinned versions; nothing else needs to be installed
# but Python 3.11 or later and a C++ compiler (g++).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench readme clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m precast.tools.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

bench: $(READY)
	$(BIN)/python -m precast.tools.bench.throughput
	$(BIN)/python -m precast.tools.bench.cold_start
	$(BIN)/python -m precast.tools.bench.readme

readme: $(READY)
	$(BIN)/python -m precast.tools.bench.readme

clean:
	rm -rf $(VENV) build .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
