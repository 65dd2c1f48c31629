# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.featprobe-ready
# Test workers share the cores, so each gets one thread.
WORKERS ?= auto

help: ## show this text
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "featprobe needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## install, then extract, probe, finetune and report on built-in images (minutes, offline)
	$(BIN)/featprobe demo

test: $(READY) ## install, then run every test (no network, no GPU)
	OMP_NUM_THREADS=1 FEATPROBE_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(READY) ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## speed, as ratios against rivals measured in the same run
	$(BIN)/python -m tests.benchmarks

clean: ## remove the virtual environment and every tool's cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
