# The command list. Every target first installs what it misses (scripts/setup.sh), which is silent when nothing is.
# The servers of `make test` are private ones on free ports; nothing of the system is started or changed.

# Every build is of the whole workspace, and of an example too: for a part of it, or for the programs alone, cargo would choose
# other features of the dependencies, and build them all again.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SETUP := ./scripts/setup.sh
PYTHON := .venv/bin/python -B
# rustup's place, for a shell that did not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Folder of `make man`.
MAN_DIR ?= man/man1

.PHONY: help man setup demo test check sim lint chaos bench scale bench-peers parity stack-up stack-down clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages, .venv, libtorch (about 650 MB the first time)
	@$(SETUP)

demo: ## label 25 photos with EfficientNet-Lite0, no servers needed, and check the answers
	@$(SETUP) build python
	@./scripts/demo.sh

test: ## everything: build, unit, contract and Python tests, then against private RabbitMQ, Redis, S3 and Azure
	@$(SETUP)
	cargo build --workspace --all-targets
	cargo test --workspace
	$(PYTHON) -m unittest discover -s tests/python

check: lint ## the fast lane: formatting, clippy, unit and contract tests; no servers
	cargo test --workspace --exclude trawl-tests --tests

sim: ## the fleet on a simulated clock: SEEDS=n of them (200), or SEED=n replayed with its log
	@$(SETUP) build
	@TRAWL_SIM_SEEDS=$(or $(SEEDS),200) TRAWL_SIM_SEED=$(SEED) cargo test --quiet --workspace --test sim every_job -- --nocapture

lint: ## formatting and clippy, warnings are errors
	@$(SETUP) build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

MINUTES ?= 2
chaos: ## MINUTES=10 SEED=7: real servers and workers under a seeded mix of faults, and a verdict
	@$(SETUP)
	cargo build --workspace --bins --examples
	cargo run -q --bin chaos -- --minutes $(MINUTES) --seed $(or $(SEED),1)

PARITY_PYTHON ?= .parity/venv/bin/python
BENCH_IMAGES ?= .demo/photos
BENCH_MODELS ?= $(wildcard .demo/efficientnet-lite0.pt)
bench: ## decode, resize, encode and plan on one core, then whole runs: BENCH_MODELS="a.pt b.pt" BENCH_IMAGES=photos (those of the demo); beside Pillow's resize after `make parity`
	@$(SETUP) build
	cargo build --release --workspace --bins --example bare_loop
	cargo bench --workspace --bench stages
	@python3 -B bench/stages.py $${CARGO_TARGET_DIR:-target} --out bench/results/stages.json \
		$(if $(wildcard $(PARITY_PYTHON)),--pillow $(PARITY_PYTHON)) \
		$(if $(BENCH_MODELS),$(foreach model,$(BENCH_MODELS),--model $(model)) --images $(BENCH_IMAGES))

KEYS ?= 100000,1000000
scale: ## what grows with a job: KEYS=100000,1000000 (1e7) images listed and queued, kills, fleets, the ledger, 100,000 parts verified
	@$(SETUP) build servers
	cargo build --release --workspace --bins --example fleet
	@python3 -B bench/scale --programs $${CARGO_TARGET_DIR:-target}/release --keys $(KEYS) $(SCALE)

bench-peers: ## ROUNDS=3 TUNED=1: trawl beside PyTorch, Ray Data and Daft (5.7 GB to install, an hour to run)
	@$(SETUP) build python
	@ROUNDS=$(ROUNDS) TUNED=$(TUNED) bench/peers/bench.sh

parity: ## the answers beside Python's: torchvision, timm, Hugging Face and the demo's model on 200 images (2 GB to install)
	@$(SETUP) build python
	cargo build --workspace --bins --examples
	@[ -x $(PARITY_PYTHON) ] || { python3 -m venv .parity/venv && .parity/venv/bin/pip install -q -r worker/models/parity.txt; }
	@$(PARITY_PYTHON) -B worker/models/parity.py --programs $${CARGO_TARGET_DIR:-target}/debug
	@$(PARITY_PYTHON) -B worker/models/parity_heads.py --programs $${CARGO_TARGET_DIR:-target}/debug

stack-up: ## start private RabbitMQ, Redis and S3 in .stack; then: . .stack/env
	@$(SETUP) python servers
	@deploy/stack up

stack-down: ## stop them and remove their data
	@deploy/stack down

man: ## MAN_DIR=man/man1: the manual pages of both programs (read one with `man ./man/man1/trawl.1`)
	@$(SETUP) build
	cargo build --workspace --bins --examples
	@for program in trawl trawl-worker; do $${CARGO_TARGET_DIR:-target}/debug/$$program man $(MAN_DIR) | wc -l | xargs echo $$program pages:; done

clean: stack-down ## remove what was built and what demo and bench-peers made, but its figures
	cargo clean
	rm -rf .demo bench/peers/models bench/peers/corpus

distclean: clean ## also remove the .venvs, .azurite and .libtorch (downloads stay in the user's cache)
	rm -rf .venv .azurite .libtorch bench/peers/.venv .parity
