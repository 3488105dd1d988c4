#!/usr/bin/env bash
# usage: sources.sh all|core      Lists our C++ sources: all of them, or those that clang-tidy reads.
cd "$(dirname "$0")/.." || exit 1
case $1 in
  all) find include src kernels instances testing tests bench tools tuning python examples -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' 2> /dev/null ;;
  core) find src tools tuning python -name '*.cpp' ;;
esac | sort
