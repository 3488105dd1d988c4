#!/bin/sh
# usage: isa_test.sh OBJECT...      Objects compiled for an instruction set that not every CPU has must define no weak
# (inline, template) symbol: the linker keeps one copy of those for the whole program, and it could be this one.
status=0
for object in "$@"; do
  weak=$(nm --defined-only --demangle "$object" | grep -E '^[0-9a-f]+ [WVu] ')
  if [ -n "$weak" ]; then
    echo "FAILED: $object defines symbols that may replace those of the whole program; give them internal linkage:"
    echo "$weak"
    status=1
  fi
done
[ $status -eq 0 ] && echo "ok: $# objects keep their instructions to themselves"
exit $status
