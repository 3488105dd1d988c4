#!/usr/bin/env bash
# Prints the nvcc that the build uses: the first of $CUDACXX, the PATH and /usr/local/cuda that is 12.8 or newer. None: nothing.
for nvcc in "${CUDACXX:-}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc; do
  [ -x "$nvcc" ] || continue
  version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  if [ "$(printf '%s\n' 12.8 "$version" | sort -V | head -n 1)" = 12.8 ]; then
    echo "$nvcc"
    exit 0
  fi
done
