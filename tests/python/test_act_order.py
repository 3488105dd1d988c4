"""Orders of K from a tensor or a file: a run follows them unseen, so a bad one must never get that far."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import machete
from machete import PackedWeight
from test_fuse import llama

K = 64
BAD = {"negative": -1, "beyond K": K, "twice": None}  # what the first entry becomes; None: the second one's value


def act_ordered(n=48):
    """A packed weight [n, K] whose groups are scattered over K."""
    weight = machete.quantize(torch.randn(n, K), group_size=16)
    g_idx = (torch.arange(K, dtype=torch.int32) // 16)[torch.randperm(K)]
    return machete.prepack(dataclasses.replace(weight, g_idx=g_idx))


def spoilt(data, value):
    """The same packed weight with another first entry in its order, which lies at the end, padded to 128 bytes."""
    data = data.clone()
    order = data[-K * 4 :].view(torch.int32)
    order[0] = order[1] if value is None else value
    return data


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_from_tensor_refuses(value):
    packed = act_ordered()
    assert torch.equal(PackedWeight.from_tensor(packed.data.clone()).data, packed.data)
    with pytest.raises(ValueError, match="order of K is damaged: entry .* each of 0 to 63 must come once; prepack"):
        PackedWeight.from_tensor(spoilt(packed.data, value))


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_what_reads_a_tensor_beside_from_tensor_refuses(value, tmp_path):
    bad = dataclasses.replace(act_ordered(), data=spoilt(act_ordered().data, value))
    for read in (bad.unpack, bad.dequantize, lambda: bad.save(tmp_path / "weight"), lambda: bad.to(dtype=torch.half)):
        with pytest.raises(ValueError, match="order of K is damaged"):
            read()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_load_state_dict_refuses(value):
    layer = machete.Linear.from_packed(act_ordered())
    state = layer.state_dict()
    empty = machete.Linear(K, 48, bias=False, group_size=16)
    empty.load_state_dict(state)
    for assign in (False, True):
        with pytest.raises(RuntimeError, match="packed_weight: the weight's order of K is damaged"):
            empty.load_state_dict({"packed_weight": spoilt(state["packed_weight"], value)}, assign=assign)
    x = torch.randn(3, K, dtype=torch.bfloat16)
    assert torch.equal(empty(x), layer(x))  # keeps the weight it had


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_from_pretrained_refuses(value, tmp_path):
    model = machete.quantize_model(llama(), group_size=16)
    name = "model.layers.1.self_attn.o_proj"
    model.set_submodule(name, machete.Linear.from_packed(act_ordered(64)))
    model.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state[f"{name}.packed_weight"] = spoilt(state[f"{name}.packed_weight"], value)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{name}.packed_weight: the weight's order of K is damaged"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
