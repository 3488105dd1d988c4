#!/usr/bin/env bash
# usage: fuzz.sh SECONDS [reader...]      Builds the fuzzers in build/fuzz and runs each for so long, from the corpus in
# tests/fuzz/corpus. What it finds new goes to out/fuzz/READER, of which what reaches more code in few bytes joins the
# corpus at the end, and a file that fails to out/fuzz/READER-*.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
readers=("$@")
[ $# -gt 0 ] || readers=(safetensors gguf layers config weight)
export OMP_NUM_THREADS=1  # layers are so small that threads would only wait
mkdir -p build/fuzz out/fuzz
cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++-14 -DMACHETE_CUDA=OFF -DMACHETE_TOOLS=OFF \
  -DMACHETE_TESTS=OFF -DMACHETE_FUZZ=ON > build/fuzz/configure.log 2>&1 || { cat build/fuzz/configure.log >&2; exit 1; }
cmake --build build/fuzz --parallel "${JOBS:-$(nproc)}" --target "${readers[@]/%/_fuzz}"
for reader in "${readers[@]}"; do
  mkdir -p "out/fuzz/$reader"
  echo "-- $reader, $seconds s"
  build/fuzz/bin/"${reader}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="out/fuzz/$reader-" "out/fuzz/$reader" "tests/fuzz/corpus/$reader" 2> "out/fuzz/$reader.log" \
    || { tail -40 "out/fuzz/$reader.log" >&2; exit 1; }
  grep -E 'stat::number_of_executed_units|DONE' "out/fuzz/$reader.log"
  build/fuzz/bin/"${reader}_fuzz" -merge=1 -use_counters=0 -max_len="$([ "$reader" = weight ] && echo 8192 || echo 2048)" \
    "tests/fuzz/corpus/$reader" "out/fuzz/$reader" 2> "out/fuzz/$reader-merge.log"
done
