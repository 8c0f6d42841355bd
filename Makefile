# Everything runs from .venv, which the first target that needs it makes.

PYTHON ?= python3
ARGS ?=
SBOM ?= sbom.json
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SBOM_BIN := $(VENV)/sbom/bin
SBOM_STAMP := $(VENV)/sbom/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install train test test-fast lint types directions audit sbom format clean

help: ## list the targets
	@echo "usage: make TARGET [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install the project with pinned versions, once

# The stamp is written last, so an interrupted install is taken up again by the next make.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON must be Python 3.11 or newer, got $(PYTHON) ($$($(PYTHON) --version 2>&1)); choose another with: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing into $(VENV): this downloads several GB, once, and takes some minutes."
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: $(STAMP) ## train on the embedded data set, choose thresholds, register the model (ARGS: overrides)
	@$(BIN)/python jobs/train_imagenet.py --recipe jobs/recipes/embedded.yaml $(ARGS)

# What starts Ray goes by itself: its processes want all cores. pytest ends with 5 where ARGS leave no test.
test: $(STAMP) ## run every test, those without Ray in two processes (ARGS: pytest's)
	@$(BIN)/pytest -m "not ray" --numprocesses 2 --dist loadfile $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/pytest -m ray $(ARGS) || [ $$? -eq 5 ]

test-fast: $(STAMP) ## run the tests that need neither Ray nor patience
	@$(BIN)/pytest -m "not ray and not slow" $(ARGS)

lint: $(STAMP) ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	@$(BIN)/python -m mypy

directions: $(STAMP) ## check who imports whom
	@$(BIN)/lint-imports

audit: $(STAMP) ## look for known vulnerabilities of the pinned packages
	@$(BIN)/python .ci/audit.py

# An environment of its own: it has a grammar of URLs installed that jsonschema, and with it each process of Ray, reads
# when it starts if it is there, for a second of a core.
$(SBOM_STAMP): $(STAMP)
	@rm -rf $(VENV)/sbom
	@$(BIN)/python -m venv $(VENV)/sbom
	@$(SBOM_BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt cyclonedx-bom
	@touch $@

# Written from what is installed, without the network; --no-validate as a test checks it, a part at a time.
sbom: $(SBOM_STAMP) ## write sbom.json, all that is installed as CycloneDX (SBOM=FILE)
	@$(SBOM_BIN)/cyclonedx-py environment --of JSON --sv 1.6 --output-reproducible --no-validate \
	  --pyproject pyproject.toml -o $(SBOM) $(BIN)/python 2>/dev/null
	@echo "sbom: $(SBOM) lists $$(grep -c '"bom-ref"' $(SBOM)) components"

format: $(STAMP) ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .

clean: ## remove caches and build leftovers; keeps .venv, data, runs and MLflow's records
	@rm -rf build dist platform/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find platform jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +
