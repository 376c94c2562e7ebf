# Every target creates a virtual environment with pinned versions. Required are only Python 3.11 or later and a
# C++ compiler (g++).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

CUDA_VENV := .venv-cuda
CUDA_BIN := $(CUDA_VENV)/bin
CUDA_READY := $(CUDA_VENV)/.ready
# The oldest supported release of torch, and the compiler of its CUDA version.
CUDA_TORCH := torch==2.11.0
CUDA_COMPILER := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85

.PHONY: demo test lint bench soak readme cross-check gpu-check clean

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

# Distributed by file and in order: files that compile for minutes have few tests and come first.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: $(READY)
	$(BIN)/python -m precast.tools.bench.compile_time
	$(BIN)/python -m precast.tools.bench.encoder_bench
	$(BIN)/python -m precast.tools.bench.generation
	$(BIN)/python -m precast.tools.bench.steps
	$(BIN)/python -m precast.tools.bench.floor
	$(BIN)/python -m precast.tools.bench.aims
	$(BIN)/python -m precast.tools.bench.profile
	$(BIN)/python -m precast.tools.bench.readme

soak: $(READY)
	$(BIN)/python -m precast.tools.bench.soak --output benchmarks/results/generation_soak.json

readme: $(READY)
	$(BIN)/python -m precast.tools.bench.readme

# Downloads several GB of packages. No GPU is needed.
$(CUDA_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_BIN)/pip install --quiet --upgrade pip
	grep -vE '^(torch|setuptools)==' constraints.txt > $(CUDA_VENV)/constraints.txt
	echo $(CUDA_TORCH) >> $(CUDA_VENV)/constraints.txt
	$(CUDA_BIN)/pip install --quiet --constraint $(CUDA_VENV)/constraints.txt $(CUDA_COMPILER) --editable '.[compile]'
	touch $(CUDA_READY)

gpu-check: $(CUDA_READY)
	$(CUDA_BIN)/python -m precast.tools.gpucheck
	$(CUDA_BIN)/python -m precast.tools.gpucheck --suite generation
	$(CUDA_BIN)/python -m precast.tools.bench.readme

cross-check: $(CUDA_READY)
	$(CUDA_BIN)/python -m precast.tools.crosscheck

clean:
	rm -rf $(VENV) $(CUDA_VENV) build .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
