# Every target prepares what it needs, on a fresh Debian 12 or Ubuntu 22.04 too: see scripts/prepare.
#   make demo       the agent at work on files that stand in for volumes
#   make check      what must be clean before a commit: lint, format, types, shell, units
#   make test       check, then the unit, component and loop tiers
#   make test-sanity  csi-sanity: the conformance suite of Kubernetes' storage plugins
#   make helm       fetch the helm that `make check` and the chart's tests use, where there is none
#   make fuzz       feed the parsers nonsense, for FUZZ_SECONDS (60) in all; make test-all leaves it out
#   make test-all   test, then the guest tier: real NVMe devices in a virtual machine
#   make test-kubernetes  the tier with real Kubernetes; make build-kubernetes builds its programs once, in half an hour
#   make bench      measure the agent
#   make screenshots  the status page's pictures in docs (Chromium and pngquant)
#   make build      wheel and source distribution into dist/
#   make bundle     what is put into S3: everything a node without internet needs, into dist/
#   make image      the controller's container image, for both processors, into dist/
#   make node-image the image by which the chart installs the agent on nodes that run already, into dist/
#   make lock       resolve the dependencies anew
#   make proto      generate the code of agent/csi/wire from its .proto files
# Variables: PYTHON=python3.12 chooses the venv's Python, PYTEST_ARGS="-k grow -x" goes to pytest,
# REQUIRE_TIERS=unit,component,loop,sanity,fuzz,chart,vm,kubernetes makes a skipped tier a failure.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Images of containers have Python keep no bytecode: each process would compile anew all that it imports.
export PYTHONDONTWRITEBYTECODE :=
# Debian keeps mkfs where only root looks.
export PATH := $(PATH):/usr/sbin:/sbin
# Tests and measurements start the agent a thousand times: as on a node, its modules are compiled once.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --no-input --retries 5
UV_VERSION := 0.13.9
GRPCIO_TOOLS_VERSION := 1.85.1

