"""The same products on a GPU: against the CPU backend, in graphs, compiled, in models. Skipped where there is none."""

import dataclasses

import pytest
import torch

import machete
from reference import WEIGHT_TYPES, check
from test_fuse import is_fused, llama

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)

SERVED = {torch.bfloat16: set(WEIGHT_TYPES) - {"u8"}, torch.float16: {"u4b8", "s4", "u4", "u8b128", "s8"}}


@pytest.mark.parametrize("dtype", SERVED)
@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_every_weight_type_is_within_the_bound(weight_type, dtype):
    quantized = machete.quantize(torch.randn(192, 320), weight_type, group_size=32, dtype=dtype)
    packed = machete.prepack(quantized, device="cuda")
    if weight_type not in SERVED[dtype]:
        with pytest.raises(NotImplementedError, match="no CUDA kernel"):
            machete.linear(torch.randn(1, 320, dtype=dtype, device="cuda"), packed)
        return
    for m in (1, 17, 130):
        x = torch.randn(m, 320, dtype=dtype)
        check(machete.linear(x.cuda(), packed).cpu(), x, quantized)


def test_fractional_zero_points():
    quantized = machete.quantize(torch.randn(64, 256), "u4", group_size=64)
    quantized = dataclasses.replace(quantized, zero_points=quantized.zero_points.to(torch.bfloat16) + 0.5)
    packed = machete.prepack(quantized, device="cuda")
    for m in (1, 3, 200):
        x = torch.randn(m, 256, dtype=torch.bfloat16)
        check(machete.linear(x.cuda(), packed).cpu(), x, quantized)


def test_act_order():
    quantized = machete.quantize(torch.randn(64, 256), group_size=64)
    order = torch.randperm(256)
    shuffled = dataclasses.replace(quantized, g_idx=(torch.arange(256, dtype=torch.int32) // 64)[order])
    on_cpu = machete.prepack(shuffled)
    packed = machete.prepack(shuffled, device="cuda")
    for m in (1, 3, 200):
        x = torch.randn(m, 256, dtype=torch.bfloat16)
        expected = machete.linear(x, on_cpu).float()
        assert (machete.linear(x.cuda(), packed).cpu().float() - expected).norm() < 0.005 * expected.norm()


def test_in_a_graph_and_on_another_stream():
    packed = machete.prepack(machete.quantize(torch.randn(256, 512)), device="cuda")
    x = torch.randn(8, 512, dtype=torch.bfloat16, device="cuda")
    expected = machete.linear(x, packed)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        elsewhere = machete.linear(x, packed)
    stream.synchronize()
    assert torch.equal(elsewhere, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = machete.linear(x, packed)
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, machete.linear(x, packed))


def test_compiles_and_gives_gradients():
    layer = machete.Linear.from_packed(machete.prepack(machete.quantize(torch.randn(64, 128)), device="cuda"))
    x = torch.randn(5, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    expected = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), expected)
    expected.sum().backward()
    reference = torch.ones_like(expected) @ layer.packed().dequantize()
    assert torch.allclose(x.grad, reference, rtol=2e-2, atol=2e-2)


def test_a_fused_model_generates_as_on_the_cpu():
    model = machete.quantize_model(llama(), group_size=32)
    tokens = torch.tensor([[1, 5, 9, 33, 2, 7]])
    with torch.no_grad():
        expected = model(tokens).logits
        fused = machete.fuse_model(model).cuda()
        assert is_fused(fused)
        found = fused(tokens.cuda()).logits.cpu()
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert fused.generate(tokens.cuda(), max_new_tokens=4, do_sample=False).shape == (1, 10)
