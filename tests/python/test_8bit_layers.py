"""Layers and models that quantise their activations: states, copies, fusing, checkpoints."""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import layouts
import machete
from reference import CODES, MEETS, check, dequantize
from test_fuse import is_fused, llama, logits

DEFAULT = [("u4b8", "e4m3"), ("u4b8", "s8"), ("u8b128", "s8"), ("e4m3", "e4m3")]


def layer(weight="u4b8", activations="e4m3", bias=True, dtype=torch.bfloat16):
    given = nn.Linear(80, 48, bias=bias).to(dtype)
    return machete.Linear.from_float(given, weight=weight, group_size=32, activations=activations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("weight", "activations"), MEETS)
def test_from_float(weight, activations, bias, dtype):
    quantized = layer(weight, activations, bias, dtype)
    x = torch.randn(2, 3, 80, dtype=dtype)
    codes, scale = machete.quantize_tokens(x, CODES[activations])
    product = machete.linear(codes, quantized.packed(), token_scale=scale)
    check(product, codes, quantized.packed().unpack(), scale)
    with torch.no_grad():
        added = machete.linear(codes, quantized.packed(), quantized.bias, token_scale=scale)
        assert torch.equal(quantized(x), added)
        # Of a product that is rounded before, too.
        torch.testing.assert_close(added, product + quantized.bias if bias else product, rtol=0, atol=2.0**-6)
    assert f"activations={activations}" in repr(quantized) and quantized.packed().activation_bits == 8
    assert "activations" not in repr(machete.Linear(80, 48))


def test_copies_pickles_and_dtypes(tmp_path):
    given = layer()
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    torch.save(given, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), loaded, given.to("cpu")):
        assert other.activations == "e4m3" and torch.equal(other(x), given(x))
    half = copy.deepcopy(given).half()
    assert half.activations == "e4m3" and half(x.half()).dtype == torch.float16
    assert torch.equal(half.packed().unpack().qweight, given.packed().unpack().qweight)
    assert torch.equal(half.bfloat16().packed_weight, given.packed_weight)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_through_safetensors(tmp_path, assign):
    given = layer()
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    save_file(given.state_dict(), tmp_path / "layer.safetensors")
    state = load_file(tmp_path / "layer.safetensors")
    other = machete.Linear(80, 48, group_size=32, activations="e4m3", device="meta" if assign else "cpu")
    other.load_state_dict(state, assign=assign)
    assert torch.equal(other(x), given(x))
    with pytest.raises(RuntimeError, match="the weight has activation_bits=8, the layer 16; make the layer"):
        machete.Linear(80, 48, group_size=32).load_state_dict(state)
    with pytest.raises(RuntimeError, match="the weight has activation_bits=16, the layer 8"):
        other.load_state_dict(layer(activations=None).state_dict())


def test_a_layer_takes_what_its_activations_meet():
    given, x = layer("u4b8", "s8", bias=False), torch.randn(3, 80, dtype=torch.bfloat16)
    quantized = machete.quantize(torch.randn(48, 80), "u8b128", group_size=16)
    given(x)
    given.adopt(machete.prepack(quantized, activation_bits=8))
    assert torch.equal(given(x), machete.linear(x, given.packed(), activations="s8"))
    with pytest.raises(ValueError, match="the weight has activation_bits=16, the layer 8"):
        given.adopt(machete.prepack(quantized))
    floating = machete.prepack(machete.quantize(torch.randn(48, 80), "e4m3", group_size=16), activation_bits=8)
    with pytest.raises(NotImplementedError, match="activations='s8' with e4m3 weights is not served"):
        given.adopt(floating)
    assert machete.Linear.from_packed(floating).activations == "e4m3"
    four = machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16), activation_bits=8)
    with pytest.raises(ValueError, match="u4b8 weights meet activations of s8 and e4m3; say which"):
        machete.Linear.from_packed(four)
    with pytest.raises(NotImplementedError, match="u4 weights meet no 8-bit activations; leave activations out"):
        machete.Linear.from_float(nn.Linear(80, 48).bfloat16(), weight="u4", activations="s8")
    for options, error, text in (
        ({"weight": "u4"}, NotImplementedError, "u4 weights meet no 8-bit activations"),
        (
            {"activations": "bf16"},
            NotImplementedError,
            "activations='bf16' with u4b8 weights is not served: those meet",
        ),
    ):
        with pytest.raises(error, match=text):
            machete.Linear(80, 48, **{"activations": "s8", **options})


def test_a_layer_compiles_and_gives_gradients():
    torch._dynamo.reset()
    given = layer()
    compiled = torch.compile(given, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 300):
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            assert torch.equal(compiled(x), given(x))
    x = torch.randn(3, 80, dtype=torch.bfloat16, requires_grad=True)
    given(x).sum().backward()
    expected = torch.ones(3, 48, dtype=torch.bfloat16) @ given.packed().dequantize()
    torch.testing.assert_close(x.grad, expected)
    assert given.bias.grad is not None
    program = torch.export.export(given, (x.detach(),), dynamic_shapes=({0: torch.export.Dim("m", min=2)},))
    x = torch.randn(7, 80, dtype=torch.bfloat16)
    assert torch.equal(program.module()(x), given(x))


