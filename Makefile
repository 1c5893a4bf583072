# Everything a contributor runs. Needs Python >= 3.10, a C++20 compiler and PyPI: cmake, ninja and the
# tools come from PyPI into the environment. Each step runs again only if what it depends on changed.

PYTHON ?= python3
VENV ?= .venv
CXX ?= c++
CLANGXX ?= clang++
JOBS ?= 2

# Overrides such as PYTEST_ARGS="-k pull -x" narrow a run.
PYTEST_ARGS ?=
CHAOS_ARGS ?=
CTEST_ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
export PATH := $(abspath $(BIN)):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export EMBERY_BUILD_DIR := $(CURDIR)/build/py

RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
BUILT := build/.built

CXX_FILES = $(shell find csrc -name '*.cc' -o -name '*.h')
PYTHON_PARTS := embery ps worker coordinator serving
PYTHON_FILES := $(PYTHON_PARTS) proto $(wildcard tests benchmarks examples) setup.py
CMAKE_CPP := cmake -S . -G Ninja -DEMBERY_PYTHON=OFF -DEMBERY_TESTS=ON
CMAKE_ALL = cmake -S . -G Ninja -DEMBERY_TESTS=ON -DPython_EXECUTABLE=$(abspath $(PY)) \
	-Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
# Optimised a little: sanitized tests then take seconds, and their stacks stay readable.
CMAKE_SANITIZED := $(CMAKE_CPP) -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1"
# Seconds a C++ test may take.
TEST_SECONDS_MAX := 600
CTEST = ctest --output-on-failure --no-tests=error --timeout $(TEST_SECONDS_MAX) -j $(JOBS)

define say
	@printf '\n== %s\n' "$(1)"
endef

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart build test test-cpp test-asan test-tsan test-python test-long test-rdma chaos lint lint-python \
	lint-cpp lint-text format proto bench build-clang clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- Environment and build ------------------------------------------------------------------------

$(PY):
	$(call say,creating the environment $(VENV))
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python >= 3.10 is needed"'
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements.txt constraints.txt | $(PY)
	$(call say,installing what training needs (torch is large))
	$(PY) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(DEV_READY): requirements-dev.txt $(RUN_READY)
	$(call say,installing the tools of tests and lint)
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(BUILT): $(CXX_FILES) CMakeLists.txt setup.py pyproject.toml $(RUN_READY)
	$(call say,building the native module (a few minutes the first time))
	@mkdir -p $(@D)
	$(PY) setup.py -q build_ext --inplace
	$(PY) -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

build: $(BUILT)  ## create the environment, build the native module, install embery into it

quickstart: $(BUILT)  ## train a click model on synthetic data and print its AUC beside the ceiling
	$(call say,training examples/quickstart/train.py)
	$(PY) examples/quickstart/train.py

# -- Tests ----------------------------------------------------------------------------------------

test: $(BUILT) $(DEV_READY) test-cpp test-asan test-tsan test-python  ## run every test in its short form

test-cpp: $(RUN_READY)  ## C++ tests
	$(call say,C++ tests)
	$(CMAKE_CPP) -B build/cpp
	cmake --build build/cpp
	$(CTEST) --test-dir build/cpp $(CTEST_ARGS)

test-asan: $(RUN_READY)  ## C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call say,C++ tests under ASan and UBSan)
	$(CMAKE_SANITIZED) -B build/asan -DEMBERY_SANITIZE=address,undefined
	cmake --build build/asan
	UBSAN_OPTIONS=print_stacktrace=1 $(CTEST) --test-dir build/asan $(CTEST_ARGS)

test-tsan: $(RUN_READY)  ## C++ tests under ThreadSanitizer
	$(call say,C++ tests under TSan)
	$(CMAKE_SANITIZED) -B build/tsan -DEMBERY_SANITIZE=thread
	cmake --build build/tsan
	TSAN_OPTIONS=halt_on_error=1 $(CTEST) --test-dir build/tsan $(CTEST_ARGS)

test-python: $(BUILT) $(DEV_READY)  ## Python tests, without those marked `long`
	$(call say,Python tests)
	$(PY) -m pytest $(PYTEST_ARGS)

test-long: export EMBERY_TEST_LONG := 1
test-long: TEST_SECONDS_MAX := 14400
test-long: test-cpp test-asan $(BUILT) $(DEV_READY)  ## C++ and Python tests in their long form (hours)
	$(call say,Python tests marked long)
	$(PY) -m pytest -m long --timeout $(TEST_SECONDS_MAX) $(PYTEST_ARGS)

test-rdma: $(BUILT) $(DEV_READY)  ## RDMA tests on an emulated machine that has a software-RoCE device
	$(call say,RDMA tests; tests/rdma/machine.sh names the packages that it needs)
	$(CMAKE_CPP) -B build/cpp
	cmake --build build/cpp --target rdma_test
	tests/rdma/machine.sh build/rdma 'cd $(CURDIR); \
		export EMBERY_RDMA_REQUIRED=1 EMBERY_TEST_DEADLINE_S=300 PYTHONDONTWRITEBYTECODE=1; \
		build/cpp/rdma_test; \
		$(abspath $(PY)) -m pytest -p no:cacheprovider --timeout 600 tests/integration/cluster -k rdma'

chaos: $(BUILT) $(DEV_READY)  ## kill and freeze processes of a cluster, by many seeds (CHAOS_ARGS="--seed 7" for one)
	$(call say,Chaos; build/chaos keeps the logs of a run that failed)
	$(PY) -m tests.chaos $(CHAOS_ARGS)

# -- Lint -----------------------------------------------------------------------------------------

lint: lint-python lint-cpp lint-text  ## every check that reads the code and does not run it

lint-python: $(DEV_READY)
	$(call say,Python: ruff; mypy; import layers)
	ruff check $(PYTHON_FILES)
	ruff format --check $(PYTHON_FILES)
	mypy -p embery
	lint-imports

lint-cpp: $(DEV_READY)
	@mkdir -p build
	$(call say,C++: clang-format; clang-tidy)
	clang-format --dry-run --Werror $(CXX_FILES)
	$(CMAKE_ALL) -B build/tidy -DEMBERY_TESTS=OFF > build/tidy.log
	run-clang-tidy.py -quiet -p build/tidy -j $(JOBS)

lint-text: $(DEV_READY)
	$(call say,House style; spelling)
	$(PY) -m pytest --quiet tests/unit/test_style*.py
	codespell

format: $(DEV_READY)  ## rewrite Python and C++ in the house format
	ruff check --fix $(PYTHON_FILES)
	ruff format $(PYTHON_FILES)
	clang-format -i $(CXX_FILES)

proto: $(DEV_READY)  ## generate the stubs of proto/ into embery/rpc/v1
	$(PY) proto/generate.py

# -- The rest -------------------------------------------------------------------------------------

bench: $(BUILT) $(DEV_READY)  ## benchmarks in their short form (see benchmarks/README.md)
	$(PY) -m benchmarks short

build-clang: $(RUN_READY)  ## compile everything and run the C++ tests with clang, if it is installed
	@if ! command -v $(CLANGXX) > /dev/null; then \
		echo "build-clang: skipped, $(CLANGXX) is not installed (CLANGXX=... names another)"; \
	else set -e; set -x; \
		$(CMAKE_ALL) -B build/clang -DCMAKE_CXX_COMPILER=$(CLANGXX) -DCMAKE_CXX_FLAGS=-Wthread-safety; \
		cmake --build build/clang; \
		$(CTEST) --test-dir build/clang; \
	fi

clean:  ## remove what was built; the environment stays
	rm -rf build dist *.egg-info embery/_native*.so
