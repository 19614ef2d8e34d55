# Every verb of the project. `make help` lists them; CI runs `make verify`.
#
# All verbs build the same packages with the same profile and features, so that RocksDB is compiled
# once (docs/decisions/building.md). Nothing here may pass --release, -p or --features to cargo.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Where rustup puts cargo, for a shell that was opened before it did.
export PATH := $(HOME)/.cargo/bin:$(PATH)

TARGET := $(or $(CARGO_TARGET_DIR),target)
SKERRY := $(TARGET)/debug/skerry
# Fewer jobs than cores only where memory is short; empty otherwise.
JOBS = $(shell .ci/setup --jobs)
ARGS ?=
SEEDS ?=
SEED ?=

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## Check what a build needs and install what is missing (silent when all is there)
	@.ci/setup

build: setup ## Compile everything: binary, tests, benches
	@.ci/setup --announce-build
	@cargo build --locked --workspace --all-targets $(JOBS)

run: build ## Run a whole cluster on this machine; data in ./data, or ARGS="--ephemeral"
	@echo "skerry: data is kept in $(or $(DATA),./data); remove that folder to start anew"
	@exec $(SKERRY) playground --data-dir $(or $(DATA),./data) $(ARGS)

test: build ## Run every test
	@cargo test --locked --workspace $(JOBS) $(if $(FILTER),-- $(FILTER),)

labs: build ## Run the TinyKV labs by their names
	@cargo test --locked --workspace $(JOBS) --test labs

sim: build ## Run seeds of the simulator (SEEDS=500), or replay one with its story (SEED=7)
	@SEEDS=$(SEEDS) SEED=$(SEED) cargo test --locked --workspace $(JOBS) --test simulation -- --nocapture

chaos: build ## Kill stores of a real cluster again and again while clients work (CHAOS_SECONDS=600)
	@CHAOS_SECONDS=$(or $(CHAOS_SECONDS),600) tests/chaos.sh

placement: build ## Kill, fill and empty stores of four, and the scheduler, at full size (RESULTS=1 keeps the counts)
	@RESULTS=$(RESULTS) FILTER=$(FILTER) tests/placement.sh

soak: build ## Real clients in a storm, ten rounds; keeps the counts (SOAK_ROUNDS=10 SOAK_SECONDS=60)
	@SOAK_ROUNDS=$(or $(SOAK_ROUNDS),10) SOAK_SECONDS=$(or $(SOAK_SECONDS),60) tests/soak.sh

lint: setup ## Formatting and clippy, without changing anything
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets $(JOBS) -- -D warnings

planted: build ## Plant each known bug and say which seed of the simulator finds it (SEEDS=200 PLANTED=SkipFsync)
	@PLANTED_SEEDS=$(or $(SEEDS),200) cargo test --locked --workspace $(JOBS) --test simulation -- --nocapture planted

fmt: setup ## Format the code
	@cargo fmt --all

golden: build ## Record golden files anew; review the diff like code
	@UPDATE_GOLDENFILES=1 cargo test --locked --workspace $(JOBS)

bench: build ## Run the benchmarks beside their references and print a table
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench '*' -- $(ARGS)

bench-smoke: build ## Run every benchmark of a hot part once, unmeasured: seconds
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench parts -- --test

bench-compare: build ## Skerry beside etcd and Redis, with what an event costs: under 20 minutes on a quiet machine
	@$(TARGET)/debug/bench-compare run $(ARGS)

bench-page: build ## Make the tables and pictures of docs/benchmarks.md of the newest results
	@$(TARGET)/debug/bench-compare page

bench-store: build ## Puts through three replicas in one process, beside what the disk does without us
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench store -- $(ARGS)

bench-txn: build ## Transactions beside raw puts of the same size, reads beside RocksDB's
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench txn -- $(ARGS)

bench-rounds: build ## What a put costs three stores in processor time, alone, over 1, 64 and 1,000 regions
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench rounds -- $(ARGS)

bench-regions: build ## What thousands of idle regions cost: start, CPU, memory
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench regions -- $(ARGS)

bench-scheduler: build ## Heartbeats of 100,000 regions, and timestamps, in one scheduler
	@cargo bench --locked --workspace --profile dev $(JOBS) --bench scheduler -- $(ARGS)

memory: build ## Print the resident memory of an idle playground
	@SKERRY=$(SKERRY) benches/idle_memory.sh

verify: ## What CI runs: lint, tests, benchmarks once, and the check that RocksDB was compiled once
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory bench-smoke
	@.ci/setup --rocksdb-once

.PHONY: help setup build run test labs sim chaos placement soak planted lint fmt golden bench bench-smoke bench-compare bench-page bench-store bench-txn bench-rounds bench-regions bench-scheduler memory verify
