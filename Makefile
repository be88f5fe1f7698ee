# What a person or a machine does with this checkout. `make` alone lists it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup build demo test lint fmt clippy deny doc bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## check the tools and install libtorch (GPU=1: with CUDA and NCCL); seconds when done before
	@scripts/setup

build: setup ## release binaries: target/release/medley and target/release/medley-worker
	cargo build --release --locked --bins
	@echo "built $(TARGET)/release/medley and $(TARGET)/release/medley-worker"

demo: setup ## train a single network and a cohort of three on generated data, and print their metrics side by side
	@scripts/demo

test: setup ## every test
	@# The tests of whole jobs start the binaries, which cargo test alone would not build.
	cargo build --locked --bins
	cargo test --locked --workspace

lint: fmt clippy deny doc ## formatting, clippy, licences and sources of dependencies, documentation

fmt:
	cargo fmt --all --check

clippy: setup
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny:
	@scripts/deny

doc: setup
	@# Private items too: the first file of a folder is a table of contents of its private modules.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items

bench: setup ## criterion benchmarks of the worker's kernels on this machine; reports in target/criterion
	@echo "bench: measures the worker's own code on $$(nproc) cores of this machine, against its last run here (target/criterion)"
	cargo bench --locked --package medley-worker

clean: ## remove what cargo built (libtorch in the cache and runs/ stay)
	cargo clean
