# Everything a newcomer needs: `make demo` runs the main job, `make test` the checks. Both set themselves up first.
# All paths are relative, so that a checkout below a folder with a space in its name works.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin/python
JOBS ?= 2
SIDE_BY_SIDE := tests/zoo tests/compiler tests/specs

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports unit doctor clean

help:
	@echo "make demo    set up, search two- to four-layer hybrids, write runs/demo/report.html   (minutes)"
	@echo "make test    set up, then ruff, mypy, import-linter and pytest"
	@echo "make setup   only set up: a virtual environment in .venv"
	@echo "make doctor  versions, device, threads and what is missing"
	@echo "make clean   remove .venv and caches (runs/ stays)"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or say PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; say PYTHON=/path/to/a/newer/python"; exit 1; }
	@echo "About to install into $(VENV)/ of this folder (nothing outside it is touched):"
	@echo "  torch, pydantic, optuna, fvcore, altair and the test tools, at the versions of constraints.txt."
	@echo "  About 1 GB with a CPU build of torch, several GB where the package index serves a CUDA build."
	@echo "  For a CPU build on Linux: make setup PIP_ARGS='--extra-index-url <the CPU wheel index of pytorch.org>'"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[test]'
	@touch $(VENV)/.ready

demo: setup
	$(BIN) -m archspec search specs/studies/demo.yaml --out runs/demo

test: lint types imports unit

lint: setup
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

types: setup
	$(BIN) -m mypy

imports: setup
	$(VENV)/bin/lint-imports

# What starts no process of its own runs JOBS tests at a time; the rest kills workers and servers, one test at a time.
unit: setup
	$(BIN) -m pytest -n $(JOBS) $(SIDE_BY_SIDE)
	$(BIN) -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

doctor: setup
	$(BIN) -m archspec doctor

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
