# The newcomer's two commands are `make demo` and `make test`; the rest is for those who stay.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test check bench prove format lock clean
help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/runtime ## hear a simulated network for a minute, in two regions
	$(BIN)/soulseek-research demo

test: $(VENV)/development ## the whole suite, on an embedded PostgreSQL
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/development ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/development ## performance, as ratios taken side by side in one run
	$(BIN)/python -m tests.benchmarks

prove: $(VENV)/development ## the slower proofs: minutes of faults under load
	$(BIN)/pytest -m prove --timeout 1800 tests/acceptance

format: $(VENV)/development ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve again, without naming an index
	uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet -c requirements.lock -o requirements-dev.lock

clean: ## forget the virtual environment
	rm -rf $(VENV)

# Each stamp stands for an installed lock. The environment is made only where there is none: a half-made one is
# removed by `make clean`.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the project needs into $(VENV) (once; a minute or two) ..."
	$(PIP) --no-deps --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/development: requirements-dev.lock $(VENV)/runtime
	@echo "Installing what tests and checks need ..."
	$(PIP) --no-deps --require-hashes --requirement requirements-dev.lock
	@touch $@
