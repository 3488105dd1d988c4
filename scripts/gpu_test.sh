#!/usr/bin/env bash
# usage: gpu_test.sh BUILD_DIR [arguments of gpu_tests...]   Needs the binary, a GPU and python3, and nothing else.
# Where a Python with torch and the rest is at hand too, the GPU tests of the package run after those of C++.
# A full run (without --gtest_filter) becomes bench/results/gpu-tests.json.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
tests=$build/bin/gpu_tests
shift
[ -x "$tests" ] || { echo "gpu_test: there is no $tests; build it with 'make build CUDA=ON' where there is nvcc" >&2; exit 1; }
nvidia-smi -L 2> /dev/null | grep -q '^GPU' || { echo "gpu_test: no GPU here (nvidia-smi lists none); all GPU tests skipped"; exit 0; }
mkdir -p out
# The summary names the commit that the tests were built from.
export MACHETE_COMMIT=${MACHETE_COMMIT:-$(sed -n "s/.*kCommit = \"\(.*\)\";.*/\1/p" "$build/generated/build_info.h" 2> /dev/null || true)}
status=0
"$tests" --gtest_output=json:out/gpu-tests.gtest.json "$@" || status=$?
case " $* " in
  *gtest_filter*) exit $status ;;
esac

junit=out/gpu-tests.junit.xml
rm -f "$junit"
python='' skipped=''
for candidate in .venv/bin/python python3; do
  "$candidate" -c 'import pytest, torch, transformers, tvm_ffi' 2> /dev/null && { python=$candidate; break; }
done
if [ ! -e "$build/python/machete/libmachete_python.so" ]; then
  skipped="$build has no Python package; build it where 'scripts/setup.sh python' has been run"
elif [ -z "$python" ]; then
  skipped="neither .venv nor python3 has pytest, torch, transformers and apache-tvm-ffi"
fi
if [ -n "$skipped" ]; then
  echo "gpu_test: the tests of the Python package are skipped: $skipped"
else
  PYTHONPATH=$PWD/$build/python PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q tests/python/test_cuda*.py --junitxml="$junit" || status=$?
fi
python3 scripts/gpu_summary.py out/gpu-tests.gtest.json bench/results/gpu-tests.json --python "$junit" || status=$?
exit $status
