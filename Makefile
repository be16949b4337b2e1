# The same targets for people and for CI. `make demo` and `make test` need python3 (3.11 or later, with venv) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CT ?=

.PHONY: demo test lint types format bench chaos chaos-hosts soak fuzz sbom audit wheel screenshots
.SILENT:

demo: $(STAMP)
	$(BIN)/contourd demo $(if $(CT),"$(CT)") --output demo-output

# Tests of whole nodes one after another, the others beside them.
test: $(STAMP)
	$(BIN)/pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo "run 'make format'" >&2; exit 1; }

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

# The figures of docs/performance.md beside their peers; NAME chooses some. DCMTK and Orthanc are peers where they are installed.
NAME ?=
bench: $(VENV)/bench
	$(BIN)/python benchmarks $(NAME)

$(VENV)/bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[bench]'
	touch $@

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

# Two receivers, three workers, PostgreSQL and an object store; as root, for each host has namespaces of its own.
KILLS ?= 100
chaos-hosts: $(STAMP)
	$(BIN)/python -m tests.chaos --hosts $(KILLS)

soak: $(STAMP)
	$(BIN)/python -m tests.soak

# Hostile bytes against the node and the series reader; INPUTS, SEED and SECONDS bound it.
INPUTS ?= 100000
SEED ?= 1
SECONDS ?= inf
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED) --seconds $(SECONDS)

# What is installed, with versions, licences and origins; no network.
sbom: $(STAMP)
	$(BIN)/python -m pip inspect --local > sbom.json && echo "sbom.json"

# Known vulnerabilities of the pinned versions; asks the Python Packaging Advisory Database over the network.
audit:
	$(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

# What install.md installs, by a pip of its own and the build's own tools; nothing of the development environment.
wheel:
	$(PYTHON) -m venv .wheel
	.wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-input --no-deps --wheel-dir dist .
	cp constraints.txt dist/
	ls dist/*.whl dist/constraints.txt

screenshots: $(STAMP)
	$(BIN)/python -m tests.screenshots docs/screenshots
	$(BIN)/python -m tests.terminal docs/screenshots

$(STAMP): pyproject.toml constraints.txt
	echo "Installing contourd into $(VENV) (once; some minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[test,dev]'
	touch $@
