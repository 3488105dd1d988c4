"""machete.Linear and quantize_model: states, copies, dtypes, and what becomes of a model's layers."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import machete
from reference import check


def layer(bias=True, dtype=torch.bfloat16, group_size=32):
    return machete.Linear.from_float(nn.Linear(80, 48, bias=bias).to(dtype), group_size=group_size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_from_float(dtype, bias):
    given = nn.Linear(80, 48, bias=bias).to(dtype)
    quantized = machete.Linear.from_float(given, group_size=32)
    x = torch.randn(3, 80, dtype=dtype)
    product = machete.linear(x, quantized.packed())
    check(product, x, quantized.packed().unpack())
    exact = machete.linear(x, quantized.packed(), out_dtype=torch.float32)
    assert torch.equal(quantized(x), (exact + given.bias.float()).to(dtype) if bias else product)
    assert {name: value.dtype for name, value in quantized.state_dict().items()} == {
        "packed_weight": torch.uint8,
        **({"bias": dtype} if bias else {}),
    }


def test_a_float_layer_of_32_bits_needs_a_dtype():
    with pytest.raises(ValueError, match="dtype=torch.float32 must be torch.bfloat16 or torch.float16"):
        machete.Linear.from_float(nn.Linear(80, 48))
    assert machete.Linear.from_float(nn.Linear(80, 48), dtype=torch.float16).bias.dtype == torch.float16


def test_a_layer_without_a_weight_says_so():
    with pytest.raises(ValueError, match="not a PackedWeight; make one with"):
        machete.Linear(80, 48)(torch.randn(3, 80, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="group_size=20 must be"):
        machete.Linear(80, 48, group_size=20)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_through_safetensors(tmp_path, assign):
    given = layer()
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), **given.state_dict()}, tmp_path / "layer.safetensors")
    other = machete.Linear(80, 48, group_size=32, device="meta" if assign else "cpu")
    state = load_file(tmp_path / "layer.safetensors")
    del state["odd"]
    other.load_state_dict(state, assign=assign)
    assert torch.equal(other(x), given(x))


def test_other_weights_are_not_loaded():
    state = layer().state_dict()
    for other, text in (
        (machete.Linear(80, 48, group_size=16), "the weight has group_size=32, the layer 16; make the layer"),
        (machete.Linear(48, 80, group_size=32), "the weight has n=48, the layer 80"),
        (machete.Linear(80, 48, group_size=32, dtype=torch.float16), "the weight has dtype=torch.bfloat16"),
    ):
        before = other.packed_weight.clone()
        with pytest.raises(RuntimeError, match=text):
            other.load_state_dict(state)
        assert torch.equal(other.packed_weight, before)
    state["packed_weight"] = torch.zeros_like(state["packed_weight"])
    with pytest.raises(RuntimeError, match="not a PackedWeight"):
        machete.Linear(80, 48, group_size=32).load_state_dict(state)


def test_copies_and_pickles(tmp_path):
    given = layer()
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    torch.save(given, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), loaded, given.to("cpu")):
        assert torch.equal(other(x), given(x))


def test_dtype_follows_the_model():
    given = layer()
    x = torch.randn(3, 80, dtype=torch.float16)
    half = copy.deepcopy(given).half()
    assert half.dtype == half.bias.dtype == torch.float16
    check(machete.linear(x, half.packed()), x, given.packed().unpack())
    assert torch.equal(half.bfloat16().packed_weight, given.packed_weight)
    before = given.packed_weight
    with pytest.raises(ValueError, match="dtype=torch.float32 must be"):
        given.float()
    assert given.packed_weight is before
    assert given.bias.dtype == torch.bfloat16
    assert layer().to("meta").half().packed_weight.is_meta


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 64)
        self.first = nn.Linear(64, 80)
        self.again = self.first
        self.second = nn.Sequential(nn.SiLU(), nn.Linear(80, 64, bias=False))
        self.tied = nn.Linear(64, 20, bias=False)
        self.tied.weight = self.embedding.weight
        self.lm_head = nn.Linear(64, 20, bias=False)

    def forward(self, tokens):
        hidden = self.second(self.first(self.embedding(tokens)))
        return self.lm_head(hidden) + self.tied(hidden)


def test_quantize_model_replaces_what_it_should():
    model = Block().bfloat16()
    tokens = torch.arange(20)
    expected = model(tokens)
    assert machete.quantize_model(model, group_size=16) is model
    kinds = {name: type(module) for name, module in model.named_modules() if name}
    assert kinds["first"] is kinds["second.1"] is machete.Linear
    assert model.again is model.first
    assert kinds["tied"] is kinds["lm_head"] is nn.Linear
    assert model.tied.weight is model.embedding.weight
    error = (model(tokens) - expected).norm() / expected.norm()
    assert 0 < error < 0.15


def test_skip_takes_names_ends_and_globs():
    for skip, left in (
        (["second.1"], {"second.1"}),
        (["1", "lm_head"], {"second.1", "lm_head"}),
        (["*cond.*"], {"second.1"}),
        ([], set()),
        (["irst"], set()),
    ):
        model = machete.quantize_model(Block().bfloat16(), group_size=16, skip=skip)
        assert {n for n, m in model.named_modules() if type(m) is nn.Linear} == left | {"tied"}


def test_no_float_copy_outlives_its_quantisation():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))).bfloat16()
    weights = [weakref.ref(module.weight) for module in model]
    alive = []
    from_float = machete.Linear.from_float

    def watched(layer, **options):
        gc.collect()
        alive.append(sum(weight() is not None for weight in weights))
        return from_float(layer, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machete.Linear, "from_float", watched)
        machete.quantize_model(model, group_size=32)
    gc.collect()
    assert alive == [4, 3, 2, 1]
    assert all(weight() is None for weight in weights)


def test_a_model_that_cannot_be_quantised_is_left_alone():
    def broken(change):
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).bfloat16()
        change(model)
        return model

    for model, options, error, text in (
        (broken(lambda m: m[1].weight.data[3].fill_(torch.nan)), {}, ValueError, "^1: its weight holds NaN or Inf"),
        (broken(lambda m: m[1].float()), {}, ValueError, "^1: dtype=torch.float32 must be"),
        (broken(lambda m: m.to("meta")), {}, ValueError, "^0: its weight is on the meta device"),
        (broken(lambda m: None), {"weight": "u3"}, ValueError, "^0: weight type 'u3' is not known"),
        (broken(lambda m: None), {"group_size": 7}, ValueError, "^0: group_size=7 must be"),
        (broken(lambda m: None), {"skip": ["*"]}, ValueError, "no linear layer to quantise"),
    ):
        with pytest.raises(error, match=text):
            machete.quantize_model(model, **options)
        assert all(type(module) is nn.Linear for module in model)


def test_progress(capsys):
    machete.quantize_model(nn.Sequential(nn.Linear(64, 64)).bfloat16(), progress=True)
    assert "Quantising to u4b8: 100%" in capsys.readouterr().err
