# The two commands of the README are `make demo` and `make test`; `make help` lists the others.
# Everything is installed once, with the versions of constraints.txt, into .venv. A change of pyproject.toml or of
# constraints.txt makes the next call install again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := textual_inversion_ext hub_cards

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

install: $(STAMP)  ## make .venv and install everything into it

demo: $(STAMP)  ## learn one word from five pictures and show it
	$(BIN)/textual-inversion demo

test: $(STAMP)  ## run the tests; ARGS="-k word" goes on to pytest
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## check style, docstrings and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet $(CODE)

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)  ## build dist/*.whl
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:  ## remove everything that make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# torch comes first and by itself, so that the second step finds it installed and never weighs another build of it.
# open_clip_torch comes without its dependencies: tests read one text file of it (CLIP's vocabulary), while its
# dependency torchvision would drag in a second torch.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed, and '$(PYTHON)' is not one. Install it, or name another: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it is in the package python3-venv." >&2; exit 1; }
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP) install --constraint constraints.txt setuptools torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[test,lint]'
	$(PIP) install --constraint constraints.txt --no-deps open_clip_torch
	@touch $@
