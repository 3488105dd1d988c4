#!/bin/sh
# usage: isa_test.sh OBJECT...      Objects compiled for an instruction set that not every CPU has must define no weak
# (inline, template) symbol but those of the Eigen they have to themselves: the linker keeps one copy of a weak symbol for
# the whole program, and it could be this one.
status=0
for object in "$@"; do
  weak=$(nm --defined-only --demangle "$object" | grep -E '^[0-9a-f]+ [WVu] ' | grep -v -e EigenAvx -e DW.ref)
  if [ -n "$weak" ]; then
    echo "FAILED: $object defines symbols that may replace those of the whole program; give them internal linkage:"
    echo "$weak"
    status=1
  fi
done
[ $status -eq 0 ] && echo "ok: $# objects keep their instructions to themselves"
exit $status
