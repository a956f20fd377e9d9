# make train   set up, train, test and draw; DATA=digits (a minute), cifar10, or a folder of yours
# make test    set up, then everything that must hold before a change lands
DATA ?= digits
PYTHON ?= python3
RUN := runs/$(notdir $(patsubst %/,%,$(DATA)))-$(shell date +%Y%m%d-%H%M%S)
BIN := .venv/bin

.PHONY: train test test-slow bench format clean

train: .venv/ready
	$(BIN)/vgg train --data $(DATA) --out $(RUN)
	$(BIN)/vgg test $(RUN)

test: .venv/ready-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

test-slow: .venv/ready-test
	$(BIN)/pytest -m slow

bench: .venv/ready
	$(BIN)/python benchmarks/augment.py

format: .venv/ready-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vggnet needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/ready-test: .venv/ready
	$(BIN)/pip install --quiet --editable .[test]
	touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
