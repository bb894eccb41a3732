# The front door. Each target works in a fresh clone on Debian 12; CMakePresets.json has the rest.
.DEFAULT_GOAL := help
.PHONY: help demo test check build bench soak format tidy clean setup

PRESET ?= dev

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo:            ## two "machines" on this one, and a program that forks across them
	@tools/setup --minimal
	@tools/demo

test:            ## everything CI runs: builds, checks, all tests, sanitizers
	@tools/setup
	@tools/test

check: build     ## before a commit: format, layers, unit tests; under a minute when built
	@tools/format --check
	@tools/run_tests build/$(PRESET) -L unit -j 2

build:           ## configure and build build/$(PRESET)
	@tools/build $(PRESET)

bench:           ## the benchmarks, with the floors of the same run beside them
	@tools/setup
	@tools/bench

soak:            ## the long run
	@tools/setup --soak
	@tools/soak

format:          ## rewrite sources as clang-format wants them
	@tools/format

tidy:            ## clang-tidy over src/, only what changed since it last passed
	@tools/tidy

setup:           ## install what the above need
	@tools/setup

clean:           ## remove every build
	rm -rf build
