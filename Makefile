# `make demo` and `make test` need nothing but Python 3.11 or newer and the package index.

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$python" && break; done)
RUN := $(VENV)/bin/python
SOURCES := pyproject.toml constraints.txt
SECONDS ?=
ROWS ?=
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all explore torture finish bench bench-check bench-baseline profile check generate format examples clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or run make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Creating a virtual environment in $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

# The extra's name is the stamp's: .demo for `make demo`, .dev (which includes demo) for everything else.
$(VENV)/.%: $(VENV)/.python $(SOURCES)
	@echo "Installing zddm-flags[$*] into $(VENV) (half a minute)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@

demo: $(VENV)/.demo  ## Watch live data move between two stores, ramped and killed from a flag; SECONDS=28
	@$(RUN) -m zddm_flags demo $(if $(SECONDS),--seconds $(SECONDS))

test: $(VENV)/.dev  ## Run the tests; ARGS are for pytest
	@$(RUN) -m pytest --numprocesses 3 $(ARGS)

test-all:  ## Run the tests on every supported Python that is found, on the PATH or under pyenv
	@found=; for version in 3.11 3.12 3.13; do \
		python=; for candidate in "python$$version" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
			"$$candidate" -c '' >/dev/null 2>&1 && { python="$$candidate"; break; }; done; \
		if test -z "$$python"; then echo "== Python $$version was not found: skipped"; continue; fi; \
		echo "== Python $$version: $$python"; found="$$found $$version"; \
		$(MAKE) --no-print-directory test PYTHON="$$python" VENV=".venv-$$version" || exit 1; \
	done; test -n "$$found" || { echo "no supported Python was found" >&2; exit 1; }; echo "passed on Python$$found"

explore: $(VENV)/.dev  ## Explore more and larger interleavings of the protocol; SECONDS=60, SEED=a number
	@$(RUN) -m tests.explorer $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

torture: $(VENV)/.dev  ## Kill and cut off real processes and servers, check every read; SECONDS=30 each way, SEED=a number
	@$(RUN) -m tests.torture $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

finish: $(VENV)/.dev  ## Finish a migration of 1,000,000 rows under live writes and kills; ROWS=a number, SEED=a number
	@$(RUN) -m tests.finish $(if $(ROWS),--rows $(ROWS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(VENV)/.dev  ## Measure what the proxy costs, as ratios inside one run (four minutes); ARGS="--only reads", ARGS=--help
	@$(RUN) -m tests.benchmarks $(ARGS)

bench-check: $(VENV)/.dev  ## Fail where a ratio is more than 25 % above tests/benchmarks/baseline.json, beyond its spread
	@$(RUN) -m tests.benchmarks --check $(ARGS)

bench-baseline: $(VENV)/.dev  ## Write tests/benchmarks/baseline.json again
	@$(RUN) -m tests.benchmarks --baseline $(ARGS)

profile: $(VENV)/.dev  ## Draw the flame graph of a read that New serves: build/profile.svg; ARGS="--operation write --rate 0"
	@mkdir -p build
	@$(VENV)/bin/py-spy record --rate 500 --output build/profile.svg -- $(RUN) -m tests.benchmarks.profiled $(ARGS)

check: $(VENV)/.dev  ## Check lint, format, types and generated code
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) .ci/generate_sync.py --check
	@$(RUN) .ci/generate_vectors.py --check
	@$(RUN) -m mypy
	@$(RUN) -m pyright --pythonpath $(RUN)

examples: $(VENV)/.dev  ## Run every example
	@for example in examples/*.py; do echo "== $$example"; $(RUN) "$$example" || exit 1; done

generate: $(VENV)/.dev  ## Write the blocking twins and the hash vectors again
	@$(RUN) .ci/generate_sync.py
	@$(RUN) .ci/generate_vectors.py

format: $(VENV)/.dev  ## Format and fix what can be fixed
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

clean:  ## Remove virtual environments and caches
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
