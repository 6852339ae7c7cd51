# Every target makes its own environment first and does nothing twice.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
# The tests mostly wait: three workers keep two cores busy. Files named in ARGS run in one process, at once.
WORKERS ?= 3
PEERS  := peers peers-quix
LOCK   := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long test-pythons list-pythons test-protocols judge chaos check format up down topics register-schemas bench peers lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}. Name another one: make PYTHON=/path/to/python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(READY) ## The environment: .venv with every dependency, each checked against its hash

up: $(READY) ## Start Kafka and the schema registry here, without Docker or Java
	@$(BIN)/python -m pipeline.local up

down: $(READY) ## Stop them; the data stays
	@$(BIN)/python -m pipeline.local down

topics: $(READY) ## Create the declared topics that are missing, then describe them
	@$(BIN)/python -m pipeline.topics apply $(ARGS)

register-schemas: $(READY) ## Register schemas/, refusing what breaks compatibility
	@$(BIN)/python -m pipeline.schemas register $(ARGS)

demo: $(READY) ## 25 900 real invoices, from a file to a table, end to end
	@$(BIN)/python examples/demo.py

test: $(READY) ## Unit, stage and integration tests, on a real broker and registry of their own
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses $(WORKERS))

test-long: $(READY) ## What make test leaves out because it takes minutes
	$(BIN)/python -m pytest -m long $(or $(ARGS),--numprocesses $(WORKERS))

# Every Python newer than the oldest one that is found here: by its name, or where pyenv keeps it.
PYTHONS ?= $(shell for v in 3.12 3.13 3.14; do command -v python$$v >/dev/null 2>&1 && python$$v -c '' 2>/dev/null && echo python$$v || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python$$v 2>/dev/null | tail -n 1; done)
test-pythons: ## Unit and stage tests on every newer Python that is here (PYTHONS=... names them)
	@test -n "$(PYTHONS)" || echo "No Python newer than 3.11 was found here: these tests ran on none."
	@for python in $(PYTHONS); do \
	    $$python --version && venv=.venv-py/$$(basename $$python) \
	        && $(MAKE) --no-print-directory VENV=$$venv PYTHON=$$python install \
	        && $$venv/bin/python -m pytest -q --numprocesses 2 tests/unit tests/stages || exit 1; \
	done

list-pythons:
	@printf '%s\n' $(PYTHONS)

test-protocols: $(READY) ## All that members of a group do, in both group protocols, static and dynamic (takes long)
	for protocol in classic consumer; do \
	    TEST_GROUP_PROTOCOL=$$protocol $(BIN)/python -m pytest -m 'long or not long' \
	        $(addprefix tests/integration/test_,$(addsuffix .py,consume failures groups order_through_failures outages processes redrive)) \
	        --numprocesses $(WORKERS) $(ARGS) || exit 1; \
	done

judge: $(READY) ## Avro's Java library on 10 000 random pairs of schemas and their data, beside the codec (needs a JDK and Maven)
	@$(BIN)/python -m tests.judge $(ARGS)

chaos: $(READY) ## Forwarders under faults on three brokers, ten seeds of two minutes, and what a checker finds
	@$(BIN)/python -m tests.chaos $(or $(ARGS),--seeds 10 --report docs/chaos/report.json)

check: $(READY) ## Lint, types, import contracts, links of the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pipeline.schemas check
	$(BIN)/python -m pytest -q tests/docs

format: $(READY) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## The pipeline beside the raw client and its peers, as ratios; writes docs/benchmarks
	@$(BIN)/python -m bench $(ARGS)

# Apart from .venv, which stays what requirements/dev.txt says; from Python 3.13 on, venv writes the .gitignore by itself.
# .venv-peers for requirements/peers.txt, .venv-peers-quix for requirements/peers-quix.txt.
.venv-%/.installed: requirements/%.txt | $(READY)
	@test -x .venv-$*/bin/python || $(BIN)/python -m venv .venv-$*
	@echo '*' > .venv-$*/.gitignore
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

peers: $(PEERS:%=.venv-%/.installed) ## The frameworks that make bench compares with, in .venv-peers and .venv-peers-quix

lock: ## Resolve the dependencies anew into requirements/ (needs uv)
	uv pip compile pyproject.toml --all-extras --group dev $(LOCK) --upgrade --output-file requirements/dev.txt
	uv pip compile pyproject.toml --extra api --extra postgres $(LOCK) --constraint requirements/dev.txt --output-file requirements/runtime.txt
	uv pip compile pyproject.toml --group peers $(LOCK) --upgrade --constraint requirements/dev.txt --output-file requirements/peers.txt
	uv pip compile --group peers-quix $(LOCK) --upgrade --output-file requirements/peers-quix.txt

clean: ## Remove what the tools left in the checkout
	rm -rf $(VENV) .venv-py $(PEERS:%=.venv-%) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .judge
