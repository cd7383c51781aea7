# Thin: each target is one or two commands that can be typed by hand.
CARGO ?= cargo
# `make up BUILD=` builds without optimisation, which is faster to build and slower to run.
BUILD ?= --release
TARGET := $(or $(CARGO_TARGET_DIR),target)/$(if $(findstring --release,$(BUILD)),release,debug)
STACK := infra/local/stack
# The server settings that `make stack` wrote, exported to one command.
WITH_STACK := set -a; . $(or $(WEIR_STACK_DIR),./.local)/stack.env; set +a;

.PHONY: help up test stack stack-down build-distributed up-distributed weir audit seed bench chaos clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

up: ## build and run everything in one process on SQLite and memory
	$(CARGO) build $(BUILD) --locked -p weir
	@exec $(TARGET)/weir up

stack: ## install and start PostgreSQL, Redis, a Redis Cluster, Kafka and Cassandra under .local/
	$(STACK) up

stack-down: ## stop exactly what `make stack` started
	$(STACK) down

build-distributed: ## build the binary with the drivers of the real servers
	$(CARGO) build $(BUILD) --locked -p weir --features distributed

up-distributed: stack build-distributed ## run every role in one process on the real servers
	@$(WITH_STACK) $(TARGET)/weir migrate && exec $(TARGET)/weir up

weir: ## any command on the real servers, e.g. make weir ARGS='replay ls'
	@$(WITH_STACK) $(TARGET)/weir $(ARGS)

audit: ## prove every figure on the real servers, beside whatever runs
	@$(WITH_STACK) $(TARGET)/weir audit

seed: ## replay the shipped hour of real traffic through a running Weir (needs WEIR__ADMIN__API_KEY)
	$(TARGET)/weir seed --trace testdata/llm-trace/conversation.csv

bench: stack ## measure: ratios in one run against the ceilings of this machine
	$(CARGO) build $(BUILD) --locked -p weir -p bench --features weir/distributed
	@$(WITH_STACK) exec $(TARGET)/weir-bench --weir $(TARGET)/weir $(BENCH_ARGS)

chaos: ## break processes, servers and connections of a real Weir on servers of its own, and prove every figure after it
	$(CARGO) build $(BUILD) --locked -p weir -p chaos --features weir/distributed
	@exec $(TARGET)/weir-chaos $(CHAOS_ARGS)

test: ## everything CI runs: formats, lints, all tests on the embedded stores and on the real servers
	@infra/local/test

clean: ## remove builds and the local servers with their data
	-$(STACK) down --purge
	-WEIR_STACK_DIR=.local/chaos $(STACK) down --purge
	$(CARGO) clean
