#!/usr/bin/env bash
# usage: wheel.sh ON|OFF     Builds the Python package's wheel, with the CUDA backend or without, into out/wheels/.
# libtvm_ffi and libgomp stay out of it: they are in the process already, by the packages apache-tvm-ffi and torch, and
# a second copy of either would have a registry or a thread pool of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=$1
nvcc=$(scripts/nvcc.sh)
[ -z "$nvcc" ] || export CUDACXX=$nvcc
rm -rf build/wheel
mkdir -p build/wheel out/wheels
echo "-- building, CUDA $cuda"
.venv/bin/python -m pip --disable-pip-version-check wheel -q . --no-deps --wheel-dir build/wheel \
  --config-settings=cmake.define.MACHETE_CUDA="$cuda" --config-settings=build-dir="build/python-$cuda"
echo "-- repairing"
PATH=$PWD/.venv/bin:$PATH auditwheel repair build/wheel/*.whl --exclude libtvm_ffi.so --exclude libgomp.so.1 \
  --wheel-dir build/wheel/repaired 2> build/wheel/auditwheel.log || { cat build/wheel/auditwheel.log >&2; exit 1; }
wheel=$(echo build/wheel/repaired/*.whl)

echo "-- installing it elsewhere, beside what .venv has, and running a linear"
.venv/bin/python -m venv build/wheel/venv
site=$(build/wheel/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
.venv/bin/python -c 'import site; print(site.getsitepackages()[0])' > "$site/shared.pth"
build/wheel/venv/bin/python -m pip --disable-pip-version-check install -q --no-index --no-deps "$wheel"
(cd build/wheel && venv/bin/python -c '
import sys, torch, machete
assert machete.__file__.startswith(sys.prefix), machete.__file__
x, layer = torch.randn(3, 576).bfloat16(), torch.nn.Linear(576, 1536).bfloat16()
error = (machete.Linear.from_float(layer, group_size=64)(x) - layer(x)).norm() / layer(x).norm()
assert error < 0.1, error')

mv "$wheel" out/wheels/
name=$(basename "$wheel" .whl)
echo "wheel: out/wheels/$name.whl, tag ${name#*-*-}, $(du -h --apparent-size "out/wheels/$name.whl" | cut -f 1)"
