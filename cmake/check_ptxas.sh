#!/bin/sh
# Compiler launcher for kernels: runs the compile given as arguments and fails it if ptxas reports what makes a kernel
# slow without making it wrong: spilled registers, serialised wgmma, an ignored setmaxnreg. Works on the compiler's
# output, which ccache replays, so a cached kernel is judged as well. The full report is kept beside the object.
object=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
report=${object:-$(mktemp)}.ptxas

"$@" > "$report" 2>&1
status=$?
grep -v -e '^ptxas info' -e '^ *[0-9]* bytes stack frame' -e '^ *$' "$report" >&2

if [ $status -eq 0 ]; then
  faults=$(grep -E -e 'C75(10|12|14|20)' -e 'wgmma.mma_async instructions are serialized' -e "setmaxnreg.* ignored" \
    -e '[1-9][0-9]* bytes spill (stores|loads)' "$report")
  if [ -n "$faults" ]; then
    echo "check_ptxas: ${object}: refused, since ptxas reports spills or serialised wgmma (see $report):" >&2
    # ptxas names a function on the line before its figures
    awk '/Compiling entry function|Function properties for/ { name = $0 }
         /[1-9][0-9]* bytes spill/ { print "  " name ":" $0 }
         /C75(10|12|14|20)|serialized|setmaxnreg.*ignored/ { print "  " $0 }' "$report" >&2
    [ -n "$object" ] && rm -f "$object"
    status=1
  fi
fi
exit $status
