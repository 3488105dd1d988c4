"""The same products on a GPU: against the CPU backend, on streams, in models. Skipped where there is none."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import layouts
import machete
from machete import PackedWeight
from reference import DEFAULT_KERNELS, E4M3, WEIGHT_TYPES, check
from test_act_order import BAD, K, act_ordered, spoilt
from test_fuse import is_fused, llama

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)

SERVED = {torch.bfloat16: DEFAULT_KERNELS["bf16"], torch.float16: DEFAULT_KERNELS["f16"]}


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


@pytest.mark.parametrize("activation_bits", [16, 8])
def test_outputs_of_other_types(activation_bits):
    quantized = machete.quantize(torch.randn(67, 256), group_size=64)
    packed = machete.prepack(quantized, device="cuda", activation_bits=activation_bits)
    scales = torch.tensor([0.05, 0.11], device="cuda")  # outputs of about 16; of the first some saturate
    for m in (1, 17, 130):
        x, token_scale = torch.randn(m, 256, dtype=torch.bfloat16, device="cuda"), None
        if activation_bits == 8:
            x, token_scale = machete.quantize_tokens(x, torch.int8)
        given = (x.cpu(), quantized, None if token_scale is None else token_scale.cpu())
        exact = machete.linear(x, packed, token_scale=token_scale, out_dtype=torch.float32)
        check(exact.cpu(), *given)
        for scale in (None, scales[:1], scales[1:]):  # the last on no multiple of 16 bytes
            options = {"out_dtype": E4M3, "output_scale": scale}
            found = machete.linear(x, packed, token_scale=token_scale, **options).cpu()
            check(found, *given, None if scale is None else scale.cpu())


@pytest.mark.parametrize("activation_bits", [16, 8])
def test_bias_is_added_before_the_one_rounding(activation_bits):
    packed = machete.prepack(machete.quantize(torch.randn(67, 256)), device="cuda", activation_bits=activation_bits)
    bias = torch.randn(70, dtype=torch.bfloat16, device="cuda")
    layer = machete.Linear.from_packed(packed, bias[:67], None if activation_bits == 16 else "s8").requires_grad_()
    options = {} if activation_bits == 16 else {"activations": "s8"}
    for m in (1, 8, 17, 130):
        x = torch.randn(m, 256, dtype=torch.bfloat16, device="cuda")
        exact = machete.linear(x, packed, out_dtype=torch.float32, **options)
        for b in (bias[:67], bias[2:69]):  # the second on no multiple of 16 bytes
            y = machete.linear(x, packed, b, **options)
            torch.testing.assert_close(y.float(), exact + b, rtol=2.0**-8, atol=1e-4)
        with torch.no_grad():
            assert torch.equal(layer(x), machete.linear(x, packed, bias[:67], **options))
        y = layer(x.requires_grad_())
        y.sum().backward()
        assert torch.equal(layer.bias.grad, torch.full_like(bias[:67], m))
        layer.bias.grad = None


@pytest.mark.parametrize("activation_bits", [16, 8])
def test_bias_of_swiglu_comes_before_the_activation(activation_bits):
    quantized = machete.quantize(torch.randn(2 * 67, 256))
    packed, plain = (
        machete.prepack(quantized, device="cuda", swiglu=swiglu, activation_bits=activation_bits)
        for swiglu in (True, False)
    )
    options = {} if activation_bits == 16 else {"activations": "s8"}
    bias = torch.randn(134, dtype=torch.bfloat16, device="cuda")  # up's begins on no multiple of 16 bytes
    for m in (1, 8, 17, 130):
        x = torch.randn(m, 256, dtype=torch.bfloat16, device="cuda")
        gate, up = (machete.linear(x, plain, out_dtype=torch.float32, **options) + bias).chunk(2, dim=-1)
        expected = torch.nn.functional.silu(gate) * up
        found = machete.linear(x, packed, bias, **options)
        torch.testing.assert_close(found.float(), expected, rtol=2.0**-7, atol=2.0**-7)


def test_outputs_are_of_torchs_allocator():
    packed = machete.prepack(machete.quantize(torch.randn(256, 512)), device="cuda")
    x = torch.randn(4096, 512, dtype=torch.bfloat16, device="cuda")
    machete.linear(x, packed)
    before = torch.cuda.memory_allocated()
    y = machete.linear(x, packed)
    assert torch.cuda.memory_allocated() - before == y.numel() * 2
    del y
    assert torch.cuda.memory_allocated() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one():
    packed = machete.prepack(machete.quantize(torch.randn(256, 512)), device="cuda:1")
    x = torch.randn(8, 512, dtype=torch.bfloat16, device="cuda:1")
    y = machete.linear(x, packed)
    assert y.device == x.device
    with torch.cuda.device(1):
        assert torch.equal(machete.linear(x, packed), y)


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


@pytest.fixture
def packed():
    return machete.prepack(machete.quantize(torch.randn(96, 160), group_size=32), device="cuda")


def tokens(*shape):
    return torch.randn(*shape, device="cuda").bfloat16()


@pytest.mark.parametrize(
    "make",
    [
        lambda: tokens(2, 7, 160),
        lambda: tokens(160),
        lambda: tokens(1, 1, 160),
        lambda: tokens(0, 160),
        lambda: tokens(3, 0, 160),
        lambda: tokens(5, 320)[:, :160],  # rows apart
        lambda: tokens(5, 320)[:, 3:163],  # and on no multiple of 16 bytes
        lambda: tokens(160, 6).T,
        lambda: tokens(4, 320)[:, ::2],
        lambda: tokens(161 * 5)[1:801].view(5, 160),  # contiguous, and on no multiple of 16 bytes
        lambda: tokens(400).as_strided((4, 160), (20, 1)),  # overlapping rows
        lambda: tokens(1, 160).expand(9, 160),
    ],
)
def test_any_layout_of_x_and_of_the_output(packed, make):
    x = make()
    expected = machete.linear(x.contiguous().clone(), packed)
    assert expected.shape == (*x.shape[:-1], 96)
    assert torch.equal(machete.linear(x, packed), expected)
    odd = torch.full((expected.numel() + 1,), torch.nan, dtype=torch.bfloat16, device="cuda")
    wide = torch.full((*expected.shape, 2), torch.nan, dtype=torch.bfloat16, device="cuda")
    for out in (torch.empty_like(expected), odd[1:].view(expected.shape), wide[..., 1]):
        assert machete.linear(x, packed, out=out) is out
        assert torch.equal(out, expected)
    assert odd[0].isnan() and wide[..., 0].isnan().all()  # nothing beside it


def test_tensors_on_different_devices_are_refused(packed):
    x, here, there = tokens(3, 160), packed.to("cpu"), torch.empty(3, 96, dtype=torch.bfloat16)
    for call, text in (
        (lambda: machete.linear(x, here), "x lies on cuda:0, the weight on cpu; move one to the other"),
        (lambda: machete.linear(x.cpu(), packed), "x lies on cpu, the weight on cuda:0; move one to the other"),
        (lambda: machete.linear(x, packed, out=there), "out of .* on cpu must be"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_threads_on_streams_of_their_own(packed):
    inputs = [tokens(m, 160) for m in (1, 3, 17, 64, 130, 300)]
    expected = [machete.linear(x, packed) for x in inputs]
    torch.cuda.synchronize()

    def work(at):
        stream, wrong = torch.cuda.Stream(), 0
        with torch.cuda.stream(stream):
            for i in range(60):
                which = (at + i) % len(inputs)
                found = machete.linear(inputs[which], packed)
                wrong += (found != expected[which]).sum()  # read on the stream that wrote it
            return int(wrong)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [0] * 6


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_orders_of_k_that_are_none_are_refused(value):
    packed = act_ordered()
    bad = spoilt(packed.data, value)
    for make in (
        lambda: PackedWeight.from_tensor(bad.cuda()),
        lambda: dataclasses.replace(packed, data=bad).to("cuda"),
        lambda: dataclasses.replace(packed, data=bad.cuda()).unpack(),
        lambda: dataclasses.replace(packed, data=bad.cuda()).dequantize(),
    ):
        with pytest.raises(ValueError, match="order of K is damaged"):
            make()
    layer = machete.Linear(K, 48, bias=False, group_size=16, device="cuda")
    for data in (bad, bad.cuda()):
        with pytest.raises(RuntimeError, match="packed_weight: the weight's order of K is damaged"):
            layer.load_state_dict({"packed_weight": data})
    layer.load_state_dict({"packed_weight": packed.data})
    x = tokens(5, K)
    assert torch.equal(layer(x), machete.linear(x, packed.to("cuda")))


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


def on_the_gpu(model):
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cuda"}


def test_from_pretrained_with_a_device_map(tmp_path):
    pytest.importorskip("accelerate")
    ids = torch.tensor([[1, 5, 9, 33, 2, 7]])
    given = llama()
    given.save_pretrained(tmp_path / "float")
    by_hand = machete.quantize_model(given, group_size=32)
    by_hand.save_pretrained(tmp_path / "packed")
    state = {n: value for n, value in by_hand.state_dict().items() if not n.endswith("packed_weight")}
    for name, module in by_hand.named_modules():
        if isinstance(module, machete.Linear):
            state |= {f"{name}.{part}": tensor for part, tensor in module.to_checkpoint("gptq").items()}
    (tmp_path / "gptq").mkdir()
    save_file(state, tmp_path / "gptq" / "model.safetensors", metadata={"format": "pt"})
    description = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    config = by_hand.config.to_dict() | {"quantization_config": description}
    (tmp_path / "gptq" / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        expected = by_hand(ids).logits
        for folder, config in (
            ("float", machete.Config(group_size=32)),
            ("packed", None),
            ("gptq", machete.Config(backend="machete")),
        ):
            options = {} if config is None else {"quantization_config": config}
            model = AutoModelForCausalLM.from_pretrained(tmp_path / folder, device_map="cuda", **options)
            assert on_the_gpu(model), folder
            found = model(ids.cuda()).logits.cpu()
            assert (found - expected).norm() < 0.02 * expected.norm(), folder


def test_an_act_ordered_layer_of_a_checkpoint():
    x = layouts.layer(48, 128, act_order=True, dtype=torch.bfloat16)
    layer = machete.Linear.from_checkpoint(layouts.gptq(x))
    a = torch.randn(5, 128).bfloat16()
    expected = layer(a).float()
    assert (layer.cuda()(a.cuda()).cpu().float() - expected).norm() < 0.005 * expected.norm()
