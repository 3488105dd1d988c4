"""The code of every page, block after block, as a reader would run it.

A block that is not run has its reason above it: <!-- not run: needs a GPU -->. What a page only names, NAMES makes.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import machete

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+) -->\n)?```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if BLOCK.search(page.read_text())]
SIZES = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 4}


def readme_names():
    """Two folders: a model, and the same as GPTQ has it."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, vocab_size=100), dtype=torch.bfloat16)
    model.save_pretrained("model")
    machete.quantize_model(model, group_size=64)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("packed_weight")}
    for name, module in model.named_modules():
        if isinstance(module, machete.Linear):
            state |= {f"{name}.{part}": tensor for part, tensor in module.to_checkpoint("gptq").items()}
    Path("gptq").mkdir()
    save_file(state, "gptq/model.safetensors", metadata={"format": "pt"})
    how = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}}
    Path("gptq/config.json").write_text(json.dumps(model.config.to_dict() | how))
    return {"path": "model", "gptq": "gptq"}


NAMES = {"README.md": readme_names}


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    names = NAMES[page]() if page in NAMES else {}
    ran = 0
    for block in BLOCK.finditer(text):
        if block["reason"]:
            continue
        line = text.count("\n", 0, block.start("code"))
        try:
            exec(compile("\n" * line + block["code"], page, "exec"), names)
        except Exception as error:
            pytest.fail(f"{page}, block at line {line + 1}: {error!r}")
        ran += 1
    assert ran > 0


def test_every_block_is_found():
    """None is indented or fenced in another way, where it would not be run."""
    found = {page.relative_to(ROOT).as_posix(): len(BLOCK.findall(page.read_text())) for page in PAGES}
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        fences = re.findall(r"^\s*(?:```|~~~)\s*py", page.read_text(), re.MULTILINE | re.IGNORECASE)
        assert len(fences) == found.get(page.relative_to(ROOT).as_posix(), 0), page
    assert {"README.md", "docs/quickstart.md", "docs/python.md", "docs/migration.md"} <= set(found)


def test_tables_are_those_of_the_recorded_results(tmp_path):
    page = tmp_path / "quality.md"
    shutil.copy(DOCS / "quality.md", page)
    subprocess.run([sys.executable, DOCS.parent / "scripts" / "quality_tables.py", page], check=True)
    assert page.read_text() == (DOCS / "quality.md").read_text()
