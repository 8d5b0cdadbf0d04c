# The commands of a developer. `make` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTHON_FILES := $(wildcard app tests bench examples migrations)
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate

# `make test PYTHON=python3.13` creates a `.venv` of another Python again: these targets are then out of date.
VERSION := -c 'import sys; print(*sys.version_info[:3])'
ifneq ($(PYTHON),)
  ifneq ($(shell $(PYTHON) $(VERSION)),$(shell test ! -x $(BIN)/python || $(BIN)/python $(VERSION)))
    .PHONY: $(BIN)/python $(VENV)/.installed $(VENV)/.installed-dev
  endif
endif

.PHONY: help install install-dev run test test-all lint format lock openapi examples clients bench attacks chaos fuzz \
    docs dist image clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv with Millrace and its dependencies

install-dev: $(VENV)/.installed-dev ## Add the dependencies of tests and benchmarks to .venv

run: install ## Install, and serve on http://127.0.0.1:8400
	@exec $(BIN)/millrace serve

test: install-dev ## Check format, lint, types and import rules, and run the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 3 --dist loadfile

test-all: install-dev ## Run the tests on each Python and PostgreSQL that is installed (an hour)
	$(BIN)/python -m tests.versions

lint: install-dev ## Check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev ## Format the code, and apply the automatic fixes of ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install-dev ## Resolve the lock files again
	$(PIP) install --quiet uv
	$(COMPILE) --upgrade pyproject.toml --output-file requirements.lock
	$(COMPILE) --upgrade --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) --upgrade --group docs --output-file requirements-docs.lock

openapi: install ## Export openapi/openapi.json
	@mkdir -p openapi
	$(BIN)/millrace openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

examples: install-dev ## Store the answers that the OpenAPI document shows as examples
	$(BIN)/python -m tests.e2e.support.answer_examples > app/api/documents/answer_examples.json.new
	mv app/api/documents/answer_examples.json.new app/api/documents/answer_examples.json

clients: install-dev ## Generate clients in Go, TypeScript and Python, and run them (needs Go and Node)
	$(BIN)/python -m pytest -m clients tests/clients

bench: install-dev ## Run the benchmarks (15 minutes)
	$(BIN)/python -m bench

attacks: install-dev ## Run the attacks on the server's memory, beside a client that behaves (6 minutes)
	$(BIN)/python -m bench.attacks

chaos: install-dev ## Run the long campaigns of docs/reliability.md, and print their counts (hours)
	MILLRACE_CHAOS=long $(BIN)/python -m pytest -m slow -s tests/e2e tests/broker

fuzz: install-dev ## Fuzz the API with many random requests
	MILLRACE_FUZZ=long $(BIN)/python -m pytest -m "slow or not slow" -k fuzz

docs: .venv-docs/.installed ## Build the site of the documents in site/, and check all links
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

dist: install-dev ## Build the wheel and the source distribution in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

image: install ## Build the image millrace with its version
	docker build --build-arg VERSION=$$($(BIN)/python -c 'import app; print(app.__version__)') --tag millrace .

clean: ## Remove .venv, caches and build output, but no data
	rm -rf $(VENV) .venv-* build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	find $(PYTHON_FILES) -type d -name __pycache__ -prune -exec rm -rf {} +

# A candidate must run and create a venv: a pyenv shim may have no Python, and Debian packages venv separately.
$(BIN)/python:
	@test -z "$(PYTHON)" || "$(PYTHON)" $(VERSION) >/dev/null || exit 1; \
	rm -rf $(VENV); \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	    $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "Creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	done; \
	echo "Millrace needs Python 3.11 or newer with the module venv, and found none." >&2; \
	echo "Debian, Ubuntu:  apt install python3 python3-venv" >&2; \
	echo "Fedora:          dnf install python3" >&2; \
	echo "macOS:           brew install python" >&2; \
	echo "Or name a Python: make install PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.installed: requirements.lock pyproject.toml app/__init__.py | $(BIN)/python
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) install --quiet --requirement requirements-dev.lock
	@touch $@

.venv-docs/.installed: requirements-docs.lock | $(BIN)/python
	$(BIN)/python -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-docs.lock
	@touch $@
