"""Models of transformers, here a tiny Llama of random weights: quantised while loading, saved, loaded again."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import machete

TOKENS = torch.tensor([[1, 5, 9, 2, 40, 7]])


def llama(tied=False, bias=False, dtype=torch.bfloat16):
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def quantized_layers(model):
    return {name for name, module in model.named_modules() if isinstance(module, machete.Linear)}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_from_pretrained_save_and_load_again(tmp_path, tied, bias, dtype):
    given = llama(tied, bias, dtype)
    given.save_pretrained(tmp_path / "float")
    config = machete.Config(weight="u4b8", group_size=32)
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "float", quantization_config=config, dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    assert len(quantized_layers(model)) == 14
    assert type(model.lm_head) is torch.nn.Linear

    by_hand = machete.quantize_model(given, "u4b8", 32)
    assert quantized_layers(by_hand) == quantized_layers(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in by_hand.state_dict().items())

    for quantized, folder in ((model, tmp_path / "loaded"), (by_hand, tmp_path / "by hand")):
        quantized.save_pretrained(folder)
        state = load_file(folder / "model.safetensors")
        assert "model.layers.0.mlp.up_proj.packed_weight" in state
        assert "model.layers.0.mlp.up_proj.weight" not in state
        description = json.loads((folder / "config.json").read_text())["quantization_config"]
        assert description == {"quant_method": "machete", "weight": "u4b8", "group_size": 32, "skip": ["lm_head"]}
        again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert quantized_layers(again) == quantized_layers(model)
        assert torch.equal(logits(again), logits(model))
        again.save_pretrained(tmp_path / "again")
        assert load_file(tmp_path / "again" / "model.safetensors").keys() == state.keys()


def test_shards(tmp_path):
    given = llama()
    given.save_pretrained(tmp_path / "float", max_shard_size="20KB")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=machete.Config(group_size=64))
    model.save_pretrained(tmp_path / "quantized", max_shard_size="20KB")
    assert len(list((tmp_path / "quantized").glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")
    assert torch.equal(logits(again), logits(model))


def test_skip(tmp_path):
    llama().save_pretrained(tmp_path / "float")
    config = machete.Config(group_size=32, skip=["lm_head", "down_proj", "model.layers.1.*"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=config)
    expected = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj"}
    assert quantized_layers(model) == {f"model.layers.0.{name}" for name in expected | {"mlp.gate_proj"}}
    model.save_pretrained(tmp_path / "quantized")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")
    assert quantized_layers(again) == quantized_layers(model)


def test_generates(tmp_path):
    model = machete.quantize_model(llama(), group_size=32)
    first = model.generate(TOKENS, max_new_tokens=8, do_sample=False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.generate(TOKENS, max_new_tokens=8, do_sample=False), first)
    assert first.shape == (1, 14)


def test_loading_with_another_dtype(tmp_path):
    machete.quantize_model(llama(), group_size=32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dtype=torch.float32 must be torch.bfloat16 or torch.float16"):
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16)
    assert logits(model).dtype == torch.float16
    assert model.model.layers[0].mlp.up_proj.dtype == torch.float16


def test_damaged_checkpoints_are_refused(tmp_path):
    from safetensors.torch import save_file

    machete.quantize_model(llama(), group_size=32).save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.packed_weight"
    state = load_file(file)
    for damage, text in (
        (lambda data: data[:-8].clone(), "prepack it again"),
        (lambda data: torch.zeros_like(data), "not a PackedWeight"),
    ):
        save_file({**state, name: damage(state[name])}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{name}: .*{text}"):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_bad_configs_are_refused():
    for options, text in (
        ({"weight": "u3"}, "weight type 'u3' is not known"),
        ({"group_size": 33}, "group_size=33 must be"),
        ({"quant_method": "gptq"}, "quant_method=gptq must be machete"),
    ):
        with pytest.raises(ValueError, match=text):
            machete.Config(**options)


def test_importing_machete_is_enough(tmp_path):
    machete.quantize_model(llama(), group_size=32).save_pretrained(tmp_path)
    for program in (
        "import sys, machete\n"
        "assert 'transformers' not in sys.modules\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        "assert type(model.model.layers[0].mlp.up_proj) is machete.Linear\n",
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING\n"
        "import machete\n"
        "assert AUTO_QUANTIZER_MAPPING['machete'] is machete.transformers.Quantizer\n",
    ):
        subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
