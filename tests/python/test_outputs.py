"""Outputs of another type than the activations: float32, and float8_e4m3fn with a scale."""

import pytest
import torch

import machete
from machete._native import NAMES
from reference import CODES, E4M3, MEETS, WEIGHT_TYPES, check

SCALE = torch.tensor(0.03)  # outputs of about 9 fill e4m3's range; some saturate


def weights(weight_type="u4b8", n=48, k=80, group_size=16, dtype=torch.bfloat16, **options):
    quantized = machete.quantize(torch.randn(n, k), weight_type, group_size, dtype=dtype)
    return quantized, machete.prepack(quantized, **options)


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def rounded(exact, scale):
    """What the kernels make of a float32 output: torch's own conversion, which does not saturate everywhere."""
    return (exact * (1 / scale)).clamp(-448, 448).to(E4M3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_within_the_bound(weight_type, dtype):
    quantized, packed = weights(weight_type, 67, 200, 32, dtype)
    for m in (1, 2, 17):
        x = torch.randn(m, 200, dtype=dtype)
        exact = machete.linear(x, packed, out_dtype=torch.float32)
        assert exact.dtype == torch.float32
        check(exact, x, quantized)
        for scale in (None, torch.tensor(0.02), torch.tensor([-3.0]), torch.tensor([[1e-6]])):
            found = machete.linear(x, packed, out_dtype=E4M3, output_scale=scale)
            assert found.dtype == E4M3
            check(found, x, quantized, output_scale=scale)
            factor = torch.tensor(1.0) if scale is None else scale.reshape(())
            assert torch.equal(bits(found), bits(rounded(exact, factor)))
    same = machete.linear(x, packed, out_dtype=dtype)
    assert torch.equal(same, machete.linear(x, packed))


@pytest.mark.parametrize(("weight_type", "activations"), MEETS)
@pytest.mark.parametrize("swiglu", [False, True])
def test_of_activations_of_8_bits(weight_type, activations, swiglu):
    quantized, packed = weights(weight_type, 68, 96, 32, activation_bits=8, swiglu=swiglu)
    x = torch.randn(2, 5, 96, dtype=torch.bfloat16)
    codes, token_scale = machete.quantize_tokens(x, CODES[activations])
    exact = machete.linear(codes, packed, token_scale=token_scale, out_dtype=torch.float32)
    found = machete.linear(codes, packed, token_scale=token_scale, out_dtype=E4M3, output_scale=SCALE)
    assert torch.equal(bits(found), bits(rounded(exact, SCALE)))
    if not swiglu:
        check(exact, codes, quantized, token_scale)
        check(found, codes, quantized, token_scale, SCALE)
    again = machete.linear(x, packed, activations=activations, out_dtype=E4M3, output_scale=SCALE)
    assert torch.equal(bits(again), bits(found))
    out = torch.empty_like(found)
    kind = dict(out=out, out_dtype=E4M3, output_scale=SCALE)
    assert machete.linear(codes, packed, token_scale=token_scale, **kind) is out
    assert torch.equal(bits(out), bits(found))


def test_the_bound_notices_another_scale():
    quantized, packed = weights()
    x = torch.randn(4, 80, dtype=torch.bfloat16)
    found = machete.linear(x, packed, out_dtype=E4M3, output_scale=SCALE)
    check(found, x, quantized, output_scale=SCALE)
    for wrong in (SCALE * 1.125, SCALE * 0.875, -SCALE, None):
        with pytest.raises(AssertionError, match="of the bound"):
            check(found, x, quantized, output_scale=wrong)


def test_the_output_feeds_a_next_layer():
    _, first = weights(n=80)
    _, second = weights("e4m3", k=80, group_size=-1, activation_bits=8)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    scale = torch.tensor(0.15)  # none saturates
    codes = machete.linear(x, first, out_dtype=E4M3, output_scale=scale)
    found = machete.linear(codes, second, token_scale=scale.expand(3))
    expected = machete.linear(x, first).double() @ second.dequantize().double().T
    assert (found.double() - expected).norm() < 0.05 * expected.norm()


def test_special_numbers():
    quantized = machete.QuantizedWeight(torch.tensor([[9]]).byte(), torch.ones(1, 1).bfloat16(), None, "u4b8", 1, -1)
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e30, -449, 2.0**-10, 3 * 2.0**-11]).bfloat16().unsqueeze(1)
    found = machete.linear(x, machete.prepack(quantized), out_dtype=E4M3).float()
    expected = torch.tensor([448, -448, torch.nan, 448, -448, 0, 2.0**-9])
    assert torch.equal(found.nan_to_num(nan=1), expected.nan_to_num(nan=1).unsqueeze(1)) and found[2].isnan()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_shapes_strides_and_output(shape):
    _, packed = weights()
    x = torch.randn(*shape, 80, dtype=torch.bfloat16)
    for dtype, scale in ((torch.float32, None), (E4M3, None), (E4M3, SCALE)):
        options = dict(out_dtype=dtype, output_scale=scale)
        y = machete.linear(x, packed, **options)
        assert y.shape == (*shape, 48) and y.dtype == dtype and y.is_contiguous()
        wide = torch.stack((x, x), dim=-1)[..., 1]
        assert torch.equal(bits(machete.linear(wide, packed, **options)), bits(y))
        for out in (torch.empty_like(y), torch.empty(*shape, 48, 2, dtype=dtype)[..., 1]):
            assert machete.linear(x, packed, out=out, **options) is out
            assert torch.equal(bits(out), bits(y))
    spread = torch.stack((SCALE, SCALE))[1:]
    assert torch.equal(bits(machete.linear(x, packed, out_dtype=E4M3, output_scale=spread)), bits(y))


