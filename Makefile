# make demo    install, then let the built-in model forget one concept and write a report
# make test    install, a headless browser too, then run every test
# make browser install a headless browser, as root on Debian; without one the tests of pages are skipped
# make check   ruff, format, mypy
# make bench   times beside plain implementations of the published way
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test browser check bench clean

demo: $(VENV)/.ready
	$(BIN)/formless demo

test: $(VENV)/.ready browser
	$(BIN)/python -m pytest

browser:
	@for name in chromium-headless-shell chromium chromium-browser google-chrome; do \
	  if command -v $$name >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null; \
	else false; fi || echo "no headless browser could be installed"

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# torch comes first and by its exact version, so that no other package's range can choose a larger build.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
