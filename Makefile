# Two commands for a fresh Debian 12 machine: `make run` and `make test`. `make help` lists the rest.
#
# Everything but `run`, `demo`, `bench`, `fuzz` and `sanitize` uses cargo's dev profile and one target directory, so that FAISS (two minutes of C++)
# is built once for all of it.

SHELL := /bin/bash
CARGO := cargo
# Rust from rustup, in a shell that was open before it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

FEATURES ?=
LISTEN ?= 127.0.0.1:8000
DATA ?= ./data
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)

# The long forms of the tests that have one. docs/durability.md has what each of them counts, and the outcome of a run.
TORTURE_KILLS ?= 500
TORTURE_POWER_CUTS ?= 1000
TORTURE_CRASH_SEEDS ?= 60
TORTURE_MUTATIONS ?= 300000
TORTURE_MODEL_SECONDS ?= 900
TORTURE_SCHEDULES ?= 1000000
TORTURE_CLUSTER_KILLS ?= 100

# How long `make fuzz` stays with each target. `fuzz/README.md` explains the flags.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -max_len=16384 -malloc_limit_mb=64 -detect_leaks=0 -print_final_stats=1
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.PHONY: help run demo cluster test test-cluster torture schemathesis fuzz sanitize bench instructions lint sbom dist deb image deps

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# What `faiss-proxy bench` says it is.
run: export FAISS_PROXY_COMMIT = $(shell git describe --always --dirty 2>/dev/null)
run: deps ## Build in release and start the server with the development keys (LISTEN=127.0.0.1:8000 DATA=./data)
	$(CARGO) build --locked --release --bin faiss-proxy
	exec $(CARGO) run --quiet --locked --release --bin faiss-proxy -- serve --dev --listen $(LISTEN) --data-dir $(DATA)

demo: deps ## Load 5,000 real word vectors into the running server and print neighbours of a few words
	$(CARGO) build --locked --release --example demo
	$(CARGO) run --quiet --locked --release --example demo

cluster: deps ## Build in release and start three NATS servers and three nodes on loopback, ports 8001 to 8003 (docs/cluster.md)
	$(CARGO) build --locked --release --bin faiss-proxy
	exec scripts/cluster target/release/faiss-proxy

test: deps ## Run the whole test suite (FEATURES="cloud otlp parquet": with what is not on by default)
	$(CARGO) test --locked --features "$(FEATURES)"

# What is skipped, and says so, where there is no nats-server, fails here.
test-cluster: deps ## Run what needs a nats-server, which scripts/nats-server finds or installs
	scripts/nats-server
	FAISS_PROXY_NATS_REQUIRED=1 $(CARGO) test --locked --features "$(FEATURES)" --lib -- wal:: engine::shared_log
	FAISS_PROXY_NATS_REQUIRED=1 $(CARGO) test --locked --features "$(FEATURES)" --test cluster

# Without the server the engine is the same code: its own tests once more.
torture: deps ## Run the tests in their long forms, and the library's own also without the server: hours
	$(CARGO) test --locked --no-default-features --lib
	FAISS_PROXY_KILLS=$(TORTURE_KILLS) FAISS_PROXY_HTTP_KILLS=$(TORTURE_KILLS) FAISS_PROXY_CALL_KILLS=$(TORTURE_KILLS) \
	FAISS_PROXY_POWER_CUTS=$(TORTURE_POWER_CUTS) FAISS_PROXY_CRASH_SEEDS=$(TORTURE_CRASH_SEEDS) \
	FAISS_PROXY_MUTATIONS=$(TORTURE_MUTATIONS) FAISS_PROXY_SEQUENCES=20000 FAISS_PROXY_COPIES=200 \
	FAISS_PROXY_MODEL_SECONDS=$(TORTURE_MODEL_SECONDS) FAISS_PROXY_SCHEDULES=$(TORTURE_SCHEDULES) FAISS_PROXY_CLUSTER_KILLS=$(TORTURE_CLUSTER_KILLS) \
		$(CARGO) test --locked -- --nocapture

schemathesis: deps ## Compare a running server with its OpenAPI document; installs schemathesis from PyPI
	$(CARGO) build --locked --bin faiss-proxy
	scripts/schemathesis

fuzz: deps ## Fuzz every decoder for FUZZ_SECONDS=60 each; needs cargo-fuzz, and builds FAISS once more
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	@set -e; for target in $(FUZZ_TARGETS); do \
		echo "=== $$target"; \
		mkdir -p fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --target-dir fuzz/target $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) $(FUZZ_FLAGS); \
	done

# The C++ of FAISS and of the shim is instrumented too: the two compilers' runtimes share an interface.
sanitize: deps ## Run the FFI tests under AddressSanitizer; builds FAISS once more
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
		CXXFLAGS_x86_64_unknown_linux_gnu="-march=x86-64-v3 -fsanitize=address -fno-omit-frame-pointer" \
		$(CARGO) test --locked --target x86_64-unknown-linux-gnu --target-dir target/sanitize --no-default-features --lib segment::

bench: deps ## Run the benches: ratios against baselines taken in the same run, in one table at the end, and pictures
	@mkdir -p target
	set -o pipefail; $(CARGO) bench --locked | tee target/bench.log
	@echo; grep -a '(target ' target/bench.log; ls target/tmp/*.svg

# By the program that the tests have built: its counts are compared with each other, not with a release's.
instructions: deps ## Count the instructions of a search and a write by callgrind, and compare them with what is known
	$(CARGO) build --locked --bin faiss-proxy
	scripts/instructions target/debug/faiss-proxy

lint: deps ## Check formatting, clippy and docs; a warning is an error
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

# cargo-cyclonedx writes beside Cargo.toml only.
sbom: ## List what the program is built from, in target/sbom/faiss-proxy.cdx.json; needs cargo-cyclonedx
	@$(CARGO) cyclonedx --version >/dev/null 2>&1 || { echo "cargo-cyclonedx is missing: cargo install cargo-cyclonedx --locked"; exit 1; }
	$(CARGO) cyclonedx --quiet --format json --spec-version 1.5 --all-features --override-filename faiss-proxy.cdx
	mkdir -p target/sbom && mv faiss-proxy.cdx.json target/sbom/

# What `faiss-proxy bench` says it is.
dist deb: export FAISS_PROXY_COMMIT ?= $(shell git describe --always --dirty 2>/dev/null)
dist: deps ## Make the archive of the release build that needs no other library, in dist/; needs patchelf
	$(CARGO) build --locked --release --bin faiss-proxy
	scripts/dist

deb: deps ## Make the Debian package, in target/debian/; needs cargo-deb
	@$(CARGO) deb --version >/dev/null 2>&1 || { echo "cargo-deb is missing: cargo install cargo-deb --locked"; exit 1; }
	$(CARGO) build --locked --release --bin faiss-proxy
	rm -rf target/share && scripts/share target/share
	$(CARGO) deb --locked --no-build --strip

image: ## Build the container image faiss-proxy:VERSION; needs docker
	docker build --build-arg FAISS_PROXY_COMMIT=$(shell git describe --always --dirty 2>/dev/null) --tag faiss-proxy:$(VERSION) .

deps:
	@scripts/install-deps
