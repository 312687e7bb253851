# Everything happens in .venv, from fully pinned lock files. PYTHON may name another interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SOURCES := ddn_core ddn_plugins benchmarks tests docs

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-slow fuzz lint format types wheel docs bench lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

demo: $(VENV)/run.done ## Install, and train an MLP on the digits
	$(BIN)/ddn train docs/examples/digits.toml

test: $(VENV)/dev.done $(VENV)/browser.done ## Install what the tests need, and run all but the slow ones
	$(PYTEST) -m "not slow"

test-all: test wheel test-slow ## Run all tests, and what make wheel does

test-slow: $(VENV)/dev.done ## Run the slow tests, and the property tests with more examples
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "slow or hypothesis"

fuzz: $(VENV)/dev.done ## Run the property tests with many new examples; a failure prints what reproduces it
	HYPOTHESIS_PROFILE=fuzz $(PYTEST) -m hypothesis

lint: $(VENV)/dev.done ## Check format and style
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: $(VENV)/dev.done ## Format, and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

types: $(VENV)/dev.done ## Check the types
	$(BIN)/mypy

wheel: $(VENV)/dev.done ## Build a wheel, install it into an empty environment, and train there
	sh requirements/check_wheel.sh $(BIN)/python

docs: $(VENV)/dev.done $(VENV)/browser.done ## Build the documentation, warnings are errors, and check links and search
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_site.py

bench: $(VENV)/dev.done $(VENV)/bench.done ## Measure against the peers, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks all
	$(BIN)/python -m benchmarks report

lock: ## Pin the newest versions of everything anew
	sh requirements/make_lock.sh $(PYTHON)

clean: ## Remove the environment and what was built
	rm -rf $(VENV) build dist docs/_build docs/gallery docs/sg_execution_times.rst

# torch comes in builds that need more than the lock file has (CUDA libraries): where it does not import, it is
# installed with what it needs.
$(VENV)/%.done: requirements/%.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ddn needs Python 3.11 or newer; name one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --requirement $<
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install --quiet "$$(grep '^torch==' $<)"
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The tests of the report look at its page in Chromium. It is installed once, where it is missing and can be installed;
# where it cannot, these tests are skipped, and the last line that pytest prints says so.
$(VENV)/browser.done: requirements/install_browser.sh | $(VENV)/dev.done
	sh $<
	touch $@
