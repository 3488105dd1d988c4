#!/usr/bin/env python3
"""Writes the tables of docs/quality.md that come from recorded results: a language model's loss, and what to choose.

usage: quality_tables.py FILE      Reads bench/results/; replaces what lies between the marks in FILE.
"""

import json
import pathlib
import sys

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "bench" / "results"
# N, K of the linears of a Llama-3.1-8B layer, of which there are 32
LLAMA8B = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
LAYERS = 32
TOKENS = (1, 16, 64, 2048)
BITS = {"u4b8": 4, "u4": 4, "e2m1": 4, "u8b128": 8, "e4m3": 8}
# weight type, group size, and the demo's ways of them
CHOICES = [
    ("u4b8", 128, ["u4b8-128"]),
    ("u4b8", 64, ["u4b8-64"]),
    ("u4b8", 32, ["u4b8-32", "u4b8-32-gptq"]),
    ("u4", 128, []),
    ("u4", 32, ["u4-32-own"]),
    ("e2m1", 128, []),
    ("u8b128", 128, []),
    ("u8b128", 64, ["u8b128-64"]),
    ("e4m3", 128, []),
]
# With overlap. Of a type the first file that has a number of tokens is taken.
SPEEDS = [
    "types/h100-llama8b-u4-2026-11-28.json",
    "types/h100-llama8b-e2m1-2026-11-28.json",
    "types/h100-llama8b-u8b128-2026-11-28.json",
    "types/h100-llama8b-e4m3-2026-11-28.json",
    "h100-llama8b-2026-11-28-2.json",
]
# u4b8 in other groups than those of the last, beside whose times theirs count
GROUPS = {64: "groups/h100-llama8b-g64-2026-11-28.json", 32: "groups/h100-llama8b-g32-2026-11-28.json"}


def replaced(text: str, mark: str, lines: list[str]) -> str:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"quality_tables: no '{begin}' ... '{end}' in the file; put them where the table shall be")
    return "\n".join([head + begin, "", *lines, "", end + rest.partition(end)[2]])


def percent(value: float) -> str:
    return f"{100 * value:+.2f}%"


def language_model(found: dict) -> list[str]:
    lines = [
        "| weights | codes | linears, MB | memory, MB | perplexity | loss | bar | goes on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sources = {"u4b8-32-gptq": "calibrated", "u4-32-own": "carried over"}
    for row in found["rows"]:
        reference = row["name"] == "float32"
        codes = "" if reference else sources.get(row["name"], "rounded")
        bar = "" if row["bar"] is None else f"≤ {percent(row['bar'])}"
        said = " ".join(row["continuations"][0].split())[:40]
        memory = "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
        loss = "" if reference else percent(row["loss"])
        numbers = f"{row['bytes'] / 1e6:.1f} | {memory} | {row['perplexity']:.3f} | {loss} | {bar}"
        lines.append(f"| {row['name']} | {codes} | {numbers} | {said} |")
    return lines


def chain_of(name: str, weight: str, m: int) -> dict | None:
    for chain in json.loads((RESULTS / name).read_text())["chains"]:
        if (chain["w_type"], chain["m"], chain["a_type"]) == (weight, m, "bf16"):
            return chain
    return None


def speed(weight: str, group_size: int, m: int) -> str:
    """How many times as fast as cuBLAS's bf16 the four linears are, one after another."""
    known = next((chain for name in SPEEDS if (chain := chain_of(name, weight, m))), None)
    here = known
    if group_size != 128:
        here = chain_of(GROUPS[group_size], weight, m) if weight == "u4b8" else None
    return "–" if known is None or here is None else f"{known['cublas_us'] / here['us']:.2f}"


def choices(found: dict) -> list[str]:
    losses = {row["name"]: row["loss"] for row in found["rows"]}
    numbers = LAYERS * sum(n * k for n, k in LLAMA8B.values())
    lines = [
        "| weight type | group size | bits a weight | 8B linears, MB | perplexity lost | "
        + " | ".join(f"M={m}" for m in TOKENS)
        + " |",
        "|" + "---|" * (5 + len(TOKENS)),
    ]
    for weight, group_size, ways in CHOICES:
        bits = BITS[weight] + (32 if weight == "u4" else 16) / group_size  # zero points as kernels have them
        lost = ", ".join(
            percent(losses[way]) + {"u4b8-32-gptq": " calibrated", "u4-32-own": " carried over"}.get(way, "")
            for way in ways
            if way in losses
        )
        speeds = " | ".join(speed(weight, group_size, m) for m in TOKENS)
        size = f"{bits:.2f} | {numbers * bits / 8e6:.0f}"
        lines.append(f"| {weight} | {group_size} | {size} | {lost or '–'} | {speeds} |")
    return lines


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    file = pathlib.Path(sys.argv[1])
    found = json.loads((RESULTS / "demo" / "cpu.json").read_text())
    text = replaced(file.read_text(), "language model", language_model(found))
    file.write_text(replaced(text, "choose", choices(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
