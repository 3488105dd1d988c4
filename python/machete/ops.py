"""The operators torch.ops.machete.*, registered with torch.library: CPU, CUDA, fake tensors, autograd.

    linear(x [..., K], packed, n, k, weight_type, scale_type, group_size, output_scale, bias [N]) -> [..., N], with
        swiglu [..., N / 2]; with activations "e4m3" or "s8" x is quantised on the way; with out_type "f32" or "e4m3"
        the output is of that, of which "e4m3" may have an output_scale
    linear.out(..., out) -> ()
    quantize_tokens(x [..., K], dtype) -> codes [..., K], token_scale [...]
    linear_8bit(codes [..., K], token_scale [...], packed, n, k, weight_type, ..., output_scale, bias) -> as linear
    dequantize(packed, n, k, dtype) -> [N, K]

They take what the header of a packed weight says as arguments, since the header may lie on a GPU, and tracing must know
shapes without data. `machete.linear` fills them in.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._library.autograd import Info, make_autograd_impl

from machete._native import native
from machete.product import (
    Beside,
    How,
    check,
    check_beside,
    check_codes,
    columns_of,
    name_of_codes,
    output_dtype,
    product_of,
)
from machete.tokens import empty_tokens, quantize
from machete.watch import is_unwatched, is_unwatched_bias

_KIND = (
    "Tensor packed, int n, int k, str weight_type, str scale_type, int group_size, Tensor? output_scale=None, "
    "Tensor? bias=None"
)
_OPTIONS = 'str schedule="", bool overlap=False, bool batch_invariant=False, bool swiglu=False'
_LAST = 'bool fast_accumulation=False, str out_type=""'
_LINEAR = f'(Tensor x, {_KIND}, *, {_OPTIONS}, str activations="", {_LAST}'
_LINEAR_8BIT = f"(Tensor codes, Tensor token_scale, {_KIND}, *, {_OPTIONS}, {_LAST}"
_library = torch.library.Library("machete", "DEF")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(f"linear{_LINEAR}) -> Tensor", tags=_tags)
_library.define(f"linear.out{_LINEAR}, Tensor(a!) out) -> ()", tags=_tags)
_library.define("quantize_tokens(Tensor x, ScalarType dtype, *, bool overlap=False) -> (Tensor, Tensor)", tags=_tags)
_library.define(f"linear_8bit{_LINEAR_8BIT}) -> Tensor", tags=_tags)
_library.define("dequantize(Tensor packed, int n, int k, ScalarType dtype) -> Tensor", tags=_tags)


# Kernels get what the schema has in order, but defaults: n, k, weight_type, scale_type and group_size, and perhaps
# output_scale and bias, are a `kind`.
def _told(
    kind: Sequence[Any],
    *,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
    activations: str = "",
    fast_accumulation: bool = False,
    out_type: str = "",
    out: Tensor | None = None,
) -> tuple[How, Beside]:
    n, k, weight_type, scale_type, group_size, *rest = kind
    options = (schedule, overlap, batch_invariant, swiglu, activations, fast_accumulation, out_type)
    return (n, k, weight_type, scale_type, group_size, *options), Beside(out, *rest)


def _linear(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, beside = _told(kind, **options)
    return product_of(*how).of(x, packed, beside)


def _linear_out(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> None:
    _linear(x, packed, *kind, **options)


def _linear_fake(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, beside = _told(kind, **options)
    _, k, _, scale_type, *_ = how
    check(x, packed, k, scale_type)
    return _output(x, how, beside)


def _output(x: Tensor, how: How, beside: Beside) -> Tensor:
    """The one that is given, or one of the shape that x and the weight ask for; what does not fit is refused."""
    check_beside(x, beside, how)
    if beside.out is not None:
        return beside.out
    n, _, _, scale_type, *_, swiglu, _, _, out_type = how
    return x.new_empty((*x.shape[:-1], columns_of(n, swiglu)), dtype=output_dtype(scale_type, out_type))


def _linear_out_fake(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> None:
    _linear_fake(x, packed, *kind, **options)


def _linear_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    x, packed, n, k, *_, bias = inputs
    ctx.has_bias = bias is not None
    ctx.swiglu = keyword_only_inputs["swiglu"]
    ctx.save_for_backward(packed, *((x, bias) if ctx.swiglu else ()))  # the product alone needs them no more
    ctx.shape = (n, k, x.dtype)


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    if gradient.dtype == torch.float8_e4m3fn:
        raise NotImplementedError("outputs of 8 bits have no gradient; leave out out_dtype, or call torch.no_grad()")
    packed, *saved = ctx.saved_tensors
    n, k, dtype = ctx.shape
    if not ctx.needs_input_grad[0] and not ctx.swiglu:  # then the weight need not be dequantised
        return (None,) * 8 + (_by_bias(gradient, dtype) if ctx.has_bias else None,)
    weight = torch.ops.machete.dequantize(packed, n, k, gradient.dtype)  # [N, K]
    if ctx.swiglu:
        x, bias = saved
        gate, up = nn.functional.linear(
            x.to(gradient.dtype), weight, None if bias is None else bias.to(gradient.dtype)
        ).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        by_gate = gradient * up * sigmoid * (1 + gate * (1 - sigmoid))
        gradient = torch.cat((by_gate, gradient * gate * sigmoid), dim=-1)  # [..., N]
    by_x = (gradient @ weight).to(dtype) if ctx.needs_input_grad[0] else None
    return by_x, None, None, None, None, None, None, None, _by_bias(gradient, dtype) if ctx.has_bias else None


def _by_bias(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient.flatten(0, -2).sum(0).to(dtype) if gradient.dim() > 1 else gradient.to(dtype)


def _linear_8bit(codes: Tensor, token_scale: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, beside = _told(kind, activations=name_of_codes(codes.dtype), **options)
    return product_of(*how).of_codes(codes, token_scale, packed, beside)


def _linear_8bit_fake(codes: Tensor, token_scale: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, beside = _told(kind, activations=name_of_codes(codes.dtype), **options)
    _, k, *_, activations, _, _ = how
    check_codes(codes, token_scale, packed, k, activations)
    return _output(codes, how, beside)


def _linear_8bit_context(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor
) -> None:
    bias = inputs[-1]
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.swiglu = keyword_only_inputs["swiglu"]


def _linear_8bit_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    if any(ctx.needs_input_grad[:2]) or ctx.swiglu:
        _no_gradient(ctx)
    return (None,) * 9 + (None if ctx.bias_dtype is None else _by_bias(gradient, ctx.bias_dtype),)


def _quantize_tokens(x: Tensor, dtype: torch.dtype, *, overlap: bool = False) -> tuple[Tensor, Tensor]:
    return quantize(x, dtype, overlap)


def _quantize_tokens_fake(x: Tensor, dtype: torch.dtype, *, overlap: bool = False) -> tuple[Tensor, Tensor]:
    return empty_tokens(x, dtype)


def _no_gradient(ctx: Any, *_: Tensor) -> None:
    raise NotImplementedError("codes of 8 bits have no gradient; pass activations of 16 bits to machete.linear")


def _dequantize(packed: Tensor, n: int, k: int, dtype: torch.dtype) -> Tensor:
    weight = torch.from_dlpack(native.dequantize(packed.cpu()))
    if tuple(weight.shape) != (n, k):
        raise ValueError(f"packed is {list(weight.shape)}, not [{n}, {k}]; pass the sizes of its header")
    return weight.to(device=packed.device, dtype=dtype)


def _dequantize_fake(packed: Tensor, n: int, k: int, dtype: torch.dtype) -> Tensor:
    return packed.new_empty((n, k), dtype=dtype)


for _device in ("CPU", "CUDA"):
    _library.impl("linear", _linear, _device)
    _library.impl("linear.out", _linear_out, _device)
    _library.impl("quantize_tokens", _quantize_tokens, _device)
    _library.impl("linear_8bit", _linear_8bit, _device)
    _library.impl("dequantize", _dequantize, _device)
torch.library.register_fake("machete::linear", _linear_fake, lib=_library)
torch.library.register_fake("machete::linear.out", _linear_out_fake, lib=_library)
torch.library.register_fake("machete::quantize_tokens", _quantize_tokens_fake, lib=_library)
torch.library.register_fake("machete::linear_8bit", _linear_8bit_fake, lib=_library)
torch.library.register_fake("machete::dequantize", _dequantize_fake, lib=_library)

torch.library.register_autograd("machete::quantize_tokens", _no_gradient, lib=_library)
torch.library.register_autograd(
    "machete::linear_8bit", _linear_8bit_backward, setup_context=_linear_8bit_context, lib=_library
)

# What register_autograd would register, but for calls that need nothing of it: they are computed at once.
_with_gradient = make_autograd_impl(torch.ops.machete.linear.default, Info(_linear_backward, _linear_context))


def _linear_autograd(keyset: Any, x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    bias = kind[6] if len(kind) > 6 else None
    if is_unwatched(x, packed) and (bias is None or is_unwatched_bias(bias)):  # an output_scale has no gradient
        return _linear(x, packed, *kind, **options)
    return _with_gradient(keyset, x, packed, *kind, **options)


_library.impl("linear", _linear_autograd, "Autograd", with_keyset=True)
