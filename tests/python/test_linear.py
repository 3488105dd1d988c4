"""The linear: numerics under the contract, shapes and strides as torch has them, and what is refused."""

import pytest
import torch

import machete
from reference import WEIGHT_TYPES, check

DTYPES = [torch.bfloat16, torch.float16]


def weights(n, k, group_size=64, dtype=torch.bfloat16):
    quantized = machete.quantize(torch.randn(n, k), group_size=group_size, dtype=dtype)
    return quantized, machete.prepack(quantized)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (67, 100), (192, 576), (384, 1536)])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
def test_within_the_bound(n, k, group_size, dtype):
    quantized, packed = weights(n, k, group_size, dtype)
    for m in (1, 2, 5, 16, 130):
        x = torch.randn(m, k, dtype=dtype)
        check(machete.linear(x, packed), x, quantized)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_every_weight_type_is_within_the_bound(weight_type):
    quantized = machete.quantize(torch.randn(67, 200), weight_type, group_size=32)
    packed = machete.prepack(quantized)
    for m in (1, 17):
        x = torch.randn(m, 200, dtype=torch.bfloat16)
        check(machete.linear(x, packed), x, quantized)


def test_the_bound_notices_a_lost_group():
    quantized, packed = weights(64, 1024)
    x = torch.randn(4, 1024, dtype=torch.bfloat16)
    lost = x.clone()
    lost[:, 64:128] = 0
    with pytest.raises(AssertionError, match="of the bound"):
        check(machete.linear(lost, packed), x, quantized)


def test_unit_activations_give_the_exact_weights():
    _, packed = weights(96, 200)
    assert torch.equal(machete.linear(torch.eye(200, dtype=torch.bfloat16), packed), packed.dequantize().T)


def test_shapes_are_those_of_torch():
    quantized, packed = weights(48, 80)
    w = packed.dequantize()
    for shape in ((80,), (1, 80), (3, 80), (2, 3, 80), (2, 1, 3, 80), (0, 80), (2, 0, 80), (0, 0, 80)):
        x = torch.randn(shape, dtype=torch.bfloat16)
        y = machete.linear(x, packed)
        assert y.shape == torch.nn.functional.linear(x, w).shape
        assert y.dtype == x.dtype
        check(y, x, quantized)


def test_strides_do_not_matter():
    quantized, packed = weights(48, 80)
    wide = torch.randn(6, 90, dtype=torch.bfloat16)
    for x in (
        wide[:, 3:83],  # rows apart
        wide[::2, :80],
        torch.randn(80, 6, dtype=torch.bfloat16).T,
        torch.randn(6, 2, 80, dtype=torch.bfloat16).transpose(0, 1),
        torch.randn(1, 80, dtype=torch.bfloat16).expand(5, 80),
        torch.randn(6, 160, dtype=torch.bfloat16)[:, ::2],
        torch.randn(400, dtype=torch.bfloat16).as_strided((4, 80), (10, 1)),  # overlapping rows
        torch.randn(2, 3, 160, dtype=torch.bfloat16)[..., 80:],
    ):
        y = machete.linear(x, packed)
        assert torch.equal(y, machete.linear(x.contiguous(), packed))
        check(y, x, quantized)


def test_nothing_with_any_strides():
    _, packed = weights(48, 80)
    x, out = torch.empty(0, 160, dtype=torch.bfloat16)[:, ::2], torch.empty(0, 48, 2, dtype=torch.bfloat16)[..., 1]
    assert x.stride(1) == out.stride(1) == 2
    assert machete.linear(x, packed).shape == (0, 48)
    assert machete.linear(x, packed, out=out) is out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bias_is_added_before_the_one_rounding(dtype):
    packed = machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16, dtype=dtype))
    x, bias = torch.randn(2, 3, 80, dtype=dtype), torch.randn(48, dtype=dtype)
    expected = (machete.linear(x, packed, out_dtype=torch.float32) + bias.float()).to(dtype)
    assert torch.equal(machete.linear(x, packed, bias), expected)
    assert torch.equal(machete.linear(x[0, 0], packed, bias), expected[0, 0])
    assert not torch.equal(machete.linear(x, packed) + bias, expected)
    out = torch.empty_like(expected)
    assert machete.linear(x, packed, bias, out=out) is out and torch.equal(out, expected)
    assert torch.equal(machete.linear(x, packed, torch.stack((bias, bias), dim=-1)[..., 1]), expected)
    assert torch.equal(machete.linear(x, packed, torch.nn.Parameter(bias, requires_grad=False)), expected)
    compiled = torch.compile(lambda x, bias: machete.linear(x, packed, bias), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, bias), expected)


def test_a_bias_that_does_not_fit_is_refused():
    _, packed = weights(48, 80)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    for bias in (torch.zeros(47, dtype=torch.bfloat16), torch.zeros(1, 48, dtype=torch.bfloat16), torch.zeros(48)):
        for given in (x, x.clone().requires_grad_()):
            with pytest.raises(ValueError, match=r"bias of torch.\w+ \[.*\] on cpu must be torch.bfloat16 \[48\]"):
                machete.linear(given, packed, bias)
    gated = machete.prepack(machete.quantize(torch.randn(96, 80), group_size=16), swiglu=True)
    with pytest.raises(ValueError, match=r"must be torch.bfloat16 \[96\]"):  # gate's and up's
        machete.linear(x, gated, torch.zeros(48, dtype=torch.bfloat16))


