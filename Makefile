# `make` alone shows what there is. Every target does its own set-up: a virtual environment in .venv, then the install.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SITE   := $(VENV)/.site

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format bench wheel pages docs docs-check clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV); this takes two or three minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

install: $(STAMP)  ## Create .venv and install fedpriv with its tools, at the tested versions

demo: $(STAMP)  ## Watch private data come back out of what was sent (pictures in out/)
	$(BIN)/fedpriv demo tutorial --out $(OUT)
	$(BIN)/fedpriv demo one_image --out $(OUT)
	@echo; echo "next: source $(BIN)/activate, then docs/course/01_pointers.md (20 minutes), or fedpriv demo --list"

test: $(STAMP)  ## Run the tests and the doctests, on up to four cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-all: $(STAMP)  ## Run the slow tests as well
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m ""

lint: $(STAMP)  ## Check style, format and types; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Mend what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Measure: share exact, visits, seconds, memory
	$(BIN)/fedpriv bench

$(SITE): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $(SITE)

pages: $(STAMP)  ## Write the tables of what was measured (docs/measured/) into the pages
	$(BIN)/python docs/fill.py

docs: $(SITE)  ## Build the site in docs/_build/html; runs every demo (about ten minutes)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env -b html docs docs/_build/html

docs-check: $(SITE)  ## Build the site without running the demos: links, names, formulas
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env -D plot_gallery=0 -b html docs docs/_build/check

wheel: $(STAMP)  ## Build sdist and wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:  ## Remove .venv, caches and everything built or written
	rm -rf $(VENV) $(OUT) build dist docs/_build docs/gallery docs/generated docs/sg_execution_times.rst .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
