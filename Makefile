# Set-up, the demo, the tests. `make setup` needs only Python >= 3.11 and git; uv is bootstrapped when absent.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
READY := $(VENV)/.ready
# Container images often set it. Then each process would compile torch's sources anew, for eight seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo gpu test lint lock

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## install everything into .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11; name a newer one with 'make PYTHON=python3.12 setup'" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x "$(UV)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

# Three at a time: with two, one of two cores would be idle in the last round of nine runs.
demo: setup  ## train and compare three fusion variants on two CPU cores
	$(BIN)/workbench submit ablations/demo.yaml --workers 3
	$(BIN)/workbench table ablations/demo.yaml
	$(BIN)/workbench figure all ablations/demo.yaml

# Nothing is installed for it: it takes the Python that has torch, as it is, and names what is missing.
gpu:  ## check and measure the GPU here in ten minutes, into gpu.json
	@python=$(PYTHON); \
	$$python -c 'import torch' 2>/dev/null || { test -x $(BIN)/python && python=$(BIN)/python; }; \
	PYTHONPATH=. $$python -m workbench doctor --gpu --out gpu.json

# Two processes with one thread each: more threads than cores would only slow each other down. The groups of tests
# (tests/conftest.py) begin in the order of their folders, so that the longest, the cluster's, is not the last.
test: setup  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

lint: setup  ## ruff, mypy, import directions, stripped notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lock: setup  ## recompile requirements.lock after an edit of pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --group dev --no-emit-index-url pyproject.toml -o requirements.lock
