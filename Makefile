# Holdfast: build, run, test.
#
# Everything is built with --release, so that RocksDB (some ten minutes on two cores) is compiled once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A build directory that outlives a clone in CI; ./target else. What is already in the environment wins.
ifeq ($(origin CARGO_TARGET_DIR),undefined)
  ifdef CI
    export CARGO_TARGET_DIR := $(HOME)/.cache/holdfast/target
  else
    export CARGO_TARGET_DIR := $(CURDIR)/target
  endif
else
  export CARGO_TARGET_DIR
endif

BIN := $(CARGO_TARGET_DIR)/release/holdfast
PYTHON ?= python3
# One Python environment for each set of requirements, kept beside other caches.
REQUIREMENTS := s3-tests/python/requirements.txt
VENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast/python-$(shell sha256sum $(REQUIREMENTS) 2>/dev/null | cut -c1-12)

.PHONY: help serve build test test-rust test-sdk test-sim test-python test-clients lint deps clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

serve: build ## Build and start a server on ./data; more flags: make serve ARGS="--listen 0.0.0.0:9000"
	@exec "$(BIN)" serve --data ./data $(ARGS)

build: deps ## Build the binary
	cargo build --release --locked

# What compiling RocksDB needs beside Rust. Installed when we may, else named.
deps: ## Install what the build lacks, or say what to install
	@deploy/build-deps

test: test-rust test-sdk test-sim test-python ## All tests: Rust, its SDK, the simulation, then boto3 and the AWS CLI

test-rust: build ## Rust tests, those with a started server among them
	cargo test --release --locked --no-fail-fast

test-sdk: build ## The AWS SDK for Rust against a started server
	cargo test --release --locked --no-fail-fast -p holdfast-sdk-tests

test-sim: deps ## The whole cluster in simulation: some seeds, and bugs that must be caught
	cargo test --release --locked -p holdfast-sim

test-python: build $(VENV)/ready ## boto3 and the AWS CLI against a started server
	HOLDFAST_BIN="$(BIN)" PATH="$(VENV)/bin:$$PATH" "$(VENV)/bin/python" -m pytest -q -rs s3-tests/python $(PYTEST_ARGS)

test-clients: build ## Many clients (CLIENTS="sdk tables ..." for some) on a cluster of three; installs them, takes minutes
	HOLDFAST_BIN="$(BIN)" PYTHON="$(PYTHON)" s3-tests/clients/run $(CLIENTS)

# The directory's name follows from what is in the file: its time, which every clone sets anew, does not matter.
$(VENV)/ready: | $(REQUIREMENTS)
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || deploy/build-deps python3-venv
	rm -rf "$(VENV)"
	"$(PYTHON)" -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --requirement $(REQUIREMENTS)
	touch "$@"

lint: deps ## Formatting, clippy with warnings denied, licences and sources of dependencies
	cargo fmt --all -- --check
	cargo clippy --release --locked --all-targets -- -D warnings
	cargo clippy --release --locked -p holdfast-sdk-tests --all-targets -- -D warnings
	cargo clippy --release --locked -p holdfast-sim --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	  cargo deny --locked check bans licenses sources; \
	else \
	  echo "cargo-deny is not installed: deny.toml was not checked"; \
	fi

clean: ## Remove what was built here; data is left alone
	cargo clean
