#!/usr/bin/env bash
# usage: bench.sh MACHETE [arguments of machete bench...]   Without arguments: every suite, one file each.
set -euo pipefail
cd "$(dirname "$0")/.."
machete=$1
shift
[ $# -eq 0 ] || exec "$machete" bench "$@"
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | grep -oiE 'gh200|h[0-9]+' | head -n 1 | tr '[:upper:]' '[:lower:]')
for suite in llama8b llama70b square deepseek odd; do
  file=bench/results/${gpu:-gpu}-$suite-$(date +%F)
  n=1
  name=$file.json
  while [ -e "$name" ]; do n=$((n + 1)); name=$file-$n.json; done
  "$machete" bench --suite "$suite" --a bf16,fp16 --json "$name"
done
