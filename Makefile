# Every target sets up what it needs first; `make` alone prints the list.
.DEFAULT_GOAL := help
.PHONY: help setup build demo study bench validate test sanitize chaos lint format clean

BIN := .venv/bin
JOBS ?= 2

help: ## Print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Install what is missing, make .venv, build the library and the Python package
	@tools/setup.sh

build: setup ## Build all, the C++ tests and examples too
	@cmake --build --preset release -j $(JOBS)

demo: setup ## Train on Fashion-MNIST under each strategy (results in runs/demo)
	@$(BIN)/gearshift demo

study: setup ## Compare strategies over use cases and clusters (STUDY=FILE or options; runs/strategies)
	@$(BIN)/gearshift study $(if $(filter %.toml,$(STUDY)),,examples/studies/strategies.toml) $(STUDY)

bench: build ## Measure against the peers (BENCH="--quick" takes two minutes; results in runs/bench)
	@$(BIN)/gearshift bench $(BENCH)

validate: setup ## Compare simulations with real jobs (VALIDATE="--quick": two minutes; runs/validate)
	@$(BIN)/python -m gearshift.sim.validation $(VALIDATE)

test: ## Build, check and test all; prints a summary
	@JOBS=$(JOBS) tools/test.sh

sanitize: ## Run the C++ tests under AddressSanitizer, UBSan and ThreadSanitizer
	@tools/setup.sh packages
	@JOBS=$(JOBS) tools/sanitize.sh

chaos: build ## Kill and stop processes at random moments, ten rounds
	@GEARSHIFT_CHAOS_ROUNDS=$${GEARSHIFT_CHAOS_ROUNDS:-10} $(BIN)/python -m pytest -m chaos --timeout=3600

lint: setup ## Check format, layers, registration of tests, sizes and types
	@tools/lint.sh

format: ## Format C++ and Python in place
	@tools/setup.sh packages python
	@tools/format.sh --fix

clean: ## Remove what was built (.venv and runs/ stay)
	@rm -rf build dist python/gearshift/_core*.so python/gearshift/_core.pyi
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
