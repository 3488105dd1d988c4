#!/usr/bin/env bash
# usage: lint.sh BUILD_DIR      clang-tidy over the library and the command, ruff and mypy over the Python; warnings are errors.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
scripts/build.sh "$build" machete_build_info  # the compile commands, and the generated headers
echo "-- clang-tidy over $(scripts/sources.sh core | wc -l) files"
# Two thirds of the time went into paths that the analyzer follows into callees, nlohmann::json's above all: shallow, it follows fewer.
shallow=(--extra-arg=-Xclang --extra-arg=-analyzer-config --extra-arg=-Xclang --extra-arg=mode=shallow)
scripts/sources.sh core | xargs -P "$(nproc)" -n 1 clang-tidy-14 -p "$build" --quiet "${shallow[@]}" 2> >(grep -v 'warnings generated' >&2)
echo "-- ruff"
.venv/bin/ruff check --quiet --no-cache .
.venv/bin/ruff format --check --quiet --no-cache .
echo "-- mypy"
.venv/bin/mypy --no-error-summary
echo "lint: ok"
