# `make run` shows what the package does, with the small model that ships with it; `make test` checks it.
# Both need only Python 3.11 or newer, and are quick when repeated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all lint browser pictures clean

run: .venv/run
	$(BIN)/ibot extract-features examples/photos -o features --overwrite
	@$(BIN)/python -c "import ibot_hub; print(ibot_hub.open_features('features'))"
	@ls -l features

# One process a core, and each of them one thread: two threads a process would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: lint
	$(PYTEST) -m "not long"

test-all: lint
	$(PYTEST)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests that drive the page run where a Chromium is found; this puts Debian's there.
browser:
	command -v chromium || (apt-get update --quiet --quiet && apt-get install --yes --quiet --quiet chromium)

# What the README shows, from the embedded model and the photographs.
PHOTOS := examples/photos
pictures:
	$(BIN)/ibot patterns find $(PHOTOS) --model tiny --size 224 --per-image 6 --pictures 1024 --picture-size 64 -o ibot_hub/embedded/atlas.parquet --overwrite
	$(BIN)/ibot attention $(PHOTOS)/butterfly.jpg -o examples/attention.png --size 240
	$(BIN)/ibot patterns show --top 24 -o examples/patterns.png
	$(BIN)/ibot patterns compose $(PHOTOS)/cat_chelsea.jpg -o examples/composition.png
	$(BIN)/ibot match --views $(PHOTOS)/astronaut.jpg --seed 5 -o examples/views.png
	$(BIN)/ibot components $(PHOTOS)/graf1.jpg $(PHOTOS)/graf3.jpg $(PHOTOS)/flower_dahlia.jpg -o examples/components.png
	$(BIN)/ibot extract-features $(PHOTOS) -o .venv/both --tokens both --overwrite
	$(BIN)/ibot index .venv/both --of patches -o .venv/patches
	$(BIN)/ibot search .venv/patches $(PHOTOS)/graf1.jpg --at 320,200 -o examples/hits.png

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
