# Every target sets up what it needs in .venv; nothing is installed globally.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SHELL := /bin/bash
# Threads of OpenMP that spin for work starve whatever else runs.
export OMP_WAIT_POLICY ?= PASSIVE
# Most tests wait for a broker, so there is room for more processes than cores; each has a Kafka of its own.
JOBS ?= 3
IN_PARALLEL := --numprocesses $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup check test test-slow demo kafka quality chaos soak bench test-docker docs lock audit

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@echo "setting up $(VENV) from requirements.lock (some minutes the first time)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock -r requirements-dev.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.ready ## make .venv with everything in it

check: setup ## format, lint, types, layers, generated documentation
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m docs.generate --check

test: setup ## all tests: on a real Kafka where Java and Maven are at hand, which CI=true demands
	@$(RUN) -m tests.brokers fetch || [ "$$CI" != true ]
	@$(RUN) -m pytest $(IN_PARALLEL)

test-slow: setup ## all tests, each in its long form
	@FRAUDSTREAM_SLOW=1 $(RUN) -m pytest $(IN_PARALLEL)

demo: setup ## a stream scored live; BROKER=kafka, DEMO_SECONDS=60, DEMO_FLAGS=--json
	@$(RUN) -m demo $(DEMO_FLAGS)

kafka: setup ## fetch the jars of a real Kafka with Maven
	@$(RUN) -m tests.brokers fetch

quality: setup ## the Handbook streamed, 4 test weeks, on 1 and 8 partitions; and by law of label delay -> build/quality.json
	@$(RUN) -m benchmarks.quality

chaos: setup ## the fault plan, JOBS rows at once, the naive consumer beside; CHAOS_FLAGS="--only K7 --seed 5" -> build/chaos.json
	@$(RUN) -m tests.chaos --jobs $(JOBS) $(CHAOS_FLAGS)

soak: setup ## 30 minutes (SOAK_SECONDS) of steady traffic, and no leak by slope -> build/soak.json
	@$(RUN) -m tests.chaos.soak

bench: setup ## CPU per event against the floor -> build/bench.json
	@$(RUN) -m benchmarks.bench

test-docker: setup ## the integration suite on testcontainers; the image and the stack, which it builds
	@FRAUDSTREAM_TEST_BROKER=docker $(RUN) -m pytest $(IN_PARALLEL) tests/integration

docs: setup ## write the generated parts of the documentation anew
	@$(RUN) -m docs.generate

audit: setup ## known vulnerabilities, bill of materials, licences of the locks -> build/sbom.cdx.json
	@$(RUN) -m audit $(AUDIT_FLAGS)

lock: setup ## resolve the requirements anew
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade -o requirements.lock pyproject.toml
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
