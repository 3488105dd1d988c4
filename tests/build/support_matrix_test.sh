#!/usr/bin/env bash
# usage: support_matrix_test.sh MACHETE      docs/support-matrix.md is what its sources give and what this build says; a
# matrix that differs in a word, and a build that differs in a group size, are noticed.
set -euo pipefail
cd "$(dirname "$0")/../.."
listed=$("$1" list --json)
check() { scripts/support_matrix.py --check "$1"; }
check docs/support-matrix.md <<< "$listed"
other=$(mktemp)
trap 'rm -f "$other"' EXIT
sed 's/| measured |/| model |/' docs/support-matrix.md > "$other"
if check "$other" <<< "$listed" 2> /dev/null; then echo "another matrix passes" >&2; exit 1; fi
if check docs/support-matrix.md <<< "${listed/256/512}" 2> /dev/null; then echo "another build passes" >&2; exit 1; fi
