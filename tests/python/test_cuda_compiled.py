"""torch.compile and CUDA graphs on a GPU, and torch's own checks of the operators. Skipped where there is none."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import machete
from test_cuda import pytestmark  # noqa: F401
from test_fuse import is_fused, llama


@pytest.fixture
def layer():
    torch._dynamo.reset()
    return machete.Linear.from_float(torch.nn.Linear(128, 64).bfloat16(), group_size=32).cuda()


def tokens(*shape):
    return torch.randn(*shape, device="cuda").bfloat16()


def test_compiles_and_gives_gradients(layer):
    x = torch.randn(5, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), expected, rtol=0.02, atol=0.02)
    expected.sum().backward()
    reference = torch.ones_like(expected) @ layer.packed().dequantize()
    assert torch.allclose(x.grad, reference, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (130,)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layer, shape, requires_grad):
    x = tokens(*shape, 128).requires_grad_(requires_grad)
    arguments = (x, layer.packed_weight, 64, 128, "u4b8", "bf16", 32)
    torch.library.opcheck(torch.ops.machete.linear.default, arguments)
    if not requires_grad:
        out = tokens(*shape, 64)
        torch.library.opcheck(torch.ops.machete.linear.out, arguments, {"out": out})


def test_opcheck_of_dequantize(layer):
    arguments = (layer.packed_weight, 64, 128, torch.bfloat16)
    torch.library.opcheck(torch.ops.machete.dequantize.default, arguments)


def test_compiles_once_from_two_tokens_on(layer):
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 16, 17, 64, 65, 300):
            x = tokens(m, 128)
            torch.testing.assert_close(compiled(x), layer(x), rtol=0.02, atol=0.02)


def test_one_token_has_a_graph_of_its_own(layer):
    counter = CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for m, graphs in ((5, 1), (1, 2), (300, 2), (1, 2)):
            x = tokens(m, 128)
            assert torch.equal(compiled(x), layer(x))
            assert counter.frame_count == graphs, f"M={m}"


def test_reduce_overhead_of_a_layer(layer):
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for m in (1, 8, 64, 200):
            for _ in range(4):  # warm up, record, replay twice; each time other numbers
                x = tokens(m, 128)
                torch.compiler.cudagraph_mark_step_begin()
                found = compiled(x).clone()
                torch.testing.assert_close(found, layer(x), rtol=0.02, atol=0.02)


def test_reduce_overhead_of_a_fused_model():
    torch._dynamo.reset()
    model = machete.quantize_model(llama(), group_size=32, fuse=True).cuda()
    assert is_fused(model)
    compiled = torch.compile(model, mode="reduce-overhead")
    with torch.no_grad():
        for m in (1, 6, 40):
            for _ in range(4):
                ids = torch.randint(96, (2, m), device="cuda")
                torch.compiler.cudagraph_mark_step_begin()
                found = compiled(ids, use_cache=False).logits.clone()
                expected = model(ids, use_cache=False).logits
                assert (found - expected).float().norm() < 0.02 * expected.float().norm()
