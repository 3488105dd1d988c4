"""How calibration goes through models: which are chains of blocks, and that each block is run as the model runs it."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

import machete
from machete.course import Chain, Whole, course_of, evaluating
from machete.model import layers_to_quantize

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
}
TWO_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_hidden_layers=3),
    # Masks differ from layer to layer, in Gemma 3 rotary embeddings too.
    "gemma3": Gemma3TextConfig(**SIZES, num_hidden_layers=3, layer_types=TWO_TYPES, sliding_window=4),
    "qwen3": Qwen3Config(
        **SIZES, num_hidden_layers=3, layer_types=TWO_TYPES, sliding_window=4, use_sliding_window=True
    ),
}
TOKENS = [torch.arange(12)[None], torch.tensor([[3, 90, 7, 7, 1, 0, 22, 5, 41, 2], [8, 8, 1, 2, 3, 4, 5, 6, 7, 9]])]


def tiny(kind):
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind]), dtype=torch.float32)


@pytest.mark.parametrize("kind", CONFIGS)
def test_blocks_see_what_the_model_gives_them(kind):
    model = tiny(kind).eval()
    seen = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _block, _arguments, result: seen.append(result))
    with torch.no_grad(), evaluating(model):
        for tokens in TOKENS:
            model(tokens)
        expected = [seen[i :: len(model.model.layers)] for i in range(len(model.model.layers))]
        course = course_of(model, layers_to_quantize(model, None).values(), TOKENS)
        assert isinstance(course, Chain)
        for block, outputs in zip(course.blocks, expected, strict=True):
            course.run(block)
            course.advance(block)
            assert all(torch.equal(a, b) for a, b in zip(course._hidden, outputs, strict=True))


@pytest.mark.parametrize("kind", CONFIGS)
def test_calibrating_leaves_the_model_as_it_was(kind):
    model = tiny(kind).train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    assert model.config.use_cache is True
    found = machete.calibrate(model, TOKENS, group_size=32)
    assert len(found) == 21
    assert model.config.use_cache is True
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    machete.quantize_model(model.bfloat16(), group_size=32, weights=found)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x, scale=1.0):
        return x + scale * self.linear(x)


class InPlace(Block):
    def forward(self, x, scale=1.0):
        return x.add_(self.linear(x))


class Blocks(nn.Module):
    """A model of four blocks, run as `call` says."""

    def __init__(self, call, block=Block):
        super().__init__()
        self.experts = nn.ModuleList(nn.Identity() for _ in range(9))  # longer, and none of the layers is there
        self.layers = nn.ModuleList(block() for _ in range(4))
        self.call = call

    def forward(self, x):
        return self.call(self.layers, x + 0)


def one_after_another(layers, x):
    for block in layers:
        x = block(x)
    return x


def by_keyword(layers, x):
    for i, block in enumerate(layers):
        x = block(scale=i / 4, x=x)
    return x


def with_something_between(layers, x):
    for block in layers:
        x = block(x) * 2
    return x


def twice(layers, x):
    return one_after_another(layers, one_after_another(layers, x))


def backwards(layers, x):
    return one_after_another(reversed(layers), x)


def not_all(layers, x):
    return one_after_another(list(layers)[:3], x)


@pytest.mark.parametrize(
    "call, block, kind",
    [
        (one_after_another, Block, Chain),
        (by_keyword, Block, Chain),
        (with_something_between, Block, Whole),
        (twice, Block, Whole),
        (backwards, Block, Whole),
        (not_all, Block, Whole),
        (one_after_another, InPlace, Whole),
    ],
)
def test_what_is_a_chain(call, block, kind):
    model, inputs = Blocks(call, block), [torch.randn(70, 64), torch.randn(80, 64)]
    with torch.no_grad():
        assert type(course_of(model, layers_to_quantize(model, None).values(), inputs)) is kind
    if call is not_all:
        with pytest.raises(ValueError, match="layers.3.linear: the moments are all zero"):
            machete.calibrate(model, inputs, group_size=32)
    else:
        assert len(machete.calibrate(model, inputs, group_size=32)) == 4
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_layer_that_blocks_share_is_calibrated_once():
    model = Blocks(one_after_another)
    model.layers[2].linear = model.layers[0].linear
    found = machete.calibrate(model, [torch.randn(200, 64)], group_size=32)
    assert list(found) == ["layers.0.linear", "layers.1.linear", "layers.3.linear"]
    machete.quantize_model(model.bfloat16(), group_size=32, weights=found)
    assert isinstance(model.layers[2].linear, machete.Linear)
    assert model.layers[2].linear is model.layers[0].linear


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"weight": "e4m3"}, NotImplementedError, "weight_type=e4m3 cannot be calibrated, only .*; use machete.quant"),
        ({"group_size": 24}, ValueError, "group_size=24 must be -1 or a multiple of 16"),
        ({"damping": float("nan")}, ValueError, "damping=nan must be positive"),
        ({"dtype": torch.float64}, ValueError, "layers.0.linear: dtype=torch.float64 must be"),
        ({"skip": ["linear"]}, ValueError, "no linear layer to quantise"),
        ({"inputs": []}, ValueError, "inputs has no batch; give some"),
    ],
)
def test_refused_before_the_model_runs(changes, error, message):
    model = Blocks(lambda layers, x: pytest.fail("the model ran"))
    with pytest.raises(error, match=message):
        machete.calibrate(**{"model": model, "inputs": [torch.randn(9, 64)], "group_size": 32, **changes})


def test_moments_beyond_repair_name_the_layer(monkeypatch):
    def fails(*_, **__):
        raise torch.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(torch.linalg, "cholesky", fails)
    with pytest.raises(ValueError, match="layers.0.linear: the moments with damping=0.1 .*take more damping, say 1,"):
        machete.calibrate(Blocks(one_after_another), [torch.randn(9, 64)], group_size=32)
