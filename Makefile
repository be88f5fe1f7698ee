# What a person or a machine does with this checkout. `make` alone lists it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup build demo test lint fmt clippy deny doc bench bench-kernels bench-gate bench-growth bench-heartbeats chaos fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## check the tools and install libtorch (GPU=1: with CUDA and NCCL); seconds when done before
	@scripts/setup

build: setup ## release binaries: target/release/medley and target/release/medley-worker
	cargo build --release --locked --bins
	@echo "built $(TARGET)/release/medley and $(TARGET)/release/medley-worker"

demo: setup ## train a single network and a cohort of three on generated data, and print their metrics side by side
	@scripts/demo

test: setup ## every test
	@scripts/etcd >/dev/null || echo "test: without it the tests of several coordinators are skipped"
	@# The tests of whole jobs start the binaries, which cargo test alone would not build.
	cargo build --locked --bins
	cargo test --locked --workspace
	python3 -m unittest discover --quiet --start-directory bench/tests

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

bench: build ## ours beside the eager PyTorch program, by turns: bench/RESULTS.md (QUICK=1: a look of a few minutes)
	python3 bench/run.py compare $(if $(QUICK),--quick)

bench-kernels: setup ## criterion benchmarks of the loss kernel and the collectives; reports in target/criterion
	@echo "bench-kernels: the worker's own code on $$(nproc) cores of this machine, against its last run here (target/criterion)"
	cargo bench --locked --package medley-worker

bench-gate: build ## fails when a step or the loss got slower against its matrix products (UPDATE=1: store what is so now)
	python3 bench/run.py gate $(if $(UPDATE),--update)

bench-growth: build ## how time, bytes and memory grow with the cohort, and a model of it: bench/GROWTH.md
	$(TARGET)/release/medley-worker bench growth --output bench

bench-heartbeats: setup ## how long a coordinator takes to handle the heartbeats of 1,000 workers (ARGS="--aligned --json")
	cargo bench --locked --package medley-coordinator --bench heartbeats -- $(ARGS)

fuzz: setup ## hostile input for everything that is read: each target of fuzz/ for SECONDS=30 (TARGETS="config frames")
	@SECONDS_EACH=$(or $(SECONDS),30) scripts/fuzz $(TARGETS)

chaos: build ## faults on purpose: 10,000 simulated schedules, real jobs whose workers are killed, stopped, cut off: bench/CHAOS.md
	@scripts/chaos

clean: ## remove what cargo built (libtorch in the cache and runs/ stay)
	cargo clean
