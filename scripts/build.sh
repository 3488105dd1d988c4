#!/usr/bin/env bash
# usage: build.sh BUILD_DIR [target...]     Configures and builds; build/cuda with the CUDA backend, others without.
# From the environment: INSTANCES, JOBS.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift
options=(-DMACHETE_CUDA=OFF)
case $build in
  *cuda*)
    options=(-DMACHETE_CUDA=ON "-DMACHETE_INSTANCES=${INSTANCES:-default}")
    nvcc=$(scripts/nvcc.sh)
    [ -z "$nvcc" ] || export CUDACXX=$nvcc
    ;;
esac
# Without a test suite to build there is no need for its packages.
[ $# -eq 0 ] && options+=(-DMACHETE_TESTS=ON) || options+=(-DMACHETE_TESTS=OFF)
# The Python package's library, where `setup.sh python` has put what it stands on.
if ls .venv/lib/python3*/site-packages/tvm_ffi/lib/libtvm_ffi.so > /dev/null 2>&1; then
  options+=(-DMACHETE_PYTHON=ON "-DPython3_EXECUTABLE=$PWD/.venv/bin/python")
else
  options+=(-DMACHETE_PYTHON=OFF)
fi
[ -e "$build/build.ninja" ] || options+=(-G Ninja)

# A compiler cache that the user has is used; a new one would not be put outside the checkout.
[ -n "${CCACHE_DIR:-}" ] || [ -d "${HOME:-/root}/.cache/ccache" ] || [ -d "${HOME:-/root}/.ccache" ] || export CCACHE_DIR=$PWD/.deps/ccache

echo "-- configuring $build"
mkdir -p "$build"
cmake -S . -B "$build" "${options[@]}" > "$build/configure.log" 2>&1 || { cat "$build/configure.log" >&2; exit 1; }
grep '^-- machete:' "$build/configure.log"
echo "-- building $build"
targets=()
for target in "$@"; do targets+=(--target "$target"); done
cmake --build "$build" --parallel "${JOBS:-$(nproc)}" "${targets[@]}"
