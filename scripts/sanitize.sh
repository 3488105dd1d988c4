#!/usr/bin/env bash
# usage: sanitize.sh GPU_TESTS [gtest filter]      compute-sanitizer over a small but complete part of the GPU tests.
set -euo pipefail
tests=$1
filter=${2:-*Sanitize*}
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null) ||
  { echo "sanitize: there is no compute-sanitizer; it is part of the CUDA toolkit" >&2; exit 1; }
for tool in memcheck racecheck synccheck; do
  echo "-- $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 1 --kernel-name-exclude kns=cublas "$tests" --gtest_filter="$filter" --gtest_brief=1
done
