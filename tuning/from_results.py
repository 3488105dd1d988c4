#!/usr/bin/env python3
"""Makes a tuning table from a benchmark of all schedules.

    machete bench --suite llama8b,llama70b,deepseek --all-schedules --json plain.json
    machete bench --suite llama8b,llama70b,deepseek --m 1,2,4,8,16,32,64 --all-schedules --overlap --json overlap.json
    tuning/from_results.py "NVIDIA H100" plain.json overlap.json > tuning/h100.json

For each weight shape and number of tokens the fastest schedule wins; an entry holds up to its number of tokens, beyond
the entry before it. Neighbours that agree are merged, and so are those where keeping the last choice costs under 1%.
A family that single linears are fast with but chains are not is left out with --except. The table serves the weight
type that was measured, and those that run on the same kernels.
"""

import argparse
import collections
import json
import pathlib
import re

MANIFEST = pathlib.Path(__file__).resolve().parent.parent / "instances" / "manifest.txt"


def running_on(w_type: str) -> list[str]:
    """The weight types that run on another's kernels."""
    return re.findall(rf"^type (\w+) [^#]* as {w_type} ", MANIFEST.read_text(), re.MULTILINE)


def entries_of(rows: list[dict], tolerance: float) -> list[dict]:
    """The best schedule by shape, way of launching and tokens, merged along the tokens; of several runs, the last's."""
    times: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    last_run: dict = {}
    for row in rows:
        problem = row["n"], row["k"], row["overlap"], row["m"]
        by_schedule = times[problem[:3]][row["m"]]
        if last_run.setdefault(problem, row["run"]) != row["run"]:
            last_run[problem] = row["run"]
            by_schedule.clear()
        if row["us"] is not None:
            by_schedule[row["schedule"]] = row["us"]
    entries = []
    for (n, k, overlap), by_m in sorted(times.items()):
        merged: list[dict] = []
        for m, by_schedule in sorted(by_m.items()):
            best = min(by_schedule, key=by_schedule.get)
            last = merged[-1]["schedule"] if merged else None
            if last and by_schedule.get(last, float("inf")) <= by_schedule[best] * (1 + tolerance):
                merged[-1]["m_max"] = m
            else:
                merged.append({"n": n, "k": k, "m_max": m, "overlap": overlap, "schedule": best})
        entries += merged
    return entries


def merge(entries: list[dict], kept: list[dict]) -> list[dict]:
    """The entries, and those of the other table for more tokens of the same weight shape and way of launching."""

    def key(entry: dict) -> tuple:
        return entry["n"], entry["k"], entry["overlap"]

    last: dict = collections.defaultdict(int)
    for entry in entries:
        last[key(entry)] = max(last[key(entry)], entry["m_max"])
    beyond = [entry for entry in kept if entry["m_max"] > last[key(entry)]]
    return sorted(entries + beyond, key=lambda entry: (*key(entry), entry["m_max"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gpu", help="the start of the device's name")
    parser.add_argument(
        "results",
        type=pathlib.Path,
        nargs="+",
        help="for each shape and number of tokens the last that has them counts",
    )
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument(
        "--keep",
        type=pathlib.Path,
        help="a table whose entries beyond the tokens measured here stay",
    )
    parser.add_argument(
        "--except",
        dest="left_out",
        help="a family that chains were measured slower with, e.g. decode",
    )
    arguments = parser.parse_args()
    results = [json.loads(path.read_text()) for path in arguments.results]
    rows = [
        row | {"overlap": result.get("overlap", False), "run": run}
        for run, result in enumerate(results)
        for row in result["rows"]
    ]
    if arguments.left_out:
        rows = [row for row in rows if not row["schedule"].startswith(arguments.left_out)]
    w_types = {row["w_type"] for row in rows}
    if len(w_types) != 1:
        parser.error(f"results of {', '.join(sorted(w_types))}; a table is of one weight type")
    (w_type,) = w_types
    machine = results[-1]["machine"]
    runs = ", ".join(dict.fromkeys(f"commit {result['commit']} on {result['date']}" for result in results))
    provenance = (
        f"machete bench --all-schedules at {runs}, {machine['gpu']}, driver {machine['driver']}, "
        f"CUDA {machine['cuda']}, bf16 x {w_type}, group size 128"
    ) + (f", without the {arguments.left_out} family" if arguments.left_out else "")
    entries = entries_of(rows, arguments.tolerance)
    if arguments.keep:
        kept = json.loads(arguments.keep.read_text())
        provenance += f"; for more tokens {kept['provenance']}"
        entries = merge(entries, kept["entries"])
    table = {
        "gpu": arguments.gpu,
        "w_types": [w_type, *running_on(w_type)],
        "provenance": provenance,
        "entries": entries,
    }
    head = {key: value for key, value in table.items() if key != "entries"}
    lines = ",\n".join("    " + json.dumps(entry) for entry in table["entries"])
    print(json.dumps(head, indent=2)[:-2] + ',\n  "entries": [\n' + lines + "\n  ]\n}")


if __name__ == "__main__":
    main()
