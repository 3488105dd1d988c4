#!/usr/bin/env python3
"""Prints what the best schedule of each linear reaches in sweeps (`machete bench --all-schedules`), by suite and M.

    tuning/best.py tuning/sweeps/h100-*.json

Microseconds are the sum over a suite's linears; the read floor is that of their bytes. Of rows that repeat, the last
file's counts.
"""

import argparse
import collections
import json
import pathlib


def best_rows(paths: list[pathlib.Path]) -> dict:
    """(suite, overlap, m) -> name -> the fastest row of the last file that has any."""
    sweeps: dict = collections.defaultdict(dict)
    for path in sorted(paths):
        result = json.loads(path.read_text())
        linears: dict = collections.defaultdict(list)
        for row in result["rows"]:
            linears[row["suite"], result.get("overlap", False), row["m"], row["name"]].append(row)
        for (suite, overlap, m, name), rows in linears.items():
            sweeps[suite, overlap, m][name] = min(rows, key=lambda row: row["us"])
    return sweeps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=pathlib.Path, nargs="+")
    parser.add_argument("--linears", action="store_true", help="also each linear and its schedule")
    arguments = parser.parse_args()

    print(f"{'suite':<10} {'launches':<8} {'M':>4} {'us':>8} {'floor us':>9} {'of floor':>9}")
    for (suite, overlap, m), best in sorted(best_rows(arguments.sweeps).items()):
        us = sum(row["us"] for row in best.values())
        floor = sum(row["read_floor_us"] for row in best.values())
        launches = "overlap" if overlap else "plain"
        print(f"{suite:<10} {launches:<8} {m:>4} {us:>8.1f} {floor:>9.1f} {floor / us:>9.2f}")
        if arguments.linears:
            for name, row in best.items():
                print(f"    {name:<20} {row['us']:>7.2f} us  {row['schedule']}")


if __name__ == "__main__":
    main()
