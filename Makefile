# Two commands do everything, set-up included: `make repro` and `make test`. `make check` runs ruff and mypy.
PYTHON ?= python3
# Relative names and the shell's own PWD, so that the checkout may lie in a folder with spaces and other signs in its name.
VENV := .venv
BIN := $(VENV)/bin
UV := $(if $(shell command -v uv 2>/dev/null),uv,$(BIN)/uv)
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-long check lock clean

setup: $(INSTALLED)

# Bytecode is compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, no later process stores it.
$(INSTALLED): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || uv venv --python ">=3.11,<3.14" $(VENV)
	@command -v $(UV) >/dev/null || $(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV="$$PWD/$(VENV)" $(UV) pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV="$$PWD/$(VENV)" $(UV) pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q pipeline stages cli
	@touch $@

repro: setup
	dvc repro

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

# What does not fit into ten minutes: every stage killed and finished, models of published size.
test-long: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long $(TESTS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Resolves again from the bounds in pyproject.toml; the lock holds hashes and no addresses.
lock:
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements.lock
