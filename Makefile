# Two commands for a fresh machine with Python, pip and make:
#   make compare   run the examples in every framework
#   make test      linters, type checker and the whole test suite
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
WORKERS ?= 2

# Of each framework. Small networks gain nothing from more, and on a busy machine threads that wait
# for each other lose everything; the workers of the test suite would fight for processors.
THREADS ?= 1
COUNT := OMP_NUM_THREADS=$(THREADS) TF_NUM_INTRAOP_THREADS=$(THREADS)
COUNT += TF_NUM_INTEROP_THREADS=$(THREADS)

.PHONY: compare test lint types suite test-slow test-cuda realports clean

compare: $(STAMP)
	$(COUNT) $(BIN)/python -m pytest --fwcompare examples $(ARGS)

test: lint types suite

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

suite: $(STAMP)
	$(COUNT) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not cuda" tests $(ARGS)

test-slow: $(STAMP)
	$(COUNT) $(BIN)/python -m pytest -m slow tests $(ARGS)

# Takes the environment as it is: a machine with a GPU often has its frameworks and no network.
test-cuda:
	PYTHONPATH=. $$(test -f $(STAMP) && echo $(BIN)/python || echo $(PYTHON)) \
		-m pytest -m cuda tests/cuda $(ARGS)

# Ports written by others. --no-deps: tf-keras asks for the full tensorflow, keras-hub for
# tensorflow-text, neither of which is needed here.
realports: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[realports]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps \
		tf-keras keras-hub kagglehub kagglesdk
	$(COUNT) $(BIN)/python -m pytest -m realports tests/realports $(ARGS)

# The stamp is written last, so that an installation that was cut off is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
