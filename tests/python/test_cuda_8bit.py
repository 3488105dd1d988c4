"""Activations of 8 bits on a GPU: tokens to the bit as on the CPU, products, graphs. Skipped where there is none."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import machete
from reference import CODES, DEFAULT_KERNELS, MEETS, check
from test_8bit_layers import DEFAULT
from test_cuda import pytestmark, tokens  # noqa: F401
from test_fuse import is_fused, llama
from test_tokens import same


def weights(weight_type="u4b8", n=192, k=320, group_size=32, dtype=torch.bfloat16, **options):
    quantized = machete.quantize(torch.randn(n, k), weight_type, group_size, dtype=dtype)
    return quantized, machete.prepack(quantized, activation_bits=8, device="cuda", **options)


def on_cpu(parts):
    return tuple(part.cpu() for part in parts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codes", CODES.values())
def test_tokens_have_the_bits_of_the_cpu(codes, dtype):
    for shape in ((80,), (3, 5, 577), (40, 1), (0, 80), (300, 4096), (2, 3, 14336)):
        for deviation in (1e-30, 1.0, 300.0):
            x = (torch.randn(shape) * deviation).to(dtype)
            if x.shape[0] == 300:
                x[3, 5], x[4, 4095], x[7] = torch.inf, torch.nan, 0
            same(on_cpu(machete.quantize_tokens(x.cuda(), codes)), machete.quantize_tokens(x, codes))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tokens(5, 320)[:, :160],  # rows apart
        lambda: tokens(5, 320)[:, 3:163],  # and on no multiple of 16 bytes
        lambda: tokens(160, 6).T,
        lambda: tokens(4, 320)[:, ::2],
        lambda: tokens(161 * 5)[1:801].view(5, 160),  # contiguous, and on no multiple of 16 bytes
        lambda: tokens(1, 160).expand(9, 160),
    ],
)
def test_any_layout_of_tokens_and_codes(make):
    x = make()
    _, packed = weights(k=160)
    expected = machete.quantize_tokens(x.contiguous().clone(), torch.int8)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    same(on_cpu((codes, scale)), on_cpu(expected))
    y = machete.linear(x, packed, activations="s8")
    odd_codes = torch.zeros(codes.numel() + 1, dtype=torch.int8, device="cuda")[1:].view(codes.shape).copy_(codes)
    odd_scale = torch.zeros(scale.numel() + 1, device="cuda")[1:].copy_(scale)
    wide = torch.stack((scale, scale), dim=-1)[..., 0]
    for given in ((codes, scale), (odd_codes, scale), (codes, odd_scale), (codes, wide)):
        assert torch.equal(machete.linear(given[0], packed, token_scale=given[1]), y)


@pytest.mark.parametrize(("weight_type", "activations"), MEETS)
@pytest.mark.parametrize("group_size", [-1, 32, 128])
def test_within_the_bound(weight_type, activations, group_size):
    quantized, packed = weights(weight_type, group_size=group_size)
    served = weight_type in DEFAULT_KERNELS[activations]
    for m in (1, 17, 130) if served else ():
        x = torch.randn(m, 320, dtype=torch.bfloat16) * torch.logspace(-3, 3, m).unsqueeze(-1).bfloat16()
        codes, scale = machete.quantize_tokens(x, CODES[activations])
        for fast in (False, True):
            options = {"fast_accumulation": fast}
            found = machete.linear(codes.cuda(), packed, token_scale=scale.cuda(), **options)
            check(found.cpu(), codes, quantized, scale)
            assert torch.equal(machete.linear(x.cuda(), packed, activations=activations, **options), found)
    if not served:
        with pytest.raises(NotImplementedError, match="no CUDA kernel"):
            machete.linear(tokens(3, 320), packed, activations=activations)


@pytest.mark.parametrize("weight_type", ["u4b8", "e4m3"])
def test_fast_accumulation_reaches_the_kernel(weight_type):
    _, packed = weights(weight_type, 512, 8192, -1)
    x = tokens(512, 8192)
    found = [machete.linear(x, packed, activations="e4m3", fast_accumulation=fast).double() for fast in (False, True)]
    assert 0 < (found[0] - found[1]).norm() < 0.01 * found[0].norm()


def test_what_no_kernel_serves_is_refused():
    _, half = weights(dtype=torch.float16)
    with pytest.raises(
        NotImplementedError, match="no CUDA kernel for u4b8 weights with s8 activations and scales of f16"
    ):
        machete.linear(tokens(3, 320).half(), half, activations="s8")
    _, small = weights(group_size=16)
    with pytest.raises(NotImplementedError, match="take 16-bit activations, or requantise with other groups"):
        machete.linear(tokens(3, 320), small, activations="s8")


@pytest.mark.parametrize("activations", CODES)
def test_the_bound_notices_a_lost_scale(activations):
    quantized, packed = weights()
    codes, scale = machete.quantize_tokens(torch.randn(9, 320, dtype=torch.bfloat16), CODES[activations])
    found = machete.linear(codes.cuda(), packed, token_scale=torch.ones(9, device="cuda")).cpu()
    with pytest.raises(AssertionError, match="of the bound"):
        check(found, codes, quantized, scale)


def test_schedules_are_listed_and_forced():
    quantized, packed = weights()
    x = torch.randn(33, 320, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    found = machete.explain(packed, 33, activations="s8")
    assert "activations of s8, outputs of bf16, on cuda:0" in str(found)
    for schedule in found.schedules:
        y = machete.linear(codes.cuda(), packed, token_scale=scale.cuda(), schedule=schedule.name)
        check(y.cpu(), codes, quantized, scale)


def test_in_a_graph_on_another_stream_and_overlapping():
    _, packed = weights()
    x = tokens(8, 320)
    expected = machete.linear(x, packed, activations="e4m3")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        elsewhere = machete.linear(x, packed, activations="e4m3")
    stream.synchronize()
    assert torch.equal(elsewhere, expected)

    def chain(overlap=False):
        y = machete.linear(x, packed, activations="e4m3", overlap=overlap)
        for _ in range(20):  # each waits for what the one before it writes
            y = machete.linear(torch.cat((y, y[:, :128]), dim=-1) / 64, packed, activations="s8", overlap=overlap)
        return y

    for overlap in (False, True):
        assert torch.equal(chain(overlap), chain())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = chain(overlap)
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert torch.equal(y, chain())


def test_swiglu():
    quantized, packed = weights(n=384, swiglu=True)
    x = torch.randn(17, 320, dtype=torch.bfloat16)
    expected = machete.linear(x, machete.prepack(quantized, activation_bits=8, swiglu=True), activations="s8").float()
    found = machete.linear(x.cuda(), packed, activations="s8").cpu().float()
    assert found.shape == (17, 192) and (found - expected).norm() < 0.005 * expected.norm()


@pytest.mark.parametrize(("weight", "activations"), DEFAULT)
def test_a_fused_model_generates_as_on_the_cpu(weight, activations):
    model = machete.quantize_model(llama(), weight, 32, activations=activations)
    ids = torch.tensor([[1, 5, 9, 33, 2, 7]])
    with torch.no_grad():
        expected = model(ids).logits
        fused = machete.fuse_model(model).cuda()
        assert is_fused(fused)
        found = fused(ids.cuda()).logits.cpu()
    # A sum that is rounded in another order moves the next layer's codes by units, not by halves of the 16-bit type's.
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert fused.generate(ids.cuda(), max_new_tokens=4, do_sample=False).shape == (1, 10)


@pytest.fixture
def layer():
    torch._dynamo.reset()
    given = torch.nn.Linear(128, 64).bfloat16()
    return machete.Linear.from_float(given, group_size=32, activations="e4m3").cuda()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (130,)])
def test_opcheck(layer, shape):
    x, kind = tokens(*shape, 128), (layer.packed_weight, 64, 128, "u4b8", "bf16", 32)
    torch.library.opcheck(torch.ops.machete.quantize_tokens.default, (x, torch.int8))
    codes, scale = machete.quantize_tokens(x, torch.int8)
    torch.library.opcheck(torch.ops.machete.linear_8bit.default, (codes, scale, *kind))
    for requires_grad in (False, True):
        given = (x.requires_grad_(requires_grad), *kind)
        torch.library.opcheck(torch.ops.machete.linear.default, given, {"activations": "e4m3"})


def test_compiles_once_from_two_tokens_on(layer):
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 16, 17, 64, 65, 300):
            x = tokens(m, 128)
            torch.testing.assert_close(compiled(x), layer(x), rtol=0.02, atol=0.02)


def test_reduce_overhead(layer):
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for m in (1, 8, 200):
            for _ in range(4):  # warm up, record, replay twice; each time other numbers
                x = tokens(m, 128)
                torch.compiler.cudagraph_mark_step_begin()
                found = compiled(x).clone()
                torch.testing.assert_close(found, layer(x), rtol=0.02, atol=0.02)


def test_threads_on_streams_of_their_own():
    _, packed = weights()
    inputs = [tokens(m, 320) for m in (1, 3, 17, 64, 130, 300)]
    expected = [machete.linear(x, packed, activations="s8") for x in inputs]
    torch.cuda.synchronize()

    def work(at):
        stream, wrong = torch.cuda.Stream(), 0
        with torch.cuda.stream(stream):
            for i in range(60):
                which = (at + i) % len(inputs)
                wrong += (machete.linear(inputs[which], packed, activations="s8") != expected[which]).sum()
            return int(wrong)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [0] * 6


def test_outputs_are_of_torchs_allocator():
    _, packed = weights()
    x = tokens(4096, 320)
    machete.linear(x, packed, activations="s8")
    before = torch.cuda.memory_allocated()
    y = machete.linear(x, packed, activations="s8")
    assert torch.cuda.memory_allocated() - before == y.numel() * 2
