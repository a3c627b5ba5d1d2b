#!/usr/bin/env bash
# Runs the tests marked gpu and the benchmarks on a machine with a CUDA GPU; writes one JSON.
#   bash tests/benchmarks/gpu_check.sh [FILE]
# FILE: by default $OUT/gpu_check.json where OUT is set, else runs/gpu_check.json.
# PYTHON: the interpreter; by default .venv's, else python3 (a GPU image's own, with its torch).
# WHEELS: the folder that `make wheels` filled, for a machine without a package index.
# Exit codes: 0 all passed, 1 something failed, 2 wrong use, 3 no GPU (nothing was run).
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${VENV:-.venv}
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$venv/bin/python" ]; then PYTHON="$venv/bin/python"; else PYTHON=python3; fi
fi
exec "$PYTHON" tests/benchmarks/gpu_check.py --json "${1:-${OUT:-runs}/gpu_check.json}" \
  --wheels "${WHEELS:-wheels}"
