"""The command of the package, and that of C++ behind it."""

import os
import shutil
import subprocess
import sys

import pytest


def run(*arguments, path):
    """The package's command, with this PATH."""
    line = [sys.executable, "-m", "machete", *arguments]
    return subprocess.run(line, env=os.environ | {"PATH": str(path)}, capture_output=True, text=True)


@pytest.fixture
def script(tmp_path):
    """A folder where the command is a script, as pip's are."""
    path = tmp_path / "scripts" / "machete"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho a script\n")
    path.chmod(0o755)
    return path.parent


def test_what_it_does_not_know_is_handed_over(script, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(shutil.which("echo"), folder / "machete")
    found = run("quantize", "a.safetensors", "--group-size", "64", path=f"{script}:{folder}")
    assert (found.stdout, found.returncode) == ("quantize a.safetensors --group-size 64\n", 0)


def test_the_status_is_that_of_the_other(tmp_path):
    shutil.copy(shutil.which("false"), tmp_path / "machete")
    assert run("verify", path=tmp_path).returncode == 1


def test_without_another_it_says_what_there_is(script):
    found = run("quantize", path=script)
    assert found.returncode == 1 and found.stdout == ""
    assert "quantize is a command of C++, which is not on PATH" in found.stderr


def test_what_it_knows_is_not_handed_over(script, tmp_path):
    shutil.copy(shutil.which("echo"), tmp_path / "machete")
    for arguments in (["plot", "--help"], ["bench-torch", "--help"], ["--help"], []):
        found = run(*arguments, path=tmp_path)
        assert "usage: machete" in found.stdout + found.stderr
