"""Fused projections: the numbers of the unfused model, saved and loaded, compiled, copied."""

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

import layouts
import machete
from reference import check, dequantize

TOKENS = torch.tensor([[1, 5, 9, 2, 40, 7], [3, 3, 0, 95, 1, 2]])
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def llama(**options):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **options), dtype=torch.bfloat16).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def qwen3():
    return AutoModelForCausalLM.from_config(Qwen3Config(**SIZES, head_dim=16), dtype=torch.bfloat16).eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits.float()


def assert_close(found, expected):
    assert (found - expected).norm() / expected.norm() < 0.02


def is_fused(model):
    layer = model.model.layers[1]
    return hasattr(layer.self_attn, "qkv_proj") and hasattr(layer.mlp, "gate_up_proj")


@pytest.mark.parametrize("weight_type", ["u4b8", "u4", "u8b128", "e2m1"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_swiglu_is_silu_of_gate_times_up(weight_type, dtype):
    quantized = machete.quantize(torch.randn(2 * 67, 100), weight_type, group_size=32, dtype=dtype)
    packed = machete.prepack(quantized, swiglu=True)
    assert packed.swiglu and (packed.n, packed.columns) == (134, 67)
    again = packed.unpack()
    assert torch.equal(again.qweight, quantized.qweight) and torch.equal(again.scales, quantized.scales)
    x = torch.randn(2, 5, 100, dtype=dtype)
    found = machete.linear(x, packed)
    gate, up = (x.double() @ dequantize(quantized).T).chunk(2, dim=-1)
    expected = nn.functional.silu(gate) * up
    roundoff = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=2 * roundoff, atol=2 * roundoff * expected.abs().max())
    out = torch.empty_like(found)
    assert torch.equal(machete.linear(x, packed, out=out), found)
    bias = torch.randn(134, dtype=dtype)
    gate, up = (x.double() @ dequantize(quantized).T + bias.double()).chunk(2, dim=-1)
    expected = nn.functional.silu(gate) * up
    found = machete.linear(x, packed, bias)
    torch.testing.assert_close(found.double(), expected, rtol=2 * roundoff, atol=2 * roundoff * expected.abs().max())
    assert torch.equal(machete.linear(x, packed, bias.clone().requires_grad_()), found)
    check(machete.linear(x, machete.prepack(quantized)), x, quantized)
    with pytest.raises(ValueError, match="packed for the epilogue swiglu, which the plan has not"):
        torch.ops.machete.linear(x, packed.data, 134, 100, weight_type, machete._native.NAMES[dtype], 32)


def test_swiglu_under_opcheck_and_its_gradient():
    packed = machete.prepack(machete.quantize(torch.randn(96, 80), group_size=16), swiglu=True)
    numbers = torch.randn(96, dtype=torch.bfloat16) / 4
    for requires_grad in (False, True):
        x = torch.randn(3, 80, dtype=torch.bfloat16, requires_grad=requires_grad)
        arguments = (x, packed.data, 96, 80, "u4b8", "bf16", 16)
        torch.library.opcheck(torch.ops.machete.linear.default, arguments, {"swiglu": True})
        bias = numbers.clone().requires_grad_(requires_grad)
        torch.library.opcheck(torch.ops.machete.linear.default, (*arguments, None, bias), {"swiglu": True})
    w = packed.dequantize().float()
    given, gradient = torch.randn(3, 80, dtype=torch.bfloat16) / 4, torch.randn(3, 48, dtype=torch.bfloat16)
    for bias in (None, numbers, numbers.clone().requires_grad_()):
        x = given.clone().requires_grad_()
        machete.linear(x, packed, bias).backward(gradient)
        y = given.float().requires_grad_()
        added = torch.zeros(96) if bias is None else bias.detach().float()
        added.requires_grad_()
        gate, up = (y @ w.T + added).chunk(2, dim=-1)
        (nn.functional.silu(gate) * up).backward(gradient.float())
        assert (x.grad.float() - y.grad).norm() / y.grad.norm() < 0.02
        if bias is not None and bias.requires_grad:
            assert (bias.grad.float() - added.grad).norm() / added.grad.norm() < 0.02
    trained = numbers.clone().requires_grad_()  # alone
    machete.linear(given, packed, trained).backward(gradient)
    assert torch.equal(trained.grad, bias.grad)


@pytest.mark.parametrize("make", [llama, lambda: llama(attention_bias=True, mlp_bias=True), qwen3])
def test_a_fused_model_computes_the_same(make):
    model = machete.quantize_model(make(), group_size=32)
    expected = logits(model)
    parts = model.model.layers[0]
    weights = [getattr(parts.self_attn, f"{name}_proj").packed().dequantize() for name in "qkv"]
    assert machete.fuse_model(model) is model
    assert is_fused(model)
    assert not hasattr(parts.self_attn, "q_proj") and not hasattr(parts.mlp, "up_proj")
    assert torch.equal(parts.self_attn.qkv_proj.packed().dequantize(), torch.cat(weights))
    assert_close(logits(model), expected)
    assert isinstance(parts.self_attn, type(make().model.layers[0].self_attn))


def test_a_plain_layer_takes_no_weight_for_swiglu(tmp_path):
    model = machete.quantize_model(llama(), group_size=32)
    up = model.model.layers[0].mlp.up_proj
    swiglu = machete.prepack(up.packed().unpack(), swiglu=True)
    with pytest.raises(RuntimeError, match="the weight has swiglu=True, the layer False"):
        up.load_state_dict({"packed_weight": swiglu.data})
    up.packed_weight = swiglu.data
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="0.mlp.up_proj.packed_weight: the weight has swiglu=True, the layer False"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_projections_are_computed_once():
    model = machete.fuse_model(machete.quantize_model(llama(), group_size=32))
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, machete.Linear):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    logits(model)
    assert sorted(calls) == sorted(
        f"model.layers.{i}.{name}"
        for i in (0, 1)
        for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    )


