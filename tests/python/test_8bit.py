"""Products of 8-bit activations: numerics under the contract, quantised on the way or before, compiled and refused."""

import copy
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import machete
from machete import PackedWeight
from machete._native import NAMES
from machete.product import product_of
from reference import CODES, MEETS, WEIGHT_TYPES, check, dequantize

DTYPES = [torch.bfloat16, torch.float16]


def weights(weight_type="u4b8", n=48, k=80, group_size=16, dtype=torch.bfloat16, **options):
    quantized = machete.quantize(torch.randn(n, k), weight_type, group_size, dtype=dtype)
    return quantized, machete.prepack(quantized, activation_bits=8, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("weight_type", "activations"), MEETS)
@pytest.mark.parametrize("group_size", [-1, 32, 128])
def test_within_the_bound(weight_type, activations, group_size, dtype):
    quantized, packed = weights(weight_type, 67, 200, group_size, dtype)
    for m in (1, 2, 17):
        x = torch.randn(m, 200, dtype=dtype) * torch.logspace(-3, 3, m).unsqueeze(-1).to(dtype)
        codes, scale = machete.quantize_tokens(x, CODES[activations])
        found = machete.linear(codes, packed, token_scale=scale)
        assert found.dtype == dtype
        check(found, codes, quantized, scale)
        assert torch.equal(machete.linear(x, packed, activations=activations), found)
        exact = x.double() @ dequantize(quantized).T
        assert (found.double() - exact).norm() < (0.04 if activations == "e4m3" else 0.02) * exact.norm()


@pytest.mark.parametrize(("weight_type", "activations"), MEETS)
def test_the_bound_notices_a_lost_scale_and_a_lost_group(weight_type, activations):
    quantized, packed = weights(weight_type, k=1024, group_size=64)
    codes, scale = machete.quantize_tokens(torch.randn(4, 1024, dtype=torch.bfloat16), CODES[activations])
    lost = codes.clone()
    lost[:, 64:128] = 0
    for given in ((codes, torch.ones(4)), (codes, scale.roll(1)), (lost, scale)):
        found = machete.linear(given[0], packed, token_scale=given[1])
        with pytest.raises(AssertionError, match="of the bound"):
            check(found, codes, quantized, scale)


@pytest.mark.parametrize("weight_type", [w_type for w_type, a_type in MEETS if a_type == "s8"])
def test_integers_are_exact(weight_type):
    quantized, _ = weights(weight_type, k=256, group_size=64)
    powers = 2.0 ** torch.randint(-3, 3, quantized.scales.shape)
    quantized = machete.QuantizedWeight(**{**vars(quantized), "scales": powers.bfloat16()})
    codes, scale = torch.randint(-127, 128, (9, 256)).to(torch.int8), 2.0 ** torch.arange(-4.0, 5.0)
    exact = codes.double() @ dequantize(quantized).T * scale.double().unsqueeze(-1)
    packed = machete.prepack(quantized, activation_bits=8)
    assert torch.equal(machete.linear(codes, packed, token_scale=scale), exact.bfloat16())


def test_the_short_way_quantises_too():
    _, packed = weights()
    x = torch.randn(2, 3, 80, dtype=torch.bfloat16)
    expected = machete.linear(x, packed, activations="s8")
    call = product_of(*packed.how(activations="s8")).call
    out = torch.empty_like(expected)
    assert torch.equal(call(x, packed.data), expected)
    assert call(x, packed.data, out) is out and torch.equal(out, expected)
    assert call(x[:0], packed.data).shape == (0, 3, 48)
    assert call(x.transpose(0, 1), packed.data) is None  # it has to be copied
    with torch.autograd.forward_ad.dual_level():
        assert call(x, packed.data) is None
    assert call(machete.quantize_tokens(x, torch.int8)[0], packed.data) is None


