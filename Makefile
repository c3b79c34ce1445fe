# make demo       install, then let the built-in model forget one concept and write a report
# make demo-large the same with a model that knows more: downloads 1.1 GB, needs 9 GB of disk and 10 GB of memory
# make test-fast  unit tests and tiny random models, in a fraction of the time: for the loop of editing and testing
# make test       install, a headless browser too, then run what CI runs
# make test-all   the slow stories too: tutorials, the notebook, the paper's commands, quantized models
# make check      ruff, format, mypy, the documentation site
# make docs       build the documentation site into site/, strictly
# make coverage   the lines of the package that make test-fast reaches, as a table
# make browser    install a headless browser, as root on Debian; without one the tests of pages are skipped
# make faults     every fault of every file, and every call that saves something fails once: an hour
# make bench      times beside plain implementations of the published way
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run in two processes of one thread each.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.PHONY: demo demo-large test test-all test-fast coverage browser check docs faults bench clean

demo: $(VENV)/.ready
	$(BIN)/formless demo

# A CPU that multiplies bfloat16 is several times as fast with it.
FAST_DTYPE = $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo bfloat16 || echo auto)

demo-large: $(VENV)/.ready
	$(BIN)/formless demo --model qwen2.5-coder-1.5b --suite quick --dtype $(FAST_DTYPE) --out demo-large

# Tests of one `xdist_group` stay in one process, because they share a fixture that is expensive (a cluster, a browser).
test: $(VENV)/.ready browser
	$(PYTEST) -n 2 --dist loadgroup --no-loadscope-reorder -m "not nightly"

test-all: $(VENV)/.ready browser
	$(PYTEST) -n 2 --dist loadgroup --no-loadscope-reorder

test-fast: $(VENV)/.ready
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not nightly"

coverage: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not slow and not nightly"
	$(BIN)/coverage report

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
	$(BIN)/mkdocs build --strict

docs: $(VENV)/.ready
	$(BIN)/mkdocs build --strict

faults: $(VENV)/.ready
	$(BIN)/python -m tools.faults
	FORMLESS_FAULTS=all $(PYTEST) tests/faults

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# torch comes first and by its exact version, so that no other package's range can choose a larger build.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site
