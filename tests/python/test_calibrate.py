"""Calibration: what GPTQ must gain, what it must leave alone, and how a model takes what it finds."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import machete
from machete.calibrate import _CODES, _grid, _in_order
from reference import dequantize


def correlated(tokens, k):
    """Inputs [tokens, K] of a few directions and some noise, as hidden states are."""
    return torch.randn(tokens, k // 8) @ torch.randn(k // 8, k) + 0.3 * torch.randn(tokens, k)


def output_error(x, weight, quantized):
    return (x @ (weight.double() - dequantize(quantized)).T.float()).norm() / (x @ weight.T).norm()


@pytest.mark.parametrize("k, group_size", [(256, 32), (256, 64), (144, 64), (256, -1), (260, 128), (33, 16)])
@pytest.mark.parametrize("weight_type", sorted(_CODES))
def test_outputs_move_less_than_by_rounding(weight_type, k, group_size):
    weight, x = torch.randn(48, k), correlated(2048, k)
    plain = machete.quantize(weight, weight_type, group_size)
    found = machete.quantize_calibrated(weight, x.T @ x, weight_type, group_size)
    assert (found.qweight.shape, found.scales.shape) == (plain.qweight.shape, plain.scales.shape)
    assert (found.weight_type, found.k, found.group_size) == (weight_type, k, group_size)
    assert (found.zero_points is None) == (plain.zero_points is None)
    assert output_error(x, weight, found) < 0.7 * output_error(x, weight, plain)
    machete.prepack(found)  # a weight like any other


def test_independent_inputs_leave_rounding_as_it_is():
    weight = torch.randn(48, 128)
    found = machete.quantize_calibrated(weight, torch.eye(128) * 7, "u4b8", 32)
    plain = machete.quantize(weight, "u4b8", 32)
    assert (found.qweight == plain.qweight).float().mean() > 0.9  # but for scales that are searched for more finely
    assert (dequantize(found) - weight).norm() <= (dequantize(plain) - weight).norm()


def test_the_weightiest_inputs_come_first():
    found = _in_order(torch.tensor([1.0, 2, 3, 4, 0, 9, 0, 0, 4, 5]), 4)
    assert [(at, columns.tolist()) for at, columns in found] == [(1, [5, 4, 6, 7]), (2, [9, 8]), (0, [3, 2, 1, 0])]


def test_scales_are_searched_for_by_what_inputs_count_for():
    values, weights = torch.randn(64, 32), torch.ones(32)
    weights[5] = 1e6
    for weight_type, dtype in (("u4b8", torch.float16), ("u4", torch.bfloat16), ("s8", torch.float16)):
        codes = _CODES[weight_type]
        scale, zero = _grid(values, weights, weight_type, dtype)
        assert torch.equal(scale.to(dtype).float(), scale)
        q = (values / scale[:, None] + zero[:, None]).round().clamp(codes.lowest, codes.highest)
        error = (q - zero[:, None]) * scale[:, None] - values
        assert error[:, 5].norm() < 0.5 * error.norm() / 32**0.5


def test_any_factor_of_the_moments_will_do():
    weight, x = torch.randn(48, 128), correlated(512, 128)
    one, other = (machete.quantize_calibrated(weight, factor * (x.T @ x), "u4b8", 32) for factor in (1, 1 / 1024))
    assert torch.equal(one.qweight, other.qweight)


def test_inputs_that_are_always_zero():
    weight, x = torch.randn(48, 128), correlated(512, 128)
    x[:, 32:64] = 0
    found = machete.quantize_calibrated(weight, x.T @ x, "u4b8", 32)
    plain = machete.quantize(weight, "u4b8", 32)
    assert torch.equal(found.qweight[:, 16:32], plain.qweight[:, 16:32])  # a group of its own
    assert not torch.equal(found.qweight, plain.qweight)


def test_zero_weights_stay_zero():
    weight, x = torch.randn(48, 128), correlated(512, 128)
    weight[3] = 0
    assert not dequantize(machete.quantize_calibrated(weight, x.T @ x, "u4b8", 32))[3].any()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"weight_type": "e2m1"}, NotImplementedError, "weight_type=e2m1 cannot be calibrated"),
        ({"group_size": 20}, ValueError, "group_size=20 must be -1 or a multiple of 16"),
        ({"moments": torch.eye(64)}, ValueError, r"moments of \[64, 64\] must be \[K, K\] with the weight's K=128"),
        ({"moments": torch.eye(128) * float("nan")}, ValueError, "the moments hold NaN or Inf"),
        ({"moments": torch.zeros(128, 128)}, ValueError, "no inputs have reached the layer"),
        ({"damping": 0.0}, ValueError, "damping=0.0 must be positive"),
        ({"moments": torch.eye(128) - 2}, ValueError, "damping=0.1 are not positive definite; take more damping"),
        ({"weight": torch.full((48, 128), float("inf"))}, ValueError, "the weight holds NaN or Inf"),
    ],
)
def test_refusals(changes, error, message):
    arguments = {"weight": torch.randn(48, 128), "moments": torch.eye(128), **changes}
    with pytest.raises(error, match=message):
        machete.quantize_calibrated(**arguments)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64)

    def forward(self, x, scale=1.0):
        return x + scale * self.down(torch.relu(self.up(x)))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for block in self.layers:
            x = block(x, scale=0.5)
        return self.head(x)


LAYERS = [f"layers.{i}.{name}" for i in range(3) for name in ("up", "down")]


@pytest.mark.parametrize(
    "skip, names", [(["head"], LAYERS), ([], [*LAYERS, "head"]), (["layers.0.*", "head"], LAYERS[2:])]
)
def test_a_model(skip, names):
    model = Chain()
    inputs = [correlated(300, 64) for _ in range(4)]
    found = machete.calibrate(copy.deepcopy(model), inputs, "u4b8", 32, skip=skip)
    assert list(found) == names

    half = [x.to(torch.bfloat16) for x in inputs]
    exact = torch.cat([model(x) for x in inputs])
    calibrated = machete.quantize_model(copy.deepcopy(model).bfloat16(), "u4b8", 32, skip=skip, weights=found)
    plain = machete.quantize_model(copy.deepcopy(model).bfloat16(), "u4b8", 32, skip=skip)
    errors = [torch.cat([m(x) for x in half]).float().sub(exact).norm() for m in (calibrated, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert torch.equal(calibrated.get_submodule(names[0]).packed().unpack().qweight, found[names[0]].qweight)


def test_the_float_weights_become_the_quantised_values():
    model = Chain()
    found = machete.calibrate(model, [correlated(300, 64)], "u4", 32, skip=["head"], dtype=torch.float16)
    for name, weight in found.items():
        assert weight.scales.dtype == torch.float16
        torch.testing.assert_close(model.get_submodule(name).weight.double(), dequantize(weight))


def test_each_block_sees_the_blocks_before_it_quantised():
    model, x = Chain(), correlated(300, 64)
    found = machete.calibrate(model, [x], "u4b8", 32, skip=["head"])  # the model holds quantised values now
    seen = []
    model.layers[2].up.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model(x)
    fresh = Chain()
    fresh.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    original = Chain().layers[2].up.weight
    again = machete.quantize_calibrated(original, seen[0].T @ seen[0], "u4b8", 32)
    same = (again.qweight == found["layers.2.up"].qweight).float().mean()
    assert same > 0.99  # but for sums in another order


def test_no_gradients_and_no_hooks_stay():
    model = Chain()
    machete.calibrate(model, [correlated(100, 64)], skip=["head"], group_size=32)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_no_input_reaches_is_named():
    model = Chain()
    model.layers[1].spare = nn.Linear(64, 64)
    with pytest.raises(ValueError, match="layers.1.spare: the moments are all zero"):
        machete.calibrate(model, [correlated(100, 64)], group_size=32, skip=["head"])


@pytest.mark.parametrize("name, message", [("layers.9.up", "none of the layers"), ("head", "none of the layers")])
def test_weights_of_other_layers_are_refused(name, message):
    model = Chain().bfloat16()
    weights = {name: machete.quantize(torch.randn(128, 64), "u4b8", 32)}
    with pytest.raises(ValueError, match=f"weights has '{name}', which is {message}"):
        machete.quantize_model(model, "u4b8", 32, skip=["head"], weights=weights)
    assert not any(isinstance(module, machete.Linear) for module in model.modules())


def test_weights_of_other_sizes_are_refused_before_anything_changes():
    model = Chain().bfloat16()
    weights = {"layers.2.down": machete.quantize(torch.randn(128, 64), "u4b8", 32)}
    with pytest.raises(ValueError, match="layers.2.down: its weight of 128 x 64 must be 64 x 128"):
        machete.quantize_model(model, "u4b8", 32, skip=["head"], weights=weights)
    assert not any(isinstance(module, machete.Linear) for module in model.modules())


def test_weights_that_cannot_be_packed_are_refused_before_anything_changes():
    model = Chain().half()
    inputs = [correlated(100, 64)]
    found = machete.calibrate(Chain(), inputs, "u4b8", 32, skip=["head"])
    found["layers.2.up"] = dataclasses.replace(found["layers.2.up"], scales=found["layers.2.up"].scales * 1e-6)
    with pytest.raises(ValueError, match=r"layers.2.up: scales\[0, 0\]=.* has no exact f16 value; set round_scales"):
        machete.quantize_model(model, skip=["head"], weights=found)
    assert not any(isinstance(module, machete.Linear) for module in model.modules())
    machete.quantize_model(model, skip=["head"], weights=found, round_scales=True)
    assert model.layers[2].up.packed().unpack().scales.dtype == torch.float16