def test_types_that_meet_one_alone_need_not_say_it():
    for weight_type in {w_type for w_type, _ in MEETS}:
        quantized, packed = weights(weight_type)
        x = torch.randn(3, 80, dtype=torch.bfloat16)
        met = [a_type for w_type, a_type in MEETS if w_type == weight_type]
        if len(met) > 1:
            with pytest.raises(ValueError, match=f"{weight_type} weights meet activations of s8 and e4m3; say which"):
                machete.linear(x, packed)
        else:
            assert torch.equal(machete.linear(x, packed), machete.linear(x, packed, activations=met[0]))


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_packed_weights_know_what_they_are_for(weight_type, tmp_path):
    if weight_type not in {w_type for w_type, _ in MEETS}:
        with pytest.raises(NotImplementedError, match=f"{weight_type} weights meet no 8-bit activations; prepack for"):
            weights(weight_type)
        return
    quantized, packed = weights(weight_type, n=67, k=200, group_size=32)
    assert packed.activation_bits == 8 and "activation_bits=8" in repr(packed)
    assert machete.prepack(quantized).activation_bits == 16
    packed.save(tmp_path / "weight.bin")
    for other in (
        PackedWeight.from_tensor(packed.data),
        PackedWeight.load(tmp_path / "weight.bin"),
        packed.to("cpu"),
        packed.to(dtype=torch.float16),
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
    ):
        assert other.activation_bits == 8
        again = other.unpack()
        assert torch.equal(again.qweight, quantized.qweight)
        assert torch.equal(again.scales.float(), quantized.scales.float())
    assert torch.equal(packed.dequantize(), dequantize(quantized).bfloat16())


def test_shapes_and_strides_are_those_of_torch():
    quantized, packed = weights()
    w, wide = packed.dequantize(), torch.randn(6, 90, dtype=torch.bfloat16)
    given = [torch.randn(*s, 80).bfloat16() for s in ((), (1,), (3,), (2, 3), (2, 1, 3), (0,), (2, 0))]
    for x in (*given, wide[:, 3:83], wide[::2, :80], wide[:1, :80].expand(5, 80), torch.randn(80, 6).bfloat16().T):
        y = machete.linear(x, packed, activations="s8")
        assert y.shape == torch.nn.functional.linear(x, w).shape and y.dtype == x.dtype and y.is_contiguous()
        codes, scale = machete.quantize_tokens(x, torch.int8)
        check(y, codes, quantized, scale)
        odd_codes = torch.stack((codes, codes), dim=-1)[..., 1]
        odd_scale = torch.stack((scale, scale), dim=-1)[..., 1]
        assert torch.equal(machete.linear(odd_codes, packed, token_scale=odd_scale), y)


def test_bias_and_output():
    _, packed = weights()
    x, bias = torch.randn(2, 3, 80, dtype=torch.bfloat16), torch.randn(48, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    expected = machete.linear(x, packed, activations="s8")
    exact = machete.linear(x, packed, activations="s8", out_dtype=torch.float32)
    with_bias = machete.linear(x, packed, bias, activations="s8")
    assert torch.equal(with_bias, (exact + bias).bfloat16())
    assert torch.equal(machete.linear(codes, packed, bias, token_scale=scale), with_bias)
    trained = bias.clone().requires_grad_()
    machete.linear(codes, packed, trained, token_scale=scale).sum().backward()
    assert torch.equal(trained.grad, torch.full_like(bias, 6))
    strided = torch.full((48, 3, 2), torch.nan, dtype=torch.bfloat16).permute(2, 1, 0)
    for out in (torch.full((2, 3, 48), torch.nan, dtype=torch.bfloat16), strided):
        for call in (
            lambda out: machete.linear(x, packed, out=out, activations="s8"),
            lambda out: machete.linear(codes, packed, out=out, token_scale=scale),
        ):
            out.fill_(torch.nan)
            assert call(out) is out
            assert torch.equal(out, expected)
    with pytest.raises(ValueError, match=r"out of torch.int8 .* must be torch.bfloat16 \[2, 3, 48\]"):
        machete.linear(codes, packed, out=torch.empty(2, 3, 48, dtype=torch.int8), token_scale=scale)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_nan_stays_in_its_row(bad):
    _, packed = weights()
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    x[1, 7] = bad
    assert machete.linear(x, packed, activations="e4m3").isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("weight_type", "activations"), MEETS)
def test_swiglu(weight_type, activations):
    quantized, packed = weights(weight_type, n=134, k=100, group_size=32, swiglu=True)
    assert packed.swiglu and packed.to(dtype=torch.float16).swiglu
    x = torch.randn(5, 100, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, CODES[activations])
    found = machete.linear(x, packed, activations=activations)
    assert torch.equal(machete.linear(codes, packed, token_scale=scale), found)
    gate, up = (codes.double() * scale.double().unsqueeze(-1) @ dequantize(quantized).T).chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-7 * expected.abs().max().item())
    bias = torch.randn(134, dtype=torch.bfloat16, requires_grad=True)
    expected = torch.nn.functional.silu(gate + bias[:67].double()) * (up + bias[67:].double())
    y = machete.linear(x, packed, bias, activations=activations)
    torch.testing.assert_close(y.double(), expected, rtol=2**-7, atol=2**-7 * expected.abs().max().item())
    y.sum().backward()
    assert bias.grad.isfinite().all() and bias.grad.count_nonzero() > 100
    with pytest.raises(NotImplementedError, match="codes of 8 bits have no gradient"):
        machete.linear(codes, packed, bias, token_scale=scale).sum().backward()


