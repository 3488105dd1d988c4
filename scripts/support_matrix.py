#!/usr/bin/env python3
"""The support matrix in Markdown, from instances/manifest.txt and tuning/*.json.

usage: support_matrix.py                 Writes it to stdout.
       support_matrix.py --check FILE    Fails unless FILE is that, and agrees with `machete list --json` from stdin.
"""

from __future__ import annotations

import json
import pathlib
import sys

from manifest import kernels as manifest_kernels
from manifest import weight_types

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEIGHTS = weight_types()
ACTIVATIONS = ("bf16", "f16", "s8", "e4m3")
NARROW = ("s8", "e4m3")
# Activation types with those of scales and of 16-bit outputs.
PAIRS = (("bf16", "bf16"), ("f16", "f16"), ("s8", "bf16"), ("s8", "f16"), ("e4m3", "bf16"), ("e4m3", "f16"))
FAMILIES = ("gemm", "batch", "turns", "decode")
SAMPLED = (-1, 16, 32, 48, 64, 96, 128, 256)  # the group sizes that `machete list` asks a kernel about
HEAD = "weights activations outputs backend family built tokens groups epilogues speed".split()


def meets(w_type: str, a_type: str) -> bool:
    return a_type not in NARROW or a_type in WEIGHTS[w_type].meets


def manifest() -> dict[tuple, dict]:
    """By weight type, activation type, scale type and family: the names in each set, and the most tokens."""
    found: dict[tuple, dict] = {}
    for where, family, weight, types, tile, *number in manifest_kernels():
        a_type, _, scale_type = types.partition("/")
        scale_type = scale_type or ("bf16" if a_type in NARROW else a_type)
        row = found.setdefault((weight, a_type, scale_type, family), {"default": set(), "all": set(), "tokens": 0})
        row[where].add(f"{family}_{tile}" + ("w16" if family == "batch" and number == ["16"] else ""))
        row["tokens"] = max(row["tokens"], int(tile.split("x")[1]))
    return found


def measured_families() -> set[tuple[str, str, str]]:
    """Weight and activation types, and the families that a table of theirs names."""
    tables = [json.loads(path.read_text()) for path in ROOT.glob("tuning/*.json")]
    return {(w_type, a_type, entry["schedule"].split("_")[0])
            for table in tables for w_type in table["w_types"] for a_type in table.get("a_types", ("bf16", "f16"))
            for entry in table["entries"]}  # fmt: skip


def step(a_type: str, family: str) -> int:
    """Of what groups must be multiples."""
    return 128 if family == "decode" else 32 if a_type in NARROW or family == "turns" else 16


def outputs(a_type: str, scale_type: str, family: str) -> str:
    """Beside 8-bit activations outputs of f32 and e4m3 have scales of bf16."""
    alone = family == "decode" or (a_type in NARROW and scale_type == "f16")
    return f"`{scale_type}`" if alone else f"`{scale_type}`, `f32`, `e4m3`"


def rows() -> list[tuple[str, ...]]:
    kernels, measured = manifest(), measured_families()
    result = []
    for w_type in WEIGHTS:
        for a_type in ACTIVATIONS:
            if meets(w_type, a_type):
                every = "`bf16`, `f16`, `f32`, `e4m3`"
                result.append((f"`{w_type}`", f"`{a_type}`", every, "cpu", "cpu", "always", "any",
                               "-1, any multiple of 16", "all", "cpu"))  # fmt: skip
    for w_type in WEIGHTS:
        for a_type, scale_type in PAIRS:
            for family in FAMILIES:
                row = kernels.get((WEIGHTS[w_type].runs_as, a_type, scale_type, family))
                if row is None or not meets(w_type, a_type):
                    continue
                built = ", ".join(f"{where}: {len(row[where])}" for where in ("default", "all") if row[where])
                tokens = "any" if family == "gemm" else f"1...{row['tokens']}"
                groups = f"-1, any multiple of {step(a_type, family)}"
                if family == "turns":
                    groups += " but odd ones of 64 beyond it"  # which end within a turn of 128 k
                speed = "measured" if (w_type, a_type, family) in measured else "model"
                epilogues = "none" if family == "decode" else "all"
                result.append((f"`{w_type}`", f"`{a_type}`", outputs(a_type, scale_type, family), "cuda", family,
                               built, tokens, groups, epilogues, speed))  # fmt: skip
    return result


