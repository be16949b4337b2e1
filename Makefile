# The same targets for people and for CI. `make demo` and `make test` need python3 (3.11 or later, with venv) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CT ?=

.PHONY: demo test lint types format bench screenshots
.SILENT:

demo: $(STAMP)
	$(BIN)/contourd demo $(if $(CT),"$(CT)") --output demo-output

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo "run 'make format'" >&2; exit 1; }

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

bench: $(STAMP)
	for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

screenshots: $(STAMP)
	$(BIN)/python -m tests.screenshots docs/screenshots

$(STAMP): pyproject.toml constraints.txt
	echo "Installing contourd into $(VENV) (once; some minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[test,dev]'
	touch $@