def arguments(packed, *shape, activations="s8"):
    x = torch.randn(*shape, 80, dtype=torch.bfloat16)
    kind = (packed.n, packed.k, packed.weight_type, NAMES[packed.dtype], packed.group_size)
    return (*machete.quantize_tokens(x, CODES[activations]), packed.data, *kind)


@pytest.mark.parametrize("activations", CODES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_opcheck(activations, shape):
    _, packed = weights()
    # torch's check of schemas multiplies tensors of float8 by numbers, which torch cannot.
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    checks += ["test_schema"] if activations == "s8" else []
    given = arguments(packed, *shape, activations=activations)
    for requires_grad in (None, False, True):
        bias = None if requires_grad is None else torch.randn(48).bfloat16().requires_grad_(requires_grad)
        torch.library.opcheck(torch.ops.machete.linear_8bit.default, (*given, None, bias), test_utils=checks)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_of_activations_quantised_on_the_way(shape, requires_grad):
    _, packed = weights()
    x = torch.randn(*shape, 80, dtype=torch.bfloat16, requires_grad=requires_grad)
    given = (x, packed.data, 48, 80, "u4b8", "bf16", 16)
    torch.library.opcheck(torch.ops.machete.linear.default, given, {"activations": "e4m3"})
    if not requires_grad:
        out = torch.empty(*shape, 48, dtype=torch.bfloat16)
        torch.library.opcheck(torch.ops.machete.linear.out, given, {"activations": "e4m3", "out": out})


def test_opcheck_of_options():
    for options in ({"schedule": "cpu", "overlap": True, "fast_accumulation": True}, {"swiglu": True}):
        _, packed = weights(swiglu="swiglu" in options)
        torch.library.opcheck(torch.ops.machete.linear_8bit.default, arguments(packed, 3), options)


def test_the_operator_is_the_function():
    _, packed = weights()
    codes, scale, *rest = arguments(packed, 3)
    expected = machete.linear(codes, packed, token_scale=scale)
    assert torch.equal(torch.ops.machete.linear_8bit(codes, scale, *rest), expected)
    x = codes.bfloat16() * scale.unsqueeze(-1).bfloat16()
    found = torch.ops.machete.linear(x, *rest, activations="s8")
    assert torch.equal(found, machete.linear(x, packed, activations="s8"))
    for fast in (False, True):  # nothing that the CPU knows
        assert torch.equal(machete.linear(codes, packed, token_scale=scale, fast_accumulation=fast), expected)
    assert torch.equal(machete.linear(codes, packed, token_scale=scale, schedule="cpu", overlap=True), expected)


def test_gradients_are_those_of_activations_that_are_not_quantised():
    for swiglu in (False, True):
        _, packed = weights(swiglu=swiglu)
        sixteen = machete.prepack(packed.unpack(), swiglu=swiglu)
        given, gradients = torch.randn(2, 3, 80, dtype=torch.bfloat16), []
        for run in (
            lambda x: machete.linear(x, packed, activations="s8"),  # noqa: B023
            lambda x: machete.linear(x, sixteen),  # noqa: B023
        ):
            x, bias = given.clone().requires_grad_(), torch.ones(packed.columns).bfloat16().requires_grad_()
            y = run(x).add_(bias)
            y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
            gradients.append((x.grad, bias.grad))
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
        with torch.no_grad():
            found, expected = (machete.linear(each, packed, activations="s8") for each in (x, given))
        assert torch.equal(found, expected)
    codes, scale = machete.quantize_tokens(given, torch.int8)
    y = machete.linear(codes, packed, token_scale=scale.requires_grad_())
    with pytest.raises(NotImplementedError, match="codes of 8 bits have no gradient"):
        y.sum().backward()


def test_compiles_once_from_two_tokens_on():
    torch._dynamo.reset()
    _, packed = weights()
    counter = CompileCounter()

    def run(x):
        codes, scale = machete.quantize_tokens(x, torch.int8)
        return machete.linear(x, packed, activations="e4m3") + machete.linear(codes, packed, token_scale=scale)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 16, 17, 300):
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            assert torch.equal(compiled(x), run(x))
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for m, graphs in ((5, 1), (1, 2), (300, 2)):
        x = torch.randn(m, 80, dtype=torch.bfloat16)
        assert torch.equal(compiled(x), run(x))
        assert counter.frame_count == graphs, f"M={m}"