PYTHON_SOURCES := agent tests $(wildcard bench)
SHELL_SCRIPTS = $(shell grep -rlIE '^\#!.*\b(ba)?sh\b' $(wildcard .ci scripts systemd lifecycle_scripts deploy monitoring tests))
UNITS := $(wildcard systemd/*.service systemd/*.target systemd/*.socket systemd/*.timer)

PYTEST = $(BIN)/python -m pytest $(if $(REQUIRE_TIERS),--require-tiers $(REQUIRE_TIERS))
FAST_TIERS := $(wildcard tests/unit tests/component tests/loop tests/chart)
# Each worker has tests that lie together; PYTEST_ARGS=-n0 has one process run them all. By hand three for two cores,
# since a third of the time they wait; in CI, which tries the thorough cases too, one for each.
CORES := $(shell nproc)
WORKERS := $(if $(CI),$(CORES),$(shell echo $$(($(CORES) + ($(CORES) + 1) / 2))))
PARALLEL := --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal
# Each may have two guests of 1.5 GiB. Files stay whole, since tests of one may build on one another.
PARALLEL_GUESTS := --numprocesses $(shell nproc) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A recipe that names MAKE itself is run by `make -n`, too, and with .ONESHELL the whole of it.
MAKE_AGAIN := $(MAKE)

.PHONY: help venv check test test-sanity helm fuzz test-vm build-kubernetes test-kubernetes test-all demo bench screenshots build bundle image node-image lock proto clean

help:
	@sed -n 's/^# \?//; /^$$/q; p' Makefile

# The venv comes in two sizes: what the agent runs with, and on top of it what it is developed with.
$(BIN)/python:
	scripts/prepare
	"$$(scripts/find-python)" -m venv --clear $(VENV)

$(VENV)/run.stamp: requirements/run.txt requirements/build.txt pyproject.toml agent/__init__.py | $(BIN)/python
	$(PIP_INSTALL) --require-hashes --only-binary :all: -r requirements/run.txt -r requirements/build.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# Without looking for what is needed, since all of it is locked: pip takes what is needed with an extra,
# httpx2[http2], for something that is not.
$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	$(PIP_INSTALL) --require-hashes --only-binary :all: --no-deps -r requirements/dev.txt
	touch $@

venv: $(VENV)/dev.stamp

check: $(VENV)/dev.stamp
	scripts/prepare check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PYTHON_SOURCES)
	$(MAKE_AGAIN) --silent $(VENV)/shell.stamp
	$(if $(UNITS),scripts/verify-units $(UNITS))
	$(BIN)/python -m tests.chart.helm lint

# The slowest of them, and few changes are to a script, or to what scripts source beside them.
$(VENV)/shell.stamp: $(SHELL_SCRIPTS) $(wildcard lifecycle_scripts/*.* monitoring/slurm/*.*) $(VENV)/dev.stamp
	$(or $(wildcard $(BIN)/shellcheck),shellcheck) --external-sources $(SHELL_SCRIPTS)
	touch $@

test: $(VENV)/dev.stamp
	scripts/prepare test
	$(MAKE_AGAIN) --no-print-directory check
	$(PYTEST) $(PARALLEL) $(PYTEST_ARGS) $(FAST_TIERS)

test-sanity: $(VENV)/dev.stamp
	scripts/prepare test
	scripts/find-go --install >/dev/null || true # without it the tier is skipped, and says why
	$(PYTEST) --numprocesses 2 --dist loadfile $(PYTEST_ARGS) tests/sanity

helm: $(VENV)/dev.stamp
	$(BIN)/python -m tests.chart.helm fetch

fuzz: $(VENV)/dev.stamp
	scripts/prepare fuzz
	$(PYTEST) $(PARALLEL) $(PYTEST_ARGS) tests/fuzz

test-vm: $(VENV)/dev.stamp
	scripts/prepare vm
	$(PYTEST) $(PARALLEL_GUESTS) $(PYTEST_ARGS) tests/vm

build-kubernetes: $(VENV)/dev.stamp
	$(BIN)/python -m tests.kubernetes.programs

test-kubernetes: $(VENV)/dev.stamp
	scripts/prepare kubernetes
	$(PYTEST) $(PARALLEL_GUESTS) $(PYTEST_ARGS) tests/kubernetes

test-all: test test-sanity test-vm

demo: $(VENV)/run.stamp
	scripts/prepare demo
	scripts/demo

bench: $(VENV)/dev.stamp
	scripts/prepare bench
	$(BIN)/python -m bench

screenshots: $(VENV)/dev.stamp
	SCREENSHOTS=docs $(BIN)/python -m pytest -n0 -q tests/component/test_page.py -k fits
	pngquant --force --skip-if-larger --quality 70-98 --strip --ext .png docs/status-page*.png

build: $(VENV)/dev.stamp
	$(BIN)/python -m build --no-isolation

bundle: $(VENV)/dev.stamp
	$(BIN)/python -m scripts.bundle

image: $(VENV)/dev.stamp
	scripts/prepare image
	$(BIN)/python -m scripts.image controller

node-image: $(VENV)/dev.stamp
	scripts/prepare image
	$(BIN)/python -m scripts.image node

# One version of each dependency for all Pythons: what one of them tests is what the others run.
lock: $(BIN)/python
	$(PIP_INSTALL) uv==$(UV_VERSION)
	compile() {
		$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --fork-strategy fewest \
			--generate-hashes --no-emit-index-url --custom-compile-command 'make lock' $(LOCK_ARGS) "$$@"
	}
	compile pyproject.toml -o requirements/run.txt
	compile --group build -c requirements/run.txt -o requirements/build.txt
	compile pyproject.toml --extra controller -c requirements/run.txt -o requirements/controller.txt
	compile pyproject.toml --extra controller --group dev -c requirements/controller.txt -c requirements/build.txt \
		-o requirements/dev.txt
	compile --group go -o requirements/go.txt

# The compiler comes with libraries of its own, which the agent does not run with: they stay beside the venv.
proto: $(VENV)/dev.stamp
	$(PIP_INSTALL) --upgrade --target build/proto grpcio-tools==$(GRPCIO_TOOLS_VERSION)
	PYTHONPATH=build/proto $(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. \
		--plugin=protoc-gen-grpclib_python=$(BIN)/protoc-gen-grpclib_python --grpclib_python_out=. \
		agent/csi/wire/*.proto

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
