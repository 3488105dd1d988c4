"""machete.bench without a GPU: what it says. test_cuda.py times with it."""

import pytest
import torch

import machete
from machete.__main__ import main
from machete._native import native


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_needs_a_gpu(tmp_path):
    with pytest.raises(NotImplementedError, match="no CUDA device"):
        machete.bench({"small": (64, 64)}, [1])
    with pytest.raises(SystemExit, match="machete: torch sees no CUDA device"):
        main(["bench-torch", "--json", str(tmp_path / "results.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shapes", "ms", "message"),
    [("llama7b", [1], "suite llama7b is none of llama8b, llama70b"), ({}, [1], "must be"), ("llama8b", [], "must be")],
)
def test_refuses_bad_arguments(shapes, ms, message):
    with pytest.raises(ValueError, match=message):
        machete.bench(shapes, ms)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--a", "fp16"], "--a fp16 is none of bf16, f16"), (["--json", "nowhere/x.json"], "no folder nowhere")],
)
def test_the_command_refuses_bad_arguments(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["bench-torch", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--shape", "64"], "64 must be NxK"), (["--m", "1,x"], "1,x must be numbers"), (["--suite", "odd"], "invalid")],
)
def test_the_command_explains_its_options(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench-torch", *arguments])
    assert message in capsys.readouterr().err


def test_reading_is_timed_on_a_gpu_alone():
    with pytest.raises(NotImplementedError, match="the rate of reading is that of a GPU"):
        native.read_rate(torch.zeros(16, dtype=torch.uint8))
