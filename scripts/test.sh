#!/usr/bin/env bash
# usage: test.sh BUILD_DIR      Runs the CPU tests, those of C++ and those of Python, then says what became of the GPU tests.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
ctest --test-dir "$build" -L cpu --parallel "$(nproc)" --output-on-failure --no-tests=error | grep -v '^ *Start '

PYTHONPATH=$PWD/$build/python PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m pytest -q tests/python

if [ ! -x "$build/bin/gpu_tests" ]; then
  echo "GPU tests: not built, since there is no nvcc of CUDA 12.8 or newer here, or CUDA=OFF"
else
  count=$("$build/bin/gpu_tests" --gtest_list_tests | grep -c '^  ' || true)
  if nvidia-smi -L 2> /dev/null | grep -q '^GPU'; then
    echo "GPU tests: $count built; run them with 'make gpu-test'"
  else
    echo "GPU tests: $count built and skipped, since there is no GPU here ('make gpu-test' on a Hopper machine runs them)"
  fi
fi
