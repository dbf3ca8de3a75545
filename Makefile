# Everything sets itself up: only Python >= 3.11, make and a package registry are needed.
PYTHON ?= python3
VENV := .venv
BASELINE := .venv-baseline
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage test-fast lint docs benchmark benchmark-baseline lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the locked dependencies and this project

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed; name one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	command -v $(UV) >/dev/null || $(BIN)/python -m pip install -q uv
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(READY) ## Fit, evaluate and draw on images made on the spot: about a minute on a CPU
	$(BIN)/padim fit data=demo data.category=flange
	$(BIN)/padim fit data=demo data.category=fabric
	$(BIN)/padim report runs out=report.html

test: lint ## Lint, check types and run all tests and doctests, a process for each core
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

coverage: $(READY) ## Run all tests and print what they cover: about twice as long
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered

test-fast: $(READY) ## The tests of the method and of the data alone: about a minute
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow" tests/padim tests/datamodules

docs: $(READY) ## Build the API pages from the docstrings into build/docs
	$(BIN)/pdoc -o build/docs padim datamodules

lint: $(READY) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict padim

benchmark: $(READY) ## Measure a fit, a score and a sweep on this machine: some minutes
	$(BIN)/padim benchmark

benchmark-baseline: $(READY) ## Install what `padim benchmark baseline=anomalib` compares with
	$(PYTHON) -m venv $(BASELINE)
	$(UV) pip install -q --python $(BASELINE)/bin/python -c requirements.lock anomalib==2.7.0

lock: ## Renew requirements.lock from pyproject.toml
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra dev --no-emit-package padim-lightning -o requirements.lock pyproject.toml

clean: ## Remove environments and caches; data and runs stay
	rm -rf $(VENV) $(BASELINE) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
