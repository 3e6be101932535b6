## make demo             install into .venv and run the demonstration (DATA=name-or-path of a data yaml, for real data)
## make test             install with the development tools, then lint, type check and all tests (ARGS="-k kld" for some, JOBS=2 processes)
## make bench            suppression against its peers; with STOCK= OURS= DATA= VIDEO= whole pipelines too (benchmarks/)
## make lint | types     one of the checks
## PYTHON=python3.12     the interpreter that .venv is made from; VENV=folder puts it elsewhere

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint types kernels

help:
	@sed -n 's/^## //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/yolo-uncert demo $(if $(DATA),data=$(DATA))

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/suppression.py
	$(if $(STOCK),$(BIN)/python benchmarks/pipeline.py $(STOCK) $(OURS) $(DATA) $(VIDEO))

# Types and kernels side by side, since each keeps one core busy.
test: lint
	@$(MAKE) --no-print-directory --jobs=2 types kernels
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Compiled once and kept in numba's cache, so that the processes of the tests do not compile them side by side.
kernels: $(VENV)/.installed-dev
	@$(BIN)/python -c 'from yolo_uncert.ops import warm_up; warm_up()'

# The pip of the environment, not its python: where ensurepip is missing, venv fails after it has made the latter.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(INSTALL) --retries=1 --timeout=5 --upgrade pip 2>/dev/null || true # pip 23 takes twice the time of 26

$(VENV)/.installed: EXTRA :=
$(VENV)/.installed-dev: EXTRA := [dev]
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable ".$(EXTRA)"
	@$(BIN)/python -c 'import cv2' \
		|| { echo "OpenCV lacks a system library (Debian, Ubuntu: apt install libgl1 libglib2.0-0)" >&2; exit 1; }
	@touch $@
