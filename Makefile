# Jouleserve: every command a newcomer needs. `make` alone lists them.
#
# ACCELERATOR=cpu|cuda  which engine to install; by default cuda where nvidia-smi works, else cpu.
# PYTHON=...            the Python 3.11 that makes the environment, by default python3.11.
# BUILDER=...           what builds images: docker, podman or buildah (images/README.md has more).

# The recipes and what they source use bash.
SHELL := bash

ACCELERATOR ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
PYTHON ?= python3.11

VENV := .venv
BIN := $(VENV)/bin
FAST := not engine and not cluster and not kube
BUILDER ?= docker
IMAGE ?= ghcr.io/jouleserve/jouleserve
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILD = $(BUILDER) build $(BUILD_OPTIONS)
PROTO_SOURCES := $(wildcard protos/jouleserve/v1/*.proto)
# mypy-protobuf's plugins lie in the environment's bin folder.
PROTOC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I .
LOCK := $(BIN)/uv pip compile --quiet pyproject.toml --group dev --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup helm-binary demo test test-thorough test-kube check lint protos protos-check bench images lock clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## make .venv with everything locked for ACCELERATOR; does nothing when it is up to date
	@ACCELERATOR=$(ACCELERATOR) PYTHON=$(PYTHON) VENV=$(VENV) bash scripts/setup.sh

demo: setup  ## start two variants of a small model on this machine, ask them, show tokens and joules
	@$(BIN)/jouleserve demo

test: setup helm-binary lint  ## every check, and tests of everything, the real engine included
	@echo "==> pytest, fast tests"
	@$(BIN)/python -m pytest -m "$(FAST)" --numprocesses auto --dist loadfile
	@echo "==> pytest, the real engine and clusters (minutes)"
	@$(BIN)/python -m pytest -m "not ($(FAST)) and not thorough"

test-thorough: setup  ## what takes minutes a test: whole builds, killed often; nodes that come and go; candidates
	@echo "==> pytest, at length (half an hour)"
	@$(BIN)/python -m pytest -m thorough

helm-binary: setup
	@VENV=$(VENV) bash scripts/helm.sh

test-kube: setup helm-binary  ## the chart with helm, and on a control plane (HELM=binary, KUBE_TESTBED_TOOL=program)
	@echo "==> pytest, chart and Kubernetes"
	@$(BIN)/python -m pytest tests/chart tests/kube

check: setup helm-binary lint  ## every check and the fast tests
	@echo "==> pytest, fast tests"
	@$(BIN)/python -m pytest -m "$(FAST)" --numprocesses auto --dist loadfile

lint: setup protos-check  ## format, style, types, import contracts, generated code
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@echo "==> ruff check"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python scripts/document_configuration.py --check
	@echo "==> mypy (a minute the first time)"
	@$(BIN)/mypy
	@echo "==> lint-imports"
	@$(BIN)/lint-imports --no-logo

protos: setup  ## generate the code beside protos/jouleserve/v1/*.proto
	@echo "==> generating code from $(PROTO_SOURCES)"
	@$(PROTOC) --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTO_SOURCES)

protos-check: setup  ## compare the committed generated code with a fresh generation
	@echo "==> generated protobuf code"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --grpc_python_out="$$fresh" \
		--mypy_out=quiet:"$$fresh" --mypy_grpc_out=quiet:"$$fresh" $(PROTO_SOURCES) && \
	diff -r --exclude='*.proto' --exclude='__init__.py*' --exclude=__pycache__ \
		"$$fresh/protos/jouleserve/v1" protos/jouleserve/v1 || \
	{ echo "the generated code is not that of the .proto files; run: make protos"; exit 1; }

bench: setup  ## micro-benchmarks in benchmarks/
	@echo "==> benchmarks"
	@$(BIN)/python -m pytest benchmarks -o python_files='bench_*.py' \
		-o timeout=600 --benchmark-only

images:  ## build IMAGE:VERSION-cpu, -cuda and -compress with BUILDER; pushes nothing
	@for kind in cpu cuda; do \
		echo "==> $(IMAGE):$(VERSION)-$$kind" && \
		$(BUILD) --file images/$$kind.Dockerfile --tag $(IMAGE):$(VERSION)-$$kind \
			--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) . || exit; \
	done
	@echo "==> $(IMAGE):$(VERSION)-compress"
	@$(BUILD) --file images/compress.Dockerfile --tag $(IMAGE):$(VERSION)-compress \
		--build-arg BASE=$(IMAGE):$(VERSION)-cpu .

lock: setup  ## renew requirements/{cpu,cuda,compress}.txt from pyproject.toml (UPGRADE=1: newest versions)
	@echo "==> locking for cpu"
	@. scripts/pip_settings.sh && adopt_pip_settings && find_cpu_torch && \
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra cpu --extra llamacpp --extra carbon --override requirements/overrides-cpu.txt \
		--output-file requirements/cpu.txt $$TORCH_OPTIONS
	@echo "==> locking for compression"
	@. scripts/pip_settings.sh && adopt_pip_settings && find_cpu_torch && \
	$(BIN)/uv pip compile --quiet --group pyproject.toml:compress --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) \
		--override requirements/overrides-cpu.txt --output-file requirements/compress.txt $$TORCH_OPTIONS
	@echo "==> locking for cuda"
	@. scripts/pip_settings.sh && adopt_pip_settings && unset UV_FIND_LINKS && \
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra cuda --extra carbon --output-file requirements/cuda.txt

clean:  ## remove the environment and every cache in this folder
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
