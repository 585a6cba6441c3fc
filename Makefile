# `make mnist` and `make test` do everything on a machine that has Python, make and access to the package registries.
# uv is used when it is there, pip when not.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.activebdl

# Whoever names a Python means that one, also when .venv is already there with another.
ifneq ($(origin PYTHON),file)
AGREES := agrees
endif

.DEFAULT_GOAL := help
.PHONY: help setup agrees mnist test test-slow test-browser notebooks check lint format ui wheel-test clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(AGREES)  ## an environment in .venv with everything in it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "activebdl needs Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV): minutes the first time, for torch is large"
	@if command -v uv >/dev/null; then \
	    test -x $(BIN)/python || uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	    uv pip install --quiet --python $(BIN)/python --editable '.[cli,dev]'; \
	else \
	    $(PYTHON) -c 'import ensurepip, venv' || \
	        { echo "this Python has no venv module; on Debian: apt install python3-venv"; exit 1; }; \
	    test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli,dev]'; \
	fi
	@touch $@

agrees: $(STAMP)
	@version='import sys; print(*sys.version_info[:2], sep=".")'; \
	there=$$($(BIN)/python -c "$$version"); asked=$$($(PYTHON) -c "$$version") || exit 1; \
	test "$$there" = "$$asked" || \
	    { echo "$(VENV) has Python $$there, and $(PYTHON) is $$asked: make clean first, or name another VENV"; exit 1; }

mnist: setup  ## power-BALD beside random on MNIST, from 20 to 1,000 labels
	@$(BIN)/activebdl compare mnist-1000 --jobs $(JOBS)

test: setup  ## the tests, JOBS of them at a time
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: setup  ## the tests that take minutes or fetch data
	@$(BIN)/python -m pytest -m slow

test-browser: setup  ## the labelling page in Chromium, installed first where it is missing and that is allowed
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	    .ci/chromium
	@$(BIN)/python -m pytest -m browser

notebooks: setup  ## the notebooks, from top to bottom, in place; with ACTIVEBDL_FAST=1 they are only tried, in a minute
	@$(BIN)/python notebooks/run.py

check: lint test  ## lint, types and tests: before every commit

lint: setup  ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: setup  ## ruff puts everything in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ui: setup  ## MLflow on this machine, with the curves of all runs
	@$(BIN)/activebdl ui

wheel-test: setup  ## the wheel, built, installed in an empty environment, and run outside the checkout
	@.ci/wheel-test $(BIN)/python

clean:  ## all that can be made again, but no data and no runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