@pytest.mark.parametrize(("weight", "activations"), DEFAULT)
def test_models(tmp_path, weight, activations):
    given = llama()
    expected = logits(given)
    given.save_pretrained(tmp_path / "float")
    by_hand = machete.quantize_model(given, weight, 32, activations=activations)
    assert all(m.activations == activations for m in by_hand.modules() if isinstance(m, machete.Linear))
    error = (logits(by_hand) - expected).norm() / expected.norm()
    assert 0 < error < (0.35 if weight == "u4b8" else 0.15)
    config = machete.Config(weight, 32, activations=activations)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=config)
    assert torch.equal(logits(model), logits(by_hand))
    for quantized, name in ((model, "loaded"), (by_hand, "by hand")):
        quantized.save_pretrained(tmp_path / name)
        description = json.loads((tmp_path / name / "config.json").read_text())["quantization_config"]
        assert description["activations"] == activations
        again, info = AutoModelForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), info
        assert torch.equal(logits(again), logits(model))
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "loaded", dtype=torch.float16)
    assert half.model.layers[0].mlp.up_proj.activations == activations


def test_fused_models(tmp_path):
    model = machete.quantize_model(llama(attention_bias=True), group_size=32, activations="s8")
    expected = logits(model)
    machete.fuse_model(model)
    assert is_fused(model)
    assert (logits(model) - expected).norm() < 0.05 * expected.norm()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert is_fused(again) and again.model.layers[0].mlp.gate_up_proj.activations == "s8"
    assert torch.equal(logits(again), logits(model))
    mixed = machete.quantize_model(llama(), group_size=32, activations="s8")
    attention = mixed.model.layers[0].self_attn
    attention.v_proj = machete.Linear.from_packed(attention.v_proj.packed(), activations="e4m3")
    assert not hasattr(machete.fuse_model(attention), "qkv_proj")


def test_calibrated_weights():
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64)).bfloat16()
    found = {"0": machete.quantize(model[0].weight, "u8b128", 32)}
    machete.quantize_model(model, group_size=32, weights=found, activations="s8")
    assert [each.weight_type for each in model] == ["u8b128", "u4b8"]
    assert torch.equal(model[0].packed().unpack().qweight, found["0"].qweight)
    assert torch.equal(model[0].packed().dequantize(), dequantize(found["0"]).bfloat16())


def test_a_model_that_cannot_be_quantised_is_left_alone():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).bfloat16()
    eight = {"1": machete.quantize(model[1].weight, "u8b128", 32)}
    for options, text in (
        ({"weight": "u8", "activations": "s8"}, "^0: u8 weights meet no 8-bit activations"),
        ({"weight": "u8b128", "activations": "e4m3"}, "^0: activations='e4m3' with u8b128 weights is not served"),
        ({"weights": eight, "activations": "e4m3"}, "^1: activations='e4m3' with u8b128 weights is not served"),
    ):
        with pytest.raises(NotImplementedError, match=text):
            machete.quantize_model(model, **options)
        assert all(type(module) is nn.Linear for module in model)
    for options, text in (
        ({"weight": "u4", "activations": "s8"}, "u4 weights meet no 8-bit activations"),
        ({"activations": "e5m2"}, "activations='e5m2' with u4b8 weights is not served"),
    ):
        with pytest.raises(NotImplementedError, match=text):
            machete.Config(**options)


@pytest.mark.parametrize("write", [layouts.gptq, layouts.pack_quantized, layouts.int_quantized])
def test_layers_of_other_tools(write):
    bits = 8 if write is layouts.int_quantized else 4
    given = layouts.layer(48, 128, bits=bits, dtype=torch.bfloat16)
    quantized = machete.Linear.from_checkpoint(write(given), activations="s8")
    x = torch.randn(5, 128, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    exact = codes.double() @ given.weight.T * scale.double().unsqueeze(-1)
    torch.testing.assert_close(quantized(x).double(), exact, rtol=2**-7, atol=2**-20 * exact.abs().max().item())
    ordered = layouts.layer(48, 128, act_order=True, dtype=torch.bfloat16)
    x = torch.randn(5, 128, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    exact = codes.double() @ ordered.weight.T * scale.double().unsqueeze(-1)
    found = machete.Linear.from_checkpoint(layouts.gptq(ordered), activations="s8")(x)
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-20 * exact.abs().max().item())


def test_a_checkpoint_of_another_tool_runs_with_activations_of_8_bits(tmp_path):
    model = machete.quantize_model(llama(), "u4b8", 32)
    state = {n: value for n, value in model.state_dict().items() if not n.endswith("packed_weight")}
    for name, module in model.named_modules():
        if isinstance(module, machete.Linear):
            state |= {f"{name}.{part}": tensor for part, tensor in module.to_checkpoint("gptq").items()}
            packed = machete.prepack(module.packed().unpack(), activation_bits=8)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, machete.Linear.from_packed(packed, activations="s8"))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    description = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    config = model.config.to_dict() | {"quantization_config": description}
    (tmp_path / "config.json").write_text(json.dumps(config))
    config = machete.Config(backend="machete", activations="s8")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "packed")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert torch.equal(logits(again), logits(model))
    config = machete.Config(backend="machete", activations="e5m2")
    with pytest.raises(NotImplementedError, match=r"layers.0.* \(gptq\): activations='e5m2' with u4b8 weights is not"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
