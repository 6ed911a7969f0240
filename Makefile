.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo serve test bench bench-waiting chaos soak crashes mutants lint format samples screenshots lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed  ## create .venv with the locked dependencies

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {v[0]}.{v[1]} was found; name another with: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@echo "installing the locked dependencies into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## one portrait in, four photos out, on this machine alone
	@$(BIN)/cuggu demo

serve: install  ## the whole stack in the foreground, data kept in .cuggu/
	@$(BIN)/cuggu serve

test: install  ## every test, on its own embedded stack
	@$(BIN)/pytest -n auto --dist worksteal

chaos: install  ## 100 schedules of kills and cut wires over the real processes (SCHEDULES=100 SEED=1)
	@$(BIN)/python -m tests.chaos --schedules $(or $(SCHEDULES),100) --seed $(or $(SEED),1)

soak: install  ## a steady load at 80 % of the provider's ceiling, with faults, for MINUTES=30
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

crashes: install  ## kill processes at every pair of crash points (a quarter of an hour)
	@$(BIN)/pytest -n auto -m exhaustive tests/test_crashes.py

mutants: install  ## plant each known defect and see it caught by its check
	@$(BIN)/python -m tests.mutants

bench: install  ## measure everything beside its peers, in half an hour (ONLY=P1 for one measure)
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

bench-waiting: install  ## 10,000 clients that wait on one API process: memory, processor, delay
	@$(BIN)/python -m bench.waiting

lint: install  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

samples: install  ## draw the page's style samples anew
	@$(BIN)/python -m cli.style_samples

screenshots: install  ## take the documents' pictures of the page anew
	@$(BIN)/python -m tests.screenshots

lock:  ## resolve the dependencies anew (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --extra embedded --extra dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 -c requirements.lock pyproject.toml -o requirements-production.lock

clean:  ## forget the virtual environment and the local data
	@# Under root below a closed directory PostgreSQL's data lies elsewhere, behind a link.
	@if [ -d .cuggu ]; then find .cuggu -type l -name postgres -exec sh -c 'rm -rf "$$(readlink -f "$$1")"' _ {} \; ; fi
	rm -rf .venv .cuggu
