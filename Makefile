# The front door. Everything real is CMake and Ninja presets (CMakePresets.json) and tools/.
# `make` alone lists the targets.

MODEL  ?= $(firstword $(wildcard models/*.gguf))
PROMPT ?= It was the best of times,
TOKENS ?= 160
PREFIX ?= /usr/local
DESTDIR ?=

SOURCES = $(shell find include src apps examples tests -name '*.[ch]')

.PHONY: help setup run build test test-quick test-all bench install format lint fuzz \
        asan tsan msan coverage clean
.DEFAULT_GOAL := help

help:
	@echo 'make run         install what is missing, build, and let the default model write'
	@echo '                 (MODEL=file.gguf PROMPT="..." TOKENS=160)'
	@echo 'make test        every test and check; ends with one line of totals'
	@echo 'make build       the program at build/bitloom, CTest at build/'
	@echo 'make install     to PREFIX (/usr/local), below DESTDIR when given'
	@echo 'make bench       times kernels and models on this machine'
	@echo 'make test-quick  gcc, the suite and the source checks only'
	@echo 'make test-all    make test with ten minutes per fuzz target, ThreadSanitizer, SmolLM2, ARM'
	@echo 'make format      clang-format all sources      make lint   source checks and cppcheck'
	@echo 'make asan | tsan | msan | coverage             the suite under that build'
	@echo 'make fuzz        fuzz targets, BITLOOM_FUZZ_SECONDS each (60)'
	@echo 'make clean       removes the build folders'

setup:
	@tools/setup.sh run

build: setup
	@tools/build.sh release

run: setup
	@tools/build.sh release bitloom_program
	@test -n '$(MODEL)' || { echo 'make run: no model in models/; give one with MODEL=' >&2; exit 1; }
	build/bitloom run -m '$(MODEL)' -p '$(PROMPT)' -n $(TOKENS)

test:
	@tools/setup.sh test
	@tools/test.py

test-quick:
	@tools/setup.sh test
	@tools/test.py --quick

test-all:
	@tools/setup.sh test
	@$(MAKE) --no-print-directory tsan
	@tools/test_arm64.sh
	@export BITLOOM_SMOLLM2="$$(tools/fetch_smollm2.sh build/assets || true)"; \
	    BITLOOM_FUZZ_SECONDS=$${BITLOOM_FUZZ_SECONDS:-600} tools/test.py

bench: build
	@for b in build/tests/kernels_*; do [ ! -x "$$b" ] || "$$b" --bench || exit 1; done
	@build/bitloom bench $(if $(MODEL),-m '$(MODEL)')

# The program looks for the default model below the prefix, so the prefix is configured too.
install: setup
	@tools/build.sh release -DCMAKE_INSTALL_PREFIX='$(abspath $(PREFIX))'
	@DESTDIR='$(DESTDIR)' cmake --install build >build/install.log || { cat build/install.log; exit 1; }
	@echo "installed to $(DESTDIR)$(abspath $(PREFIX))"

format:
	@clang-format -i $(SOURCES)

lint:
	@tools/setup.sh test
	@tools/test.py checks cppcheck

fuzz:
	@tools/setup.sh test
	@BITLOOM_FUZZ_SECONDS=$${BITLOOM_FUZZ_SECONDS:-60} tools/test.py fuzz

asan tsan msan coverage:
	@tools/setup.sh test
	@tools/build.sh $@
	@ctest --test-dir build-$@ --output-on-failure

clean:
	@rm -rf build build-*/