def test_compiled_with_inductor_gradients_and_output():
    torch._dynamo.reset()
    _, packed = weights()

    def run(x):
        return machete.linear(x * 2, packed, activations="e4m3")

    def into(x, out):
        machete.linear(x, packed, activations="e4m3", out=out)
        return out + 1

    compiled = torch.compile(run, fullgraph=True, dynamic=True)
    for m in (5, 9):
        given, gradients = torch.randn(m, 80, dtype=torch.bfloat16), []
        for each in (compiled, run):
            x = given.clone().requires_grad_()
            y = each(x)
            y.sum().backward()
            gradients.append((y.detach(), x.grad))
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    out, x = torch.zeros(4, 48, dtype=torch.bfloat16), torch.randn(4, 80, dtype=torch.bfloat16)
    result = torch.compile(into, fullgraph=True, backend="aot_eager")(x, out)
    assert torch.equal(out, machete.linear(x, packed, activations="e4m3")) and torch.equal(result, out + 1)


def test_explain_and_schedules():
    _, packed = weights()
    found = machete.explain(packed, 3, activations="e4m3", fast_accumulation=True)
    assert str(found).startswith("M=3, N=48, K=80: u4b8 in groups of 16, activations of e4m3, outputs of bf16, on cpu")
    layer = machete.Linear.from_packed(packed, activations="s8")
    assert machete.explain(layer, 3).activations == "s8"
    assert [s.name for s in machete.list_schedules(3, 48, 80, group_size=16, activations="s8")] == ["cpu"]
    with pytest.raises(NotImplementedError, match="a_type=s8 with w_type=u4 is not served"):
        machete.list_schedules(3, 48, 80, weight_type="u4", activations="s8")


def test_misfits_are_refused_with_value_rule_and_remedy():
    quantized, packed = weights()
    _, bytes_ = weights("u8b128")
    sixteen = machete.prepack(quantized)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    codes, scale = machete.quantize_tokens(x, torch.int8)
    raw = arguments(packed, 3)[2:]
    op = torch.ops.machete.linear_8bit
    for call, text in (
        (lambda: machete.linear(x, sixteen, activations="s8"), "activations='s8' with a weight packed for 16-bit ones"),
        (lambda: machete.linear(codes, sixteen, token_scale=scale), "pack it with activation_bits=8, or leave"),
        (lambda: machete.linear(codes, packed, activations="s8"), "x of torch.int8 holds codes, whose scales are"),
        (lambda: machete.linear(codes, sixteen), "x of torch.int8 holds codes"),
        (lambda: machete.linear(x, packed, token_scale=scale), "must be torch.float8_e4m3fn or torch.int8"),
        (lambda: machete.linear(codes, packed, token_scale=scale, activations="e4m3"), "must be torch.float8_e4m3fn"),
        (lambda: machete.linear(x.half(), packed, activations="s8"), "x of torch.float16 must be torch.bfloat16"),
        (lambda: machete.linear(x[:, 1:], packed, activations="s8"), "must have K=80 input features"),
        (lambda: machete.linear(codes[:, 1:], packed, token_scale=scale), "must have K=80 input features"),
        (lambda: machete.linear(codes, packed, token_scale=scale[1:]), r"torch.float32 \[2\] on cpu must be"),
        (lambda: machete.linear(codes, packed, token_scale=scale.double()), "token_scale of torch.float64"),
        (lambda: machete.linear(codes, packed, token_scale=scale.to("meta")), "on meta must be"),
        (lambda: machete.linear(codes.to("meta"), packed, token_scale=scale.to("meta")), "x lies on meta, the weight"),
        (lambda: machete.prepack(quantized, activation_bits=4), "activation_bits=4 must be 16 or 8"),
        (lambda: op(x, scale, *raw), "must be torch.float8_e4m3fn or torch.int8"),
        (lambda: op(codes, scale, sixteen.data, *raw[1:]), "the weight is packed for 16-bit activations, the"),
        (lambda: torch.ops.machete.linear(x, *raw), "the weight is packed for 8-bit activations, the plan's are bf16"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    for call, text in (
        (lambda: machete.linear(x, bytes_, activations="e4m3"), "activations='e4m3' with u8b128 weights is not served"),
        (lambda: machete.linear(x, packed, activations="e5m2"), "those meet s8 and e4m3"),
    ):
        with pytest.raises(NotImplementedError, match=text):
            call()
