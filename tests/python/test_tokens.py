"""quantize_tokens: codes and scales to the bit, layouts, the operator, and what is refused."""

import pytest
import torch

import machete
import reference

DTYPES = [torch.bfloat16, torch.float16]
CODES = [torch.int8, torch.float8_e4m3fn]


def same(found, expected):
    codes, scale = found
    assert codes.dtype == expected[0].dtype and codes.shape == expected[0].shape and codes.is_contiguous()
    assert scale.dtype == torch.float32 and scale.shape == expected[1].shape and scale.is_contiguous()
    assert torch.equal(codes.view(torch.uint8), expected[0].view(torch.uint8))
    assert torch.equal(scale.view(torch.int32), expected[1].view(torch.int32)) or (
        torch.equal(scale.isnan(), expected[1].isnan()) and torch.equal(scale.nan_to_num(), expected[1].nan_to_num())
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("deviation", [1e-30, 1e-3, 1.0, 300.0])
def test_codes_and_scales_are_those_of_the_formula(codes, dtype, deviation):
    for shape in ((80,), (1, 80), (3, 5, 577), (2, 1, 3, 7), (40, 1)):
        x = (torch.randn(shape) * deviation).to(dtype)
        same(machete.quantize_tokens(x, codes), reference.quantize_tokens(x, codes))


def test_e4m3_is_the_default():
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    same(machete.quantize_tokens(x), reference.quantize_tokens(x, torch.float8_e4m3fn))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codes", CODES)
def test_tokens_of_zeros_and_of_tiny_values_have_finite_scales(codes, dtype):
    least = 2.0**-133 if dtype == torch.bfloat16 else 2.0**-24
    x = torch.randn(6, 80).mul(0).to(dtype)
    x[1], x[2, 7], x[3], x[4, 3] = least, -3 * least, -least, 2.0**-14
    found = machete.quantize_tokens(x, codes)
    same(found, reference.quantize_tokens(x, codes))
    assert (found[1] >= 2.0**-126).all() and (found[0][0].float() == 0).all()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_token_with_an_inf_or_nan_has_no_scale(codes, bad):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    x[1, 79] = bad
    found = machete.quantize_tokens(x, codes)
    same(found, reference.quantize_tokens(x, codes))
    assert found[1].isnan().tolist() == [False, True, False] and (found[0][1].float() == 0).all()


@pytest.mark.parametrize("codes", CODES)
def test_strides_do_not_matter(codes):
    wide = torch.randn(6, 90, dtype=torch.bfloat16)
    for x in (
        wide[:, 3:83],
        wide[::2, :80],
        torch.randn(80, 6, dtype=torch.bfloat16).T,
        torch.randn(6, 2, 80, dtype=torch.bfloat16).transpose(0, 1),
        torch.randn(1, 80, dtype=torch.bfloat16).expand(5, 80),
        torch.randn(6, 160, dtype=torch.bfloat16)[:, ::2],
        torch.randn(0, 80, dtype=torch.bfloat16),
        torch.randn(2, 0, 80, dtype=torch.bfloat16),
    ):
        same(machete.quantize_tokens(x, codes), reference.quantize_tokens(x.contiguous(), codes))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_opcheck(codes, shape):
    x = torch.randn(*shape, 80, dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.machete.quantize_tokens.default, (x, codes))
    torch.library.opcheck(torch.ops.machete.quantize_tokens.default, (x, codes), {"overlap": True})


def test_no_gradient_flows():
    x = torch.randn(3, 80, dtype=torch.bfloat16, requires_grad=True)
    assert not any(part.requires_grad for part in machete.quantize_tokens(x))
    _, scale = torch.ops.machete.quantize_tokens(x, torch.int8)
    with pytest.raises(NotImplementedError, match="codes of 8 bits have no gradient; pass activations of 16 bits"):
        scale.sum().backward()


def test_compiles():
    torch._dynamo.reset()
    compiled = torch.compile(machete.quantize_tokens, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 300):
            x = torch.randn(m, 80, dtype=torch.bfloat16)
            same(compiled(x, torch.int8), reference.quantize_tokens(x, torch.int8))


def test_misfits_are_refused_with_value_rule_and_remedy():
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    for call, text in (
        (lambda: machete.quantize_tokens(x.float()), "x.dtype=torch.float32 must be torch.bfloat16 or torch.float16"),
        (lambda: machete.quantize_tokens(x, torch.uint8), "dtype=torch.uint8 must be torch.float8_e4m3fn or"),
        (lambda: machete.quantize_tokens(x[0, 0]), "x has no dimension"),
        (lambda: machete.quantize_tokens(x[:, :0]), "K=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