def test_output_may_be_given():
    _, packed = weights(48, 80)
    x = torch.randn(2, 3, 80, dtype=torch.bfloat16)
    expected = machete.linear(x, packed)
    out = torch.full((2, 3, 48), torch.nan, dtype=torch.bfloat16)
    assert machete.linear(x, packed, out=out) is out
    assert torch.equal(out, expected)
    strided = torch.full((48, 3, 2), torch.nan, dtype=torch.bfloat16).permute(2, 1, 0)
    assert machete.linear(x, packed, out=strided) is strided
    assert torch.equal(strided, expected)
    for bad, text in (
        (torch.empty(2, 3, 47, dtype=torch.bfloat16), r"must be torch.bfloat16 \[2, 3, 48\]"),
        (torch.empty(2, 3, 48), "out of torch.float32"),
    ):
        with pytest.raises(ValueError, match=text):
            machete.linear(x, packed, out=bad)
    with pytest.raises(ValueError, match="out= does not record gradients"):
        machete.linear(x.requires_grad_(), packed, out=out)
    square = machete.prepack(machete.quantize(torch.randn(80, 80), group_size=16))
    rows = torch.randn(3, 80, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="overlap; give the output memory of its own"):
        machete.linear(rows, square, out=rows)


def test_gradients_flow_to_activations_and_bias():
    _, packed = weights(48, 80)
    w = packed.dequantize()
    given = torch.randn(2, 3, 80, dtype=torch.bfloat16)
    results = []
    for run in (lambda x, b: machete.linear(x, packed, b), lambda x, b: torch.nn.functional.linear(x, w) + b):
        x, bias = given.clone().requires_grad_(), torch.ones(48, dtype=torch.bfloat16, requires_grad=True)
        y = run(x, bias)
        y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
        results.append((x.grad, bias.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0.02, atol=0.02)
    assert torch.equal(results[0][1], results[1][1])
    assert not machete.linear(given, packed).requires_grad


def test_second_derivatives():
    _, packed = weights(16, 32)
    x = torch.randn(3, 32, dtype=torch.bfloat16, requires_grad=True)
    (first,) = torch.autograd.grad(machete.linear(x, packed).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    w = packed.dequantize().double()
    expected = (2 * w.T @ w).sum(0).expand(3, 32)
    torch.testing.assert_close(second.double(), expected, rtol=0.05, atol=1.0)


def test_nan_stays_in_its_row():
    _, packed = weights(48, 80)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    x[1, 7] = torch.nan
    y = machete.linear(x, packed)
    assert y[1].isnan().all()
    assert not y[[0, 2]].isnan().any()


def test_schedules():
    _, packed = weights(48, 80)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    names = [schedule.name for schedule in machete.list_schedules(3, 48, 80, group_size=64)]
    assert names == ["cpu"]
    assert torch.equal(machete.linear(x, packed, schedule="cpu"), machete.linear(x, packed))
    with pytest.raises(ValueError, match="schedule 'nonsense' does not exist on the CPU; there is 'cpu'"):
        machete.linear(x, packed, schedule="nonsense")


def test_explain():
    quantized, packed = weights(48, 80)
    expected = "M=3, N=48, K=80: u4b8 in groups of 64, activations of bf16, on cpu\n-> cpu  the only"
    layer = machete.Linear.from_packed(packed)
    for found in (machete.explain(packed, 3), machete.explain(layer, 3)):
        assert str(found).startswith(expected)
        assert found.chosen.name == "cpu" and (found.m, found.weight.n) == (3, 48)
    fused = machete.prepack(quantized, swiglu=True)
    assert "bf16, swiglu, on cpu" in str(machete.explain(fused, 3))
    with pytest.raises(ValueError, match="M=-1 must be at least 0"):
        machete.explain(layer, -1)
    with pytest.raises(ValueError, match="layer is a Linear; it must be a machete.Linear or PackedWeight"):
        machete.explain(torch.nn.Linear(80, 48), 3)


def test_misfits_are_refused_with_value_rule_and_remedy():
    _, packed = weights(48, 80)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    raw = (packed.data, 48, 80, "u4b8", "bf16", 64)
    op = torch.ops.machete.linear
    for call, text in (
        (lambda: machete.linear(x[:, :79], packed), r"x of \[3, 79\] must have K=80 input features"),
        (lambda: machete.linear(x.float(), packed), "x of torch.float32 must be torch.bfloat16"),
        (lambda: machete.linear(x.half(), packed), "the type the weight was packed for"),
        (lambda: machete.linear(x.int(), packed), "x of torch.int32 must be"),
        (lambda: machete.linear(x[0, 0], packed), "x has no dimension"),
        (lambda: machete.linear(x.to("meta"), packed), "x lies on meta, the weight on cpu"),
        (lambda: op(x, *raw[:5], 32), r"the plan is for u4b8 \[48, 80\] with group_size 32"),
        (lambda: op(x, *raw[:1], 49, *raw[2:]), r"the weight is u4b8 \[48, 80\]"),
        (lambda: op(x, *raw[:3], "u5", *raw[4:]), "weight type 'u5' is not known"),
        (lambda: op(x.half(), *raw[:4], "f16", 64), "the weight's scales are bf16, the plan's activations f16"),
        (lambda: op(x, packed.data[1:], *raw[1:]), "not a PackedWeight"),
        (lambda: op(x, torch.zeros(5), *raw[1:]), "must be u8"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
