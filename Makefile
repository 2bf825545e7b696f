# make demo, make test: each makes the environment it needs in .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint format clean
help:
	@echo "make demo | test | lint | format | clean   (ARGS=... is handed on)"

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "mmmask needs Python 3.10 or newer; set PYTHON=..."; exit 1; }
	@echo "installing into .venv (once; about two minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/.installed
	$(BIN)/mmmask demo $(ARGS)

test: .venv/.installed
	$(BIN)/pytest $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .*_cache
