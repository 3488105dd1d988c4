#!/usr/bin/env python3
"""Condenses a run of the GPU tests into the summary that is committed with the benchmark's results.

usage: gpu_summary.py GTEST_JSON [SUMMARY_JSON] [--python JUNIT_XML]

Reads what `gpu_tests --gtest_output=json:GTEST_JSON` wrote, prints a summary and writes it to SUMMARY_JSON
(bench/results/gpu-tests.json). Fails if a test failed or none ran. Where every test was skipped, as without a GPU, it
says so and leaves an existing summary alone. The commit comes from git, or else from MACHETE_COMMIT. What pytest wrote
to JUNIT_XML is counted by itself, under "python": null where there is no such file, since those tests did not run.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command_output(*command):
    """The command's first line of output, or "" where it cannot be run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if lines else ""


def commit():
    built = os.environ.get("MACHETE_COMMIT")  # what the tests were built from
    if built:
        return built
    head = command_output("git", "rev-parse", "HEAD")
    if not head:
        return "unknown"
    # The results themselves are written beside the code that they belong to.
    changes = command_output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return head + "-dirty" if changes else head


def gpu_and_driver():
    line = command_output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0")
    name, _, driver = line.partition(",")
    return name.strip() or "unknown", driver.strip() or "unknown"


def seconds(text):
    """gtest writes durations as "1.25s"."""
    return float(str(text).rstrip("s") or 0)


def of_python(path):
    """The counts of pytest's report, and what failed."""
    if path is None or not path.is_file():
        return None, []
    suites = list(xml.etree.ElementTree.parse(path).getroot().iter("testsuite"))
    total = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped")}
    failures = []
    for case in (case for suite in suites for case in suite.iter("testcase")):
        amiss = [entry for kind in ("failure", "error") for entry in case.findall(kind)]
        if amiss:
            name = f"{case.get('classname')}.{case.get('name')}"
            failures.append({"test": name, "messages": [entry.get("message", "") for entry in amiss]})
    counts = {
        "passed": total["tests"] - total["skipped"] - len(failures),
        "failed": len(failures),
        "skipped": total["skipped"],
        "seconds": round(sum(float(suite.get("time", 0)) for suite in suites), 1),
    }
    return counts, failures


def summarise(report, python, python_failures):
    passed, skipped, failures = 0, 0, []
    for suite in report.get("testsuites", []):
        for test in suite.get("testsuite", []):
            if test.get("failures"):
                messages = [failure.get("failure", "") for failure in test["failures"]]
                failures.append({"test": f"{suite['name']}.{test['name']}", "messages": messages})
            elif test.get("result") == "SKIPPED":
                skipped += 1
            elif test.get("result") == "COMPLETED":
                passed += 1
    gpu, driver = gpu_and_driver()
    return {
        "commit": commit(),
        "gpu": gpu,
        "driver": driver,
        "date": report.get("timestamp", "unknown"),
        "passed": passed,
        "failed": len(failures),
        "skipped": skipped,
        "seconds": round(seconds(report.get("time", "0s")), 1),
        "python": python,
        "failures": failures + python_failures,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", metavar="GTEST_JSON", type=pathlib.Path)
    parser.add_argument(
        "summary",
        metavar="SUMMARY_JSON",
        type=pathlib.Path,
        nargs="?",
        default=ROOT / "bench" / "results" / "gpu-tests.json",
    )
    parser.add_argument("--python", metavar="JUNIT_XML", type=pathlib.Path)
    arguments = parser.parse_args()

    try:
        report = json.loads(arguments.report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"gpu_summary: cannot read {arguments.report}: {error}; run gpu_tests again", file=sys.stderr)
        return 1
    python, python_failures = of_python(arguments.python)
    summary = summarise(report, python, python_failures)

    for failure in summary["failures"]:
        print(f"FAILED {failure['test']}")
        for message in failure["messages"]:
            print("  " + message.strip().replace("\n", "\n  "))
    counts = "{passed} passed, {failed} failed, {skipped} skipped in {seconds} s on {gpu}".format(**summary)
    if summary["passed"] + summary["failed"] == 0:
        if summary["skipped"] == 0:
            print("gpu tests: none ran, none was skipped; is the filter right?", file=sys.stderr)
            return 1
        print(f"gpu tests: all {summary['skipped']} skipped (no CUDA GPU); no summary written")
        return 0
    arguments.summary.parent.mkdir(parents=True, exist_ok=True)
    arguments.summary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    beside = "not run" if python is None else "{passed} passed, {failed} failed, {skipped} skipped".format(**python)
    print(f"gpu tests: {counts}; of Python: {beside}; summary in {arguments.summary}")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
