# Everything runs in a virtual environment inside the checkout; nothing else needs to be installed but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo serve test test-browser lint bench world clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## Install into .venv.

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,demo]'
	@touch $@

demo: setup  ## Serve the embedded model and watch the router learn; ARGS="--quick --json out.json", or --live.
	$(if $(findstring --live,$(ARGS)),$(BIN)/pip install --quiet --disable-pip-version-check -e '.[miniwob]')
	$(BIN)/pointsman demo $(ARGS)

serve: setup  ## Serve until Ctrl-C; ARGS="--port 9000".
	$(BIN)/pointsman serve $(ARGS)

test: setup lint  ## Lint, strict types, and every test that needs neither GPU nor browser; ARGS="-k store".
	$(BIN)/python -m pytest $(ARGS)

test-browser: setup  ## The dashboard in a headless Chromium, which is installed where root has apt-get.
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[browser]'
	@command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	  { echo "there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver)" >&2; exit 1; }
	$(BIN)/python -m pytest tests/browser $(ARGS)

lint: setup  ## Lint and strict types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## Measure every arm of the embedded world on every held-out screen; ARGS=--quick for a sample.
	$(BIN)/python -m examples.miniwob.evaluate $(ARGS)

world: setup  ## Make what is missing of the embedded world; ARGS=--fresh from nothing (hours; needs Chromium).
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[miniwob]'
	$(BIN)/python -m examples.miniwob.make $(ARGS)

clean:  ## Remove the environment and caches.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
