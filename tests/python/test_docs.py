"""The code of docs/python.md, block after block, as a reader would run it."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * line + block.group(1), str(PAGE), "exec"), names)
        except Exception as error:
            pytest.fail(f"{PAGE.name}, block at line {line + 1}: {error!r}")
