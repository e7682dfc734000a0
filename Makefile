# make app   set up once, then start the page on http://127.0.0.1:7860
# make test  set up once (a browser included), then lint, types and every test but the slow ones; the browser's
#            by themselves, for they wait on the page's clocks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test test-slow lint screenshots clean
app: $(VENV)/.installed
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/.installed-dev $(VENV)/.browser lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --ignore tests/ui $(ARGS)
	$(BIN)/python -m pytest -m "not slow" tests/ui

test-slow: $(VENV)/.installed-dev $(VENV)/.browser
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

screenshots: $(VENV)/.installed-dev $(VENV)/.browser
	$(BIN)/python tools/screenshots.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.browser: $(VENV)/.installed-dev tools/get_browser.sh
	sh tools/get_browser.sh $(BIN)/python
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
