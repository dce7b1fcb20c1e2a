# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Override the place of the environment and the interpreter: make demo VENV=/data/venv PYTHON=python3.12
# STACK=onedl takes OneDL's forks of the OpenMMLab packages, in an environment of their own.

STACK ?= openmmlab
VENV ?= .venv$(if $(filter-out openmmlab,$(STACK)),-$(STACK))
PYTHON ?= python3
JOBS ?= 2

# tools/setup_env.py remembers what is done, so it may run before every target. An environment that
# exists keeps its interpreter, unless PYTHON is given.
SETUP = @$(PYTHON) tools/setup_env.py --venv "$(VENV)" --stack "$(STACK)" \
	$(if $(filter-out file,$(origin PYTHON)),--this-python)
BIN = "$(VENV)/bin"

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev peers demo test test-all docs lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  VENV=$(VENV) PYTHON=$(PYTHON) can be overridden, e.g. make demo VENV=/data/venv PYTHON=python3.12"

setup: ## create the environment and install everything
	$(SETUP)

setup-dev: ## the same, with pytest and ruff
	$(SETUP) --dev

peers: ## setup-dev, and beside it the environment of timm and transformers
	$(SETUP) --dev --peers

demo: setup ## train, test and draw a small detector on synthetic images
	@$(BIN)/python tools/demo.py

test: peers ## run the test suite; ARGS="-k attention" is handed to pytest
	@$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(ARGS)

test-all: peers ## the same, with what repeats on all models and formats
	@$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile -m "" $(ARGS)

docs: setup-dev ## build the documentation as a site, in site/
	@$(BIN)/mkdocs build --quiet

lint: setup-dev ## check style and format with ruff, types with mypy, imports against the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

clean: ## remove the environments and build leftovers; work_dirs and data stay
	@$(PYTHON) tools/setup_env.py --venv "$(VENV)" --remove
	@rm -rf build dist pvt_mm.egg-info site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find pvt_mm tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