def test_attention_that_projects_something_else_is_right_all_the_same():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, nn.Linear(64, 32))

        def forward(self, hidden_states, other):
            return self.q_proj(hidden_states) + self.k_proj(other) * self.v_proj(other)

    model = machete.quantize_model(Attention().bfloat16(), group_size=32)
    x, y = torch.randn(2, 3, 64).bfloat16()
    expected = model(x, y)
    machete.fuse_model(model)
    assert hasattr(model, "qkv_proj")
    assert torch.equal(model(x, y), expected)


def test_what_is_not_alike_stays():
    model = machete.quantize_model(llama(), group_size=32, skip=["lm_head", "0.self_attn.k_proj", "0.mlp.up_proj"])
    attention = model.model.layers[1].self_attn
    attention.v_proj = machete.Linear.from_float(nn.Linear(64, 32, bias=False).bfloat16(), group_size=16)
    mlp = model.model.layers[1].mlp
    mlp.up_proj = machete.Linear.from_float(nn.Linear(64, mlp.up_proj.out_features).bfloat16(), group_size=32)  # a bias
    expected = logits(model)
    machete.fuse_model(model)
    assert not any("qkv" in name or "gate_up" in name for name, _ in model.named_modules())
    assert torch.equal(logits(model), expected)

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.down_proj, self.act_fn = nn.Linear(64, 64), nn.SiLU()

        def forward(self, x):
            return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))

    other = machete.fuse_model(machete.quantize_model(Other().bfloat16(), group_size=32))
    assert hasattr(other, "gate_proj")


def test_act_order_is_fused_where_all_have_the_same():
    model = llama()
    attention = model.model.layers[0].self_attn
    a, b = (layouts.layer(64, 64, act_order=True, dtype=torch.bfloat16) for _ in range(2))
    for order, fused in (((a, a, a), True), ((a, a, b), False)):
        for name, x in zip(("q_proj", "k_proj", "v_proj"), order, strict=True):
            setattr(attention, name, machete.Linear.from_checkpoint(layouts.gptq(x)))
        machete.fuse_model(attention)
        assert hasattr(attention, "qkv_proj") == fused
        if fused:
            assert torch.equal(attention.qkv_proj.packed().unpack().g_idx, a.g_idx.int())
            attention.__class__ = type(attention).base
            del attention.qkv_proj


@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_saved_and_loaded_again(tmp_path, shards):
    model = machete.quantize_model(llama(attention_bias=True), group_size=32, fuse=True)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    if shards == "1GB":
        names = load_file(tmp_path / "model.safetensors").keys()
        assert "model.layers.0.mlp.gate_up_proj.packed_weight" in names
        assert "model.layers.0.self_attn.qkv_proj.bias" in names
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert is_fused(again)
    assert torch.equal(logits(again), logits(model))


def test_fused_while_loading(tmp_path):
    given = llama()
    given.save_pretrained(tmp_path / "float")
    config = machete.Config(group_size=32, fuse=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=config)
    assert is_fused(model)
    plain = machete.quantize_model(given, group_size=32)
    assert_close(logits(model), logits(plain))
    plain.save_pretrained(tmp_path / "plain")
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=machete.Config(fuse=True))
    assert is_fused(again)
    assert torch.equal(logits(again), logits(model))


def test_generates_compiles_and_is_copied():
    model = machete.quantize_model(llama(), group_size=32, fuse=True)
    expected = logits(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert other.model.layers[0].mlp is not model.model.layers[0].mlp
        assert torch.equal(logits(other), expected)
    tokens = model.generate(TOKENS, max_new_tokens=4, do_sample=False)
    assert tokens.shape == (2, 10)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(logits(compiled), expected)
