# `make run` shows what the package does, with the small model that ships with it; `make test` checks it.
# Both need only Python 3.11 or newer, and are quick when repeated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all lint browser clean

run: .venv/run
	$(BIN)/ibot extract-features examples/photos -o features --overwrite
	@$(BIN)/python -c "import ibot_hub; print(ibot_hub.open_features('features'))"
	@ls -l features

test: lint
	$(BIN)/python -m pytest -m "not long"

test-all: lint
	$(BIN)/python -m pytest

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests that drive the page run where a Chromium is found; this puts Debian's there.
browser:
	command -v chromium || (apt-get update --quiet --quiet && apt-get install --yes --quiet --quiet chromium)

clean:
	rm -rf .venv features

# An empty file under .venv says which set is installed; it is made anew when the dependencies change.
.venv/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch .venv/run $@
