# Two commands matter: `make demo` and `make test`. Both need only python3 with venv, make and git.
# None of the targets needs root; everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
# More flags for pip, such as --extra-index-url with PyTorch's index of CPU builds.
PIP_FLAGS ?=
# make demo: a recording of your own instead of the simulated cell's, and where the run goes.
SOURCE ?=
OUT ?= runs/demo
# make bench, make gpu-check: the file that receives the figures.
JSON ?= runs/bench.json
GPU_JSON ?= runs/gpu_check.json

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODES := ros2_ws/src/physgym_ros
comma := ,
# A sourced ROS distribution brings its own rclpy; elsewhere the wheels of ROS 2 Jazzy are installed.
EXTRAS := cameras,splats,train,viewer,dev$(if $(ROS_DISTRO),,$(comma)ros)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.PHONY: help setup demo test lint format bench gpu-check wheels constraints clean

help:
	@echo "make demo         install, then record, reconstruct, plan and run (report: $(OUT)/report.html)"
	@echo "make test         install, then lint, import contract and all tests"
	@echo "make setup        only the environment ($(VENV))"
	@echo "make lint format  check / rewrite the style"
	@echo "make bench        every benchmark on this machine ($(JSON))"
	@echo "make gpu-check    tests marked gpu and benchmarks on a CUDA GPU ($(GPU_JSON))"
	@echo "make wheels       what a GPU machine without a package index needs (folder wheels)"
	@echo "make constraints  resolve every pin again, for all Python versions at once"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard $(NODES)/setup.py)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "physgym needs Python 3.10, 3.11 or 3.12, $(PYTHON) is another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about two minutes and 2.3 GB, more with CUDA libraries"
	@# first and alone: a CPU build that is offered must not be passed over for CUDA's
	$(PIP) torch
	$(PIP) -e ".[$(EXTRAS)]"
	$(if $(wildcard $(NODES)/setup.py),$(PIP) --no-deps -e $(NODES))
	touch $@

demo: $(STAMP)
	$(BIN)/physgym demo --out "$(OUT)" $(if $(SOURCE),--source "$(SOURCE)")

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -n 2

bench: $(STAMP)
	$(BIN)/python tests/benchmarks --json "$(JSON)"

gpu-check:
	VENV="$(VENV)" bash tests/benchmarks/gpu_check.sh "$(GPU_JSON)"

wheels: $(STAMP)
	$(BIN)/python tests/benchmarks/gpu_check.py --collect wheels

constraints:
	test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv; }
	build/lock/bin/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.10 \
	  --no-annotate --no-header -o constraints.txt
	sed -i '1i # Every version that `make setup` may install, for Python 3.10 to 3.12, with and without CUDA.\n# Resolve again (versions that still fit are kept): make constraints' constraints.txt

clean:
	rm -rf $(VENV) build wheels *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