def test_bias():
    _, packed = weights()
    x, bias = torch.randn(3, 80, dtype=torch.bfloat16), torch.randn(48, dtype=torch.bfloat16)
    exact = machete.linear(x, packed, out_dtype=torch.float32)
    assert torch.equal(machete.linear(x, packed, bias, out_dtype=torch.float32), exact + bias)
    y = machete.linear(x, packed, bias, out_dtype=E4M3)
    assert torch.equal(bits(y), bits((exact + bias).clamp(-448, 448).to(E4M3)))


def arguments(packed, *shape, **options):
    x = torch.randn(*shape, 80, dtype=torch.bfloat16, **options)
    return (x, packed.data, packed.n, packed.k, packed.weight_type, NAMES[packed.dtype], packed.group_size)


# torch's check of schemas multiplies tensors of float8 by numbers, which torch cannot.
CHECKS = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(shape, requires_grad):
    _, packed = weights()
    given = arguments(packed, *shape, requires_grad=requires_grad)
    op = torch.ops.machete.linear
    torch.library.opcheck(op.default, given, {"out_type": "f32"})
    if requires_grad:
        return
    torch.library.opcheck(op.out, given, {"out_type": "f32", "out": torch.empty(*shape, 48)})
    for scale in ((), (SCALE,)):
        torch.library.opcheck(op.default, (*given, *scale), {"out_type": "e4m3"}, test_utils=CHECKS)


@pytest.mark.parametrize("activations", CODES)
def test_opcheck_of_codes(activations):
    _, packed = weights(activation_bits=8)
    x, *rest = arguments(packed, 3)
    codes = machete.quantize_tokens(x, CODES[activations])
    op = torch.ops.machete.linear_8bit.default
    torch.library.opcheck(op, (*codes, *rest, SCALE), {"out_type": "e4m3"}, test_utils=CHECKS)
    torch.library.opcheck(op, (*codes, *rest), {"out_type": "f32"}, test_utils=CHECKS)


def test_compiled():
    torch._dynamo.reset()
    _, packed = weights()
    _, narrow = weights(activation_bits=8)

    def run(x, scale):
        codes, token_scale = machete.quantize_tokens(x, torch.int8)
        return (
            machete.linear(x, packed, out_dtype=torch.float32),
            machete.linear(x, packed, out_dtype=E4M3),
            machete.linear(x, packed, out_dtype=E4M3, output_scale=scale),
            machete.linear(codes, narrow, token_scale=token_scale, out_dtype=E4M3, output_scale=scale),
        )

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17):
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            for found, expected in zip(compiled(x, SCALE), run(x, SCALE), strict=True):
                assert found.dtype == expected.dtype and torch.equal(bits(found), bits(expected))


def test_gradients():
    for swiglu in (False, True):
        _, packed = weights(swiglu=swiglu)
        given, gradients = torch.randn(2, 3, 80, dtype=torch.bfloat16), []
        for dtype in (torch.float32, None):
            x = given.clone().requires_grad_()
            y = machete.linear(x, packed, out_dtype=dtype)
            y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
            gradients.append(x.grad)
        assert gradients[0].dtype == torch.bfloat16
        assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()
        x = given.clone().requires_grad_()
        for scale in (None, SCALE):
            y = machete.linear(x, packed, out_dtype=E4M3, output_scale=scale)
            with pytest.raises(NotImplementedError, match="outputs of 8 bits have no gradient; leave out out_dtype"):
                y.float().sum().backward()
        with torch.no_grad():
            machete.linear(x, packed, out_dtype=E4M3, output_scale=SCALE)


def test_misfits_are_refused_with_value_rule_and_remedy():
    _, packed = weights()
    _, halves = weights(dtype=torch.float16, activation_bits=8)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    raw = arguments(packed, 3)
    op = torch.ops.machete.linear

    def linear(**options):
        return lambda: machete.linear(x, packed, **options)

    for call, text in (
        (linear(out_dtype=torch.float64), "out_dtype=torch.float64 must be one of torch.bfloat16, torch.float16"),
        (linear(output_scale=SCALE), "output_scale with outputs of torch.bfloat16: those of torch.float8_e4m3fn have"),
        (linear(out_dtype=torch.float32, output_scale=SCALE), "output_scale with outputs of torch.float32"),
        (linear(out_dtype=E4M3, output_scale=SCALE.double()), r"output_scale of torch.float64 \[\] on cpu must be one"),
        (linear(out_dtype=E4M3, output_scale=torch.ones(2)), r"output_scale of torch.float32 \[2\] on cpu must be one"),
        (linear(out_dtype=E4M3, output_scale=SCALE.to("meta")), "on meta must be one torch.float32 on cpu"),
        (linear(out_dtype=E4M3, out=torch.empty(3, 48)), r"out of torch.float32 .* must be torch.float8_e4m3fn \[3"),
        (linear(out=torch.empty(3, 48)), r"out of torch.float32 .* must be torch.bfloat16 \[3, 48"),
        (lambda: op(*raw, out_type="f64"), "out_type='f64' must be one of bf16, f16, f32, e4m3"),
        (lambda: op(*raw, SCALE), "output_scale with outputs of torch.bfloat16"),
        (
            lambda: machete.linear(x.half(), halves, activations="s8", out_dtype=torch.float32),
            "the weight's scales are f16, the plan's bf16; prepack with scale_type=bf16",
        ),
    ):
        with pytest.raises(ValueError, match=text):
            call()
        with pytest.raises(ValueError, match=text), torch.autograd.forward_ad.dual_level():  # the long way
            call()
