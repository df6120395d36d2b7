# Two commands do everything: `make demo` tries the node, `make test` tests it.
# `make run` starts a node that stays. See README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACS ?= folder
DICOM ?=
WORKERS ?= 2

.PHONY: help demo run test lint check soak site format lock clean
.DEFAULT_GOAL := help

help: ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(INSTALLED) ## Start a node and a PACS, send a study, show the results (DICOM=folder, PACS=orthanc)
	$(BIN)/dicom-node demo --pacs $(PACS) $(if $(DICOM),--dicom "$(DICOM)")

run: $(INSTALLED) dicom-node.toml ## Start a node that stays, configured by dicom-node.toml
	$(BIN)/dicom-node serve --config dicom-node.toml

test: $(INSTALLED) ## Run every test; installs the peers that tests need where it may
	@sh tests/install_peers.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: $(INSTALLED) ## Format, lint, types, import contracts
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint ## What to run before a commit: lint and the fast tests
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" tests/unit tests/store

soak: $(INSTALLED) ## The faults of the tests, many more of them (hours)
	DICOM_NODE_SOAK_KILLS=1000 DICOM_NODE_SOAK_CASES=1000000 DICOM_NODE_SOAK=1 \
		$(BIN)/python -m pytest -q --timeout=0 tests/fuzz tests/black_box tests/store tests/peers

site: $(INSTALLED) ## Build the documentation as a site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(INSTALLED) ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lock: $(INSTALLED) ## Pin what is installed now as constraints.txt
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//' | sort -f > constraints.txt

clean: ## Remove what these commands made, but not a node's data
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache

dicom-node.toml:
	cp deploy/example.toml dicom-node.toml
	@echo "Wrote dicom-node.toml; edit it to name your PACS."

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed (PYTHON=... make ...)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "The venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