def matrix() -> str:
    lines = [
        "# Support matrix",
        "",
        "Generated from the manifest and the tuning tables by `make docs`; do not edit. A test holds it to what a",
        "build says.",
        "",
        "*Built*: how many kernels the default build has, and `all` those of `MACHETE_INSTANCES=all` besides. *Speed*:",
        "*measured* where a tuning table names kernels of the family for the shapes it holds; *model* where the cost",
        "model of the planner alone chooses; *cpu*, for checks and small models. *turns* kernels are for",
        "batch-invariant plans; others take them where they or a tuning table name them.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows())),
        "",
        "CUDA means compute capability 9.0 (H100, H200). The rest is refused, with an error that says what exists.",
    ]
    return "\n".join(lines).replace("| --- ", "|---").replace("|--- |", "|---|") + "\n"


def promised(a_type: str, family: str) -> set[int]:
    """Of the sampled group sizes."""
    return {size for size in SAMPLED if size == -1 or family == "cpu" or size % step(a_type, family) == 0}


def contradictions(built: list[dict]) -> list[str]:
    """What a build says otherwise than the matrix."""
    known, wrong = manifest(), []
    cpu = {(kernel["w_type"], kernel["a_type"]) for kernel in built if kernel["backend"] == "cpu"}
    expected = {(w_type, a_type) for w_type in WEIGHTS for a_type in ACTIVATIONS if meets(w_type, a_type)}
    wrong += [f"the CPU's {pair} is in one alone" for pair in sorted(cpu ^ expected)]
    served: dict[tuple, list[dict]] = {}
    for kernel in built:
        family = kernel["name"].split("_")[0]
        key = (kernel["w_type"], kernel["a_type"], kernel["scale_type"], family)
        served.setdefault(key, []).append(kernel)
    for (w_type, a_type, scale_type, family), kernels in served.items():
        what = f"{w_type} x {a_type} {family} with scales of {scale_type}"
        names = {kernel["name"] for kernel in kernels}
        key = (WEIGHTS[w_type].runs_as, a_type, scale_type, family)
        row = known.get(key, {"default": set(), "all": set(), "tokens": 0})
        if family != "cpu" and not names <= row["default"] | row["all"]:
            wrong.append(f"{what}: {sorted(names - row['default'] - row['all'])} are not in the manifest")
        sizes = {size for kernel in kernels for size in kernel["group_sizes"]}
        complete = family == "cpu" or names >= row["default"]  # not a build of chosen kernels
        if sizes - promised(a_type, family) or (complete and sizes != promised(a_type, family)):
            wrong.append(f"{what} takes groups of {sorted(sizes)}, not of {sorted(promised(a_type, family))}")
        if family == "cpu":
            continue
        if any(kernel["epilogues"] != (family != "decode") for kernel in kernels):
            wrong.append(f"{what}: the matrix is wrong about epilogues")
        most = 0 if family == "gemm" else row["tokens"]  # 0: any
        if any((kernel["max_m"] == 0) != (most == 0) or kernel["max_m"] > most for kernel in kernels):
            wrong.append(f"{what} serves {sorted({kernel['max_m'] for kernel in kernels})} tokens, not {most or 'any'}")
    return wrong


def main() -> int:
    if len(sys.argv) == 1:
        print(matrix(), end="")
        return 0
    if len(sys.argv) != 3 or sys.argv[1] != "--check":
        print(__doc__, file=sys.stderr)
        return 2
    wrong = contradictions(json.load(sys.stdin)["kernels"])
    if pathlib.Path(sys.argv[2]).read_text() != matrix():
        wrong.append(f"{sys.argv[2]} is not what the manifest and the tuning tables give; run `make docs`")
    for line in wrong:
        print(f"support matrix: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
