#!/bin/sh
# cmake/check_ptxas.sh must refuse exactly what ptxas complains of, delete the object it refuses, and pass failures on.
check=$(dirname "$0")/../../cmake/check_ptxas.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# expect STATUS WHAT REPORT [STATUS OF THE COMPILER]
expect() {
  "$check" sh -c 'touch "$2"; echo "$3" >&2; exit "$4"' compile -o "$work/object" "$3" "${4:-0}" 2> "$work/stderr"
  status=$?
  if [ "$status" -ne "$1" ]; then echo "FAILED: $2: status $status, not $1"; failures=1; else echo "ok: $2"; fi
  if [ "$status" -ne 0 ] && [ "${4:-0}" -eq 0 ] && [ -e "$work/object" ]; then echo "FAILED: $2: object left"; failures=1; fi
}

expect 0 'a clean kernel' 'ptxas info    : Used 168 registers
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'
expect 1 'spill stores' '    8 bytes stack frame, 16 bytes spill stores, 0 bytes spill loads'
expect 1 'spill loads' '    8 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads'
for code in C7510 C7512 C7514 C7520; do
  expect 1 "$code" "ptxas info    : ($code) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ..."
done
expect 1 'an unnumbered warning' 'wgmma.mma_async instructions are serialized'
expect 1 'setmaxnreg' "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum register requirements"
expect 3 'a failing compiler' 'error: no' 3
exit $failures
