"""Layers and models that other tools have quantised: read without loss, run, written back bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import layouts
import machete

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOKENS = torch.tensor([[1, 5, 9, 2, 40, 7]])

# name, format that has to be said, bits, symmetric, act_order; and how the tensors are made
KINDS = {
    "gptq 4": (None, 4, True, False, layouts.gptq),
    "gptq 8": (None, 8, True, False, layouts.gptq),
    "gptq 4 zeros": (None, 4, False, False, layouts.gptq),
    "gptq 8 zeros": (None, 8, False, False, layouts.gptq),
    "gptq 4 without g_idx": (None, 4, True, False, lambda x: layouts.gptq(x, with_g_idx=False)),
    "gptq 4 act-order": (None, 4, True, True, layouts.gptq),
    "gptq 8 act-order": (None, 8, False, True, layouts.gptq),
    "gptq_v2 4": ("gptq_v2", 4, False, False, lambda x: layouts.gptq(x, version=2)),
    "gptq_v2 8 act-order": ("gptq_v2", 8, False, True, lambda x: layouts.gptq(x, version=2)),
    "awq": (None, 4, False, False, layouts.awq),
    "pack-quantized 4": (None, 4, True, False, layouts.pack_quantized),
    "pack-quantized 8": (None, 8, True, False, layouts.pack_quantized),
    "pack-quantized 4 zeros": (None, 4, False, False, lambda x: layouts.pack_quantized(x, False)),
    "pack-quantized 8 zeros": (None, 8, False, False, lambda x: layouts.pack_quantized(x, False)),
    "pack-quantized 4 act-order": (None, 4, True, True, layouts.pack_quantized),
    "int-quantized": (None, 8, True, False, layouts.int_quantized),
    "float-quantized": (None, 4, True, False, layouts.float_quantized),
}
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
    "pack-quantized": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "int-quantized": {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}},
    "float-quantized": {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
}


@pytest.mark.parametrize("group_size", [32, 48, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_read_without_loss(kind, group_size):
    format, bits, symmetric, act_order, make = KINDS[kind]
    act_order = act_order and group_size > 0
    x = layouts.layer(40, 96, bits, group_size, symmetric, act_order)
    bias = torch.randn(40, dtype=torch.float16)
    quantized = machete.Linear.from_checkpoint({**make(x), "bias": bias}, format)
    assert (quantized.in_features, quantized.out_features, quantized.group_size) == (96, 40, group_size)
    assert quantized.dtype == torch.float16
    assert torch.equal(quantized.packed().dequantize().double(), x.weight)
    assert (quantized.packed().unpack().g_idx is not None) == act_order
    a = torch.randn(3, 96, dtype=torch.float16)
    expected = a.double() @ x.weight.T + bias.double()
    torch.testing.assert_close(quantized(a).double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("file", ["gptq", "awq", "compressed-tensors"])
def test_what_the_formats_own_libraries_wrote(file):
    """The weights are those that the libraries dequantise (tests/fixtures)."""
    tensors = load_file(FIXTURES / f"{file}.safetensors")
    expected = load_file(FIXTURES / f"{file}-expected.safetensors")
    for name, weight in expected.items():
        parts = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        quantized = machete.Linear.from_checkpoint(parts, dtype=torch.float16)
        assert torch.equal(quantized.packed().dequantize(), weight), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("gptq", "pack"))])
@pytest.mark.parametrize("bias", [False, True])
def test_and_written_back_bit_for_bit(kind, bias):
    format, bits, symmetric, act_order, make = KINDS[kind]
    tensors = make(layouts.layer(40, 96, bits, 32, symmetric, act_order))
    if bias:
        tensors["bias"] = torch.randn(40, dtype=torch.float16)
    quantized = machete.Linear.from_checkpoint(tensors, format)
    written = quantized.to_checkpoint(format or kind.split()[0])
    if "without" in kind:
        assert torch.equal(written.pop("g_idx"), torch.arange(96).int() // 32)
    assert written.keys() == tensors.keys()
    for name, value in tensors.items():
        assert written[name].dtype == value.dtype and torch.equal(written[name], value), name


@pytest.mark.parametrize("weight", ["u4b8", "u4", "u8b128", "u8", "s4", "s8"])
def test_our_layers_go_out_and_come_back(weight):
    given = machete.Linear.from_float(nn.Linear(96, 40).bfloat16(), weight=weight, group_size=32)
    for format in ("gptq_v2", "pack-quantized"):
        again = machete.Linear.from_checkpoint(given.to_checkpoint(format), format)
        assert torch.equal(again.packed().dequantize(), given.packed().dequantize())
        assert torch.equal(again.bias, given.bias)


def test_what_a_format_cannot_hold():
    given = machete.Linear.from_float(nn.Linear(96, 13).bfloat16(), group_size=32)
    with pytest.raises(NotImplementedError, match="gptq cannot hold N=13 and K=96, which must be multiples of 8"):
        given.to_checkpoint("gptq")
    with pytest.raises(ValueError, match='format="awq" cannot be written; use one of gptq, gptq_v2, pack-quantized'):
        given.to_checkpoint("awq")


def test_bad_tensors_are_refused():
    x = layouts.layer(40, 96)
    tensors = layouts.gptq(x)
    for changes, format, error, text in (
        ({"qzeros": None}, None, ValueError, '"layer.qzeros" is missing'),
        ({"qzeros": tensors["qzeros"][:2]}, None, ValueError, r"has shape \[2, 5\]; by the other tensors .* \[3, 5\]"),
        ({"scales": tensors["scales"] / 0}, None, ValueError, "the scale of row 0, group 0, is inf; it must be finite"),
        ({"g_idx": tensors["g_idx"] * 0}, None, NotImplementedError, "groups of different sizes, by its g_idx"),
        ({"g_idx": tensors["g_idx"] - 7}, None, NotImplementedError, "groups of different sizes, by its g_idx"),
        ({}, "awq", ValueError, "must be"),
        ({}, "pack-quantized", ValueError, "format=pack-quantized, but the tensors are gptq's"),
        ({"qweight": None, "scales": None}, None, ValueError, "make no layer of a known format"),
    ):
        given = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
        with pytest.raises(error, match=text):
            machete.Linear.from_checkpoint(given, format)
    odd = {**tensors, "scales": tensors["scales"] * 1.0009765625}
    with pytest.raises(ValueError, match="has no exact bf16 value; set round_scales"):
        machete.Linear.from_checkpoint(odd, dtype=torch.bfloat16)
    assert machete.Linear.from_checkpoint(odd, dtype=torch.bfloat16, round_scales=True).dtype == torch.bfloat16


def test_act_order_survives_everything():
    x = layouts.layer(40, 96, act_order=True)
    given = machete.Linear.from_checkpoint(layouts.gptq(x))
    a = torch.randn(5, 96, dtype=torch.float16)
    other = machete.Linear(96, 40, bias=False, group_size=32, dtype=torch.float16, device="meta")
    other.load_state_dict(given.state_dict(), assign=True)
    assert torch.equal(other(a), given(a))
    converted = given.bfloat16()
    assert torch.equal(converted.packed().unpack().g_idx, x.g_idx.int())
    assert torch.equal(converted.packed().dequantize().double(), x.weight.to(torch.bfloat16).double())


def llama(dtype, bias=False):
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=bias,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def write(folder, kind, dtype=torch.float16, shards=1, bias=False, change=None):
    """A tiny Llama as another tool would have saved it; returns the same model in float."""
    _, bits, symmetric, act_order, make = KINDS[kind]
    model = llama(dtype, bias)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            n, k = module.weight.shape
            x = layouts.layer(n, k, bits, 32, symmetric, act_order, dtype)
            module.weight.data = x.weight.to(dtype)
            del state[f"{name}.weight"]
            state |= {f"{name}.{suffix}": value for suffix, value in make(x).items()}
    if change:
        change(state)
    folder.mkdir()
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": str(dtype)[len("torch.") :]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": CONFIGS[kind.split()[0]]}))
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return model
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(state))}
    for file in set(places.values()):
        save_file({k: v for k, v in state.items() if places[k] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return model


def load(folder, **options):
    config = machete.Config(backend="machete")
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **options)


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits.float()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 5])
def test_a_model_is_loaded_saved_and_loaded_again(tmp_path, kind, shards):
    expected = write(tmp_path / "theirs", kind, shards=shards, bias="zeros" in kind)
    model, info = load(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values()), info
    for name, module in expected.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            found = model.get_submodule(name)
            assert type(found) is machete.Linear
            assert torch.equal(found.packed().dequantize(), module.weight), name
    assert type(model.lm_head) is nn.Linear
    torch.testing.assert_close(logits(model), logits(expected), rtol=0.01, atol=0.01)

    model.save_pretrained(tmp_path / "ours")
    description = json.loads((tmp_path / "ours" / "config.json").read_text())["quantization_config"]
    up = model.model.layers[0].mlp.up_proj
    assert description == {
        "quant_method": "machete",
        "weight": up.weight_type,
        "group_size": up.group_size,
        "skip": ["lm_head"],
    }
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(logits(again), logits(model))


def blocks_of_fp8(n, k):
    """Tensors of a layer as DeepSeek's checkpoints have them, and what they mean."""
    codes = torch.randint(-8, 9, (n, k)).to(torch.float8_e4m3fn)
    scales = torch.randint(1, 8, (-(-n // 128), -(-k // 128))) / 2.0**8
    weight = codes.double() * scales.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    return {"weight": codes, "weight_scale_inv": scales}, weight


@pytest.mark.parametrize(("n", "k"), [(64, 64), (200, 300), (256, 512)])
def test_blocks_of_fp8(n, k):
    tensors, weight = blocks_of_fp8(n, k)
    found = machete.Linear.from_checkpoint(tensors, dtype=torch.bfloat16, activations="e4m3")
    assert (found.weight_type, found.group_size) == ("e4m3", 128 if k > 128 else -1)
    assert torch.equal(found.packed().dequantize().double(), weight)


def test_a_model_of_fp8_quantises_its_activations_if_told(tmp_path):
    model = llama(torch.bfloat16)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            tensors, weight = blocks_of_fp8(*module.weight.shape)
            module.weight.data = weight.bfloat16()
            state |= {f"{name}.{suffix}": value for suffix, value in tensors.items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    said = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    expected = logits(model)
    for activations, loss in ((None, 0.01), ("e4m3", 0.15)):
        config = machete.Config(backend="machete", activations=activations)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
        assert loaded.model.layers[1].mlp.up_proj.activations == activations
        error = (logits(loaded) - expected).norm() / expected.norm()
        assert error < loss, activations
    assert error > 0.005
    with pytest.raises(NotImplementedError, match=r"\(fp8\): activations='s8' with e4m3 weights is not served"):
        config = machete.Config(backend="machete", activations="s8")
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)


def test_layers_of_several_kinds_and_a_bias_that_the_model_has_not(tmp_path):
    def change(state):
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            del state[f"model.layers.0.mlp.up_proj.{suffix}"]
            del state[f"model.layers.1.mlp.up_proj.{suffix}"]
        x = layouts.layer(96, 64, 8, 16, False)
        state |= {f"model.layers.0.mlp.up_proj.{suffix}": value for suffix, value in layouts.gptq(x).items()}
        state["model.layers.0.mlp.up_proj.bias"] = torch.ones(96, dtype=torch.float16)
        state["model.layers.1.mlp.up_proj.weight"] = torch.randn(96, 64, dtype=torch.float16)

    write(tmp_path / "theirs", "gptq 4", change=change)
    model = load(tmp_path / "theirs")
    up = model.model.layers[0].mlp.up_proj
    assert (up.weight_type, up.group_size) == ("u8", 16)
    assert torch.equal(up.bias, torch.ones(96, dtype=torch.float16))
    assert type(model.model.layers[1].mlp.up_proj) is nn.Linear
    model.save_pretrained(tmp_path / "ours")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert again.model.layers[0].mlp.up_proj.group_size == 16
    assert torch.equal(logits(again), logits(model))


def test_a_backbone_finds_its_layers_in_a_causal_models_checkpoint(tmp_path):
    from transformers import AutoModel

    expected = write(tmp_path / "theirs", "gptq 4")
    model = AutoModel.from_pretrained(tmp_path / "theirs", quantization_config=machete.Config(backend="machete"))
    found = model.layers[1].mlp.down_proj.packed().dequantize()
    assert torch.equal(found, expected.model.layers[1].mlp.down_proj.weight)


def test_models_that_cannot_be_loaded_name_the_layer_and_the_remedy(tmp_path):
    name = "model.layers.1.mlp.down_proj"

    def odd_groups(state):
        state |= {f"{name}.{s}": v for s, v in layouts.gptq(layouts.layer(64, 96, 4, 8)).items()}

    def inexact(state):
        state[f"{name}.scales"] = state[f"{name}.scales"] * 1.0009765625

    def infinite(state):
        state[f"{name}.scales"] = state[f"{name}.scales"] / 0

    def other_size(state):
        state |= {f"{name}.{s}": v for s, v in layouts.gptq(layouts.layer(64, 64)).items()}

    def stranger(state):
        state |= {f"other.{s}": v for s, v in layouts.gptq(layouts.layer(64, 64)).items()}

    def fp8(state):
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            del state[f"{name}.{suffix}"]
        state[f"{name}.weight"] = torch.zeros(64, 96, dtype=torch.float8_e5m2)
        state[f"{name}.weight_scale"] = torch.ones(64, 1)

    for number, (change, options, error, text) in enumerate(
        (
            (odd_groups, {}, NotImplementedError, f"{name} .gptq.: groups of 8; .*; load the checkpoint without"),
            (inexact, {"dtype": torch.bfloat16}, ValueError, f"{name}: scales.* no exact bf16 .*round_scales=True"),
            (infinite, {}, ValueError, f"{name}: .*the scale of row 0, group 0, is inf"),
            (other_size, {}, ValueError, rf"{name} .gptq. is a linear layer \[64, 64\], in the model Linear"),
            (fp8, {}, NotImplementedError, f"{name} .float-quantized.: weights of e5m2.*; load the checkpoint without"),
            (stranger, {}, ValueError, "other .gptq. is no linear layer of LlamaForCausalLM; load"),
        )
    ):
        write(tmp_path / str(number), "gptq 4", change=change)
        with pytest.raises(error, match=text):
            load(tmp_path / str(number), **options)
    config = machete.Config(backend="machete", round_scales=True)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "1", quantization_config=config, dtype=torch.bfloat16)
    assert rounded.model.layers[1].mlp.down_proj.dtype == torch.bfloat16


def test_configs_that_do_not_fit_the_checkpoint(tmp_path):
    write(tmp_path / "theirs", "gptq 4")
    with pytest.raises(ValueError, match=r"quantised already \(gptq\); pass .*Config\(backend='machete'\)"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", quantization_config=machete.Config())
    llama(torch.float16).save_pretrained(tmp_path / "float")
    with pytest.raises(ValueError, match="backend='machete' is for checkpoints that are quantised"):
        load(tmp_path / "float")
    for options, text in (
        ({"backend": "marlin"}, "backend='marlin' must be 'machete'"),
        ({"backend": "machete", "group_size": 64}, "those of the checkpoint that backend='machete' loads"),
        ({"round_scales": True}, "add backend='machete'"),
    ):
        with pytest.raises(ValueError, match=text):
            machete.Config(**options)
