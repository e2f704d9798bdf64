# One command each: set up, test, lint, demo. Everything runs from .venv, which `make setup` fills from PyPI.
# PYTHON=... picks the interpreter for a new .venv (default: the first Python >= 3.11 found).

VENV  := .venv
STAMP := $(VENV)/.setup-done
BIN   := $(VENV)/bin

PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test lint demo clean distclean

help:
	@echo "make setup     create $(VENV) with everything the demo and the tests need"
	@echo "make demo      classify photographs on the simulated hardware"
	@echo "make test      run every test (PYTEST_ARGS='-k name' selects)"
	@echo "make lint      style and types"
	@echo "make clean     remove build products; make distclean removes $(VENV) too"

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

test: setup
	@$(BIN)/python -m emberline.cli.toolchain
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	@$(BIN)/emberline demo

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hw host sim tests bitstreams -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)
