# The project's commands; `make` alone lists them. PYTHON chooses the interpreter that makes .venv.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Nothing that these commands start sends usage statistics.
export DO_NOT_TRACK := 1
export KEDRO_DISABLE_TELEMETRY := 1
export BENTOML_DO_NOT_TRACK := True

ARGS ?=
# Data set of the peers' benchmark and of the ablations, and where the peers' splits and lists go.
DATA ?= ml1m
WORK ?= data/peers
# Test processes; each runs single-threaded.
TEST_PROCESSES ?= 2

.PHONY: help install run test test-full lint format viz viz-picture docs peer-venvs peers ablations gpu-ml1m clean

help: ## List these commands.
	@echo "prismrec: multi-interest recommendation, from raw logs to a served model"
	@echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "First time here:  make run, then  $(BIN)/prismrec report"
	@echo "One stage:        make run ARGS='--pipelines codebook'"
	@echo "Real data:        make run ARGS='--env ml1m'   (PRISMREC_DATA_ROOT: where the data sets lie)"

install: $(STAMP) ## Create .venv and install everything into it (about two minutes, then nothing).

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $(STAMP)

run: install ## Run the eight stages on the embedded demo (kedro run $(ARGS)).
	$(BIN)/kedro run $(ARGS)

lint: install ## Check style, types and who imports whom.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Format the code and mend what can be mended by itself.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint ## Lint, then run the tests with coverage of src/ (at least 85 %).
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=85 $(ARGS)

test-full: lint ## The tests and the long ones too: real data, long fuzz.
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=85 $(ARGS)

viz: install ## Open Kedro-Viz on the eight stages.
	$(BIN)/kedro viz run $(ARGS)

viz-picture: install ## Draw docs/images/pipeline.png anew (needs chromium).
	$(BIN)/python scripts/viz_picture.py

docs: install ## Write docs/reference/ anew from the parameter models and the data contract.
	$(BIN)/python scripts/parameter_reference.py
	$(BIN)/python scripts/contract_reference.py
	$(BIN)/python scripts/bad_input_reference.py

peer-venvs: ## Create .venv-peers and .venv-recbole, the peers' own environments (benchmarks/README.md).
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements-peers.txt
	$(PYTHON) -m venv .venv-recbole
	.venv-recbole/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-recbole/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements-recbole.txt

peers: install ## Run and score the peers on the split of DATA (hours; resumes; benchmarks/README.md).
	$(BIN)/python -m benchmarks.peers.all --env $(DATA) --work $(WORK) $(ARGS)

ablations: install ## Run the ablations of HyMiRec and GemiRec on DATA (a minute to ten a cell; resumes).
	$(BIN)/python -m benchmarks.ablations --env $(DATA) --work data/ablations $(ARGS)

gpu-ml1m: install ## ML-1M with a 0.6B-shaped backbone on a GPU: utilisation, then training (resumes).
	$(BIN)/python -m benchmarks.gpu_ml1m --output benchmarks/results/gpu_ml1m.json $(ARGS)

clean: ## Remove caches and build folders, never data or the environment.
	rm -rf build dist .viz .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
