#!/usr/bin/env python3
"""The support matrix in Markdown, from the registry: reads `machete list --json`, writes to stdout."""

import json
import sys


def groups(sizes: set[int], every: list[int]) -> str:
    for step in (16, 32, 64, 128):
        if sizes == {size for size in every if size % step == 0} | {-1}:
            return f"-1, any multiple of {step}"
    return ", ".join(str(size) for size in sorted(sizes))


def main() -> None:
    kernels = json.load(sys.stdin)["kernels"]
    every = sorted({size for kernel in kernels for size in kernel["group_sizes"]})  # the CPU serves them all
    rows: dict[tuple, dict] = {}
    for kernel in kernels:
        family = kernel["name"].split("_")[0]
        key = (kernel["w_type"], kernel["a_type"], kernel["backend"], family)
        row = rows.setdefault(key, {"kernels": 0, "max_m": 0, "any": False, "groups": set(), "epilogues": True})
        row["kernels"] += 1
        row["max_m"] = max(row["max_m"], kernel["max_m"])
        row["any"] = row["any"] or kernel["max_m"] == 0
        row["groups"] |= set(kernel["group_sizes"])
        row["epilogues"] = row["epilogues"] and kernel["epilogues"]
    print("# Support matrix\n")
    print("Generated from the registry by `make docs`; do not edit. Outputs have the type of the activations (bf16")
    print("with 8-bit ones; on the CPU any), or f32 where there are epilogues.\n")
    print("| weights | activations | backend | family | kernels | tokens | group sizes | epilogues |")
    print("|---|---|---|---|---|---|---|---|")
    for (w_type, a_type, backend, family), row in rows.items():
        tokens = "any" if row["any"] else f"1...{row['max_m']}"
        sizes = groups(row["groups"], every)
        epilogues = "all" if row["epilogues"] else "none"
        cells = [f"`{w_type}`", f"`{a_type}`", backend, family, str(row["kernels"]), tokens, sizes, epilogues]
        print(f"| {' | '.join(cells)} |")
    print("\nCUDA means compute capability 9.0 (H100, H200). The rest is refused, with an error that says what exists.")


if __name__ == "__main__":
    main()
