# Every target sets up what it needs: a virtual environment in the checkout, installed once, anew when the lists change.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist worksteal
BIN := $(VENV)/bin
LISTS := pyproject.toml constraints.txt
unexport PYTHONDONTWRITEBYTECODE  # pip compiles nothing here: each module is compiled once, when it is first imported

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-fast lint clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile | awk -F': *' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## train, publish and run a detector on real imagery (about 3 minutes on 2 cores)
	$(BIN)/dlpk demo

up: $(VENV)/.local  ## start PostgreSQL, S3, Prefect, MLflow and workers here, without containers
	$(BIN)/dlpk up

down: $(VENV)/.local  ## end them; their data stay
	$(BIN)/dlpk down

test: $(VENV)/.dev  ## run every test
	$(BIN)/pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.dev  ## run the quick tests: about a minute on 2 cores
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist dlpk_flows.egg-info dlpk-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dlpk-flows needs Python 3.11 or newer, got: $$($(PYTHON) --version 2>&1); say which: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: EXTRAS := train
$(VENV)/.local: EXTRAS := train,dask,local
$(VENV)/.dev: EXTRAS := train,dask,local,onnx,sign,test,dev
$(VENV)/.demo $(VENV)/.local $(VENV)/.dev: $(LISTS) | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$(EXTRAS)]" --constraint constraints.txt
	@touch $@
