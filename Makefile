# make train   set up, train, test and draw; DATA=digits (a minute), cifar10, or a folder of yours
# make test    set up, then everything that must hold before a change lands
# make quick   set up, then the checks and tests that need less than a minute
# make mutate  mutation testing of the core modules: which changed lines do tests notice? (docs/mutation.md)
# make bench   set up, with the libraries we compare with, then measure and write experiments/benchmarks/README.md
# make docs    set up, with Sphinx, then build the site: build/docs/index.html
DATA ?= digits
PYTHON ?= python3
RUN := runs/$(notdir $(patsubst %/,%,$(DATA)))-$(shell date +%Y%m%d-%H%M%S)
BIN := .venv/bin
# Python compiles each module when it is first imported, most of PyTorch's never.
INSTALL := $(BIN)/pip install --quiet --no-compile --editable
# Tests wait for processes of their own so often that three workers keep two cores busy.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist worksteal
# Else every process would compile our modules again where the environment says so.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: train test quick test-slow mutate bench docs format clean

train: .venv/ready
	$(BIN)/vgg train --data $(DATA) --out $(RUN)
	$(BIN)/vgg test $(RUN)

test: .venv/ready-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports
	$(PYTEST)

quick: .venv/ready-test
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow and not integration"

test-slow: .venv/ready-test
	$(BIN)/pytest -m slow

mutate: .venv/ready-test
	$(INSTALL) .[mutate]
	$(BIN)/python scripts/mutate.py

bench: .venv/ready-bench
	$(BIN)/python -m experiments.benchmarks.run all

docs: .venv/ready-docs
	$(BIN)/python scripts/gallery.py
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo build/docs/index.html

format: .venv/ready-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vggnet needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml | $(BIN)/python
	$(INSTALL) .[report]
	touch $@

# What `make train` needs too: one call of pip takes half a minute less than two.
.venv/ready-test: pyproject.toml | $(BIN)/python
	$(INSTALL) .[test]
	touch .venv/ready $@

.venv/ready-bench: .venv/ready
	$(INSTALL) .[peers]
	touch $@

.venv/ready-docs: .venv/ready
	$(INSTALL) .[docs]
	touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
