"""The code of the pages on Python, block after block, as a reader would run it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


PAGES = {"quickstart.md": 4, "python.md": 8, "migration.md": 2}
PAGES |= {f"formats/{name}.md": 1 for name in ("gptq", "awq", "pack-quantized", "int-quantized")}


@pytest.mark.parametrize(("page", "count"), PAGES.items())
def test_code_blocks_run(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == count
    names: dict[str, object] = {}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * line + block.group(1), page, "exec"), names)
        except Exception as error:
            pytest.fail(f"{page}, block at line {line + 1}: {error!r}")


def test_tables_are_those_of_the_recorded_results(tmp_path):
    page = tmp_path / "quality.md"
    shutil.copy(DOCS / "quality.md", page)
    subprocess.run([sys.executable, DOCS.parent / "scripts" / "quality_tables.py", page], check=True)
    assert page.read_text() == (DOCS / "quality.md").read_text()
