"""torch.ops.machete under torch's own checks, and under torch.compile."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import machete


@pytest.fixture
def packed():
    return machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16))


def arguments(packed, *shape, requires_grad=False):
    x = torch.randn(*shape, 80, dtype=torch.bfloat16, requires_grad=requires_grad)
    return (x, packed.data, 48, 80, "u4b8", "bf16", 16)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(packed, shape, requires_grad):
    torch.library.opcheck(torch.ops.machete.linear.default, arguments(packed, *shape, requires_grad=requires_grad))


def test_opcheck_of_options(packed):
    torch.library.opcheck(torch.ops.machete.linear.default, arguments(packed, 3), {"schedule": "cpu", "overlap": True})


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("requires_grad", [(False, False), (True, False), (False, True), (True, True)])
def test_opcheck_of_a_bias(packed, shape, requires_grad):
    x, *kind = arguments(packed, *shape, requires_grad=requires_grad[0])
    bias = torch.randn(48, dtype=torch.bfloat16, requires_grad=requires_grad[1])
    torch.library.opcheck(torch.ops.machete.linear.default, (x, *kind, None, bias))


def test_opcheck_of_out(packed):
    out = torch.empty(2, 3, 48, dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.machete.linear.out, arguments(packed, 2, 3), {"out": out})


def test_opcheck_of_dequantize(packed):
    torch.library.opcheck(torch.ops.machete.dequantize.default, (packed.data, 48, 80, torch.bfloat16))


def model():
    layers = [torch.nn.Linear(80, 128), torch.nn.SiLU(), torch.nn.Linear(128, 48, bias=False)]
    return machete.quantize_model(torch.nn.Sequential(*layers).bfloat16(), group_size=16)


def test_compiles_once_for_every_m():
    torch._dynamo.reset()
    layers = model()
    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 16, 17, 64, 300):
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            assert torch.equal(compiled(x), layers(x))


def test_one_token_has_a_graph_of_its_own():
    torch._dynamo.reset()
    layers, counter = model(), CompileCounter()
    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for m, graphs in ((5, 1), (2, 1), (1, 2), (300, 2), (1, 2), (2, 2)):  # torch takes sizes of 1 for constants
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            assert torch.equal(compiled(x), layers(x))
            assert counter.frame_count == graphs, f"M={m}"


def test_compiled_with_inductor():
    torch._dynamo.reset()
    layers = model()
    compiled = torch.compile(layers, fullgraph=True, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for m in (5, 9, 2, 64):
            x = torch.randn(2, m, 80, dtype=torch.bfloat16)
            torch.testing.assert_close(compiled(x), layers(x), rtol=0.02, atol=0.02)


def test_compiled_with_gradients():
    torch._dynamo.reset()
    layers = model()
    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend="aot_eager")
    for m in (5, 9):
        given = torch.randn(2, m, 80, dtype=torch.bfloat16)
        gradients = []
        for run in (compiled, layers):
            x = given.clone().requires_grad_()
            y = run(x)
            y.sum().backward()
            gradients.append((y.detach(), x.grad))
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_compiled_function_with_output(packed):
    torch._dynamo.reset()

    def run(x, out):
        machete.linear(x, packed, out=out)
        return out + 1

    x = torch.randn(4, 80, dtype=torch.bfloat16)
    out = torch.zeros(4, 48, dtype=torch.bfloat16)
    with torch.no_grad():
        result = torch.compile(run, fullgraph=True, backend="aot_eager")(x, out)
    assert torch.equal(out, machete.linear(x, packed))
    assert torch.equal(result, out + 1)


def test_tracing_refuses_misfits(packed):
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="must have K=80 input features"):
        torch.compile(machete.linear, fullgraph=True, backend="aot_eager")(torch.randn(3, 79).bfloat16(), packed)


def test_export():
    layers = model()
    x = torch.randn(4, 80, dtype=torch.bfloat16)
    program = torch.export.export(layers, (x,), dynamic_shapes=({0: torch.export.Dim("m", min=2)},))
    x = torch.randn(7, 80, dtype=torch.bfloat16)
    assert torch.equal(program.module()(x), layers(x))
