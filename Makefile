SHELL := /bin/bash
VENV := .venv
PACKAGES := python3-venv softhsm2 nginx-light aria2 openssl opensc

.PHONY: help packages venv collection test test-fast
help: ## this list
	@grep -E "^[a-z-]+:.*##" Makefile
packages: ## Debian packages that the tests need
	@dpkg-query -W $(PACKAGES) >/dev/null 2>&1 || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(PACKAGES); }
collection:
	@mkdir -p .cache/collections/ansible_collections/onprem && ln -sfn ../../../.. .cache/collections/ansible_collections/onprem/deepseek
$(VENV)/stamp: requirements-dev.txt
	python3 -m venv $(VENV) && $(VENV)/bin/pip install -q -r requirements-dev.txt && touch $@
venv: $(VENV)/stamp
test-fast: packages venv collection ## unit tests, without hosts
	$(VENV)/bin/python -m pytest -q tests/unit
test: test-fast ## what passes today: the unit tests
