"""The operators torch.ops.machete.*, registered with torch.library: CPU, CUDA, fake tensors, autograd.

    linear(x [..., K], packed, n, k, weight_type, scale_type, group_size, output_scale) -> [..., N], with swiglu
        [..., N / 2]; with activations "e4m3" or "s8" x is quantised on the way; with out_type "f32" or "e4m3" the
        output is of that, of which "e4m3" may have an output_scale
    linear.out(..., out) -> ()
    quantize_tokens(x [..., K], dtype) -> codes [..., K], token_scale [...]
    linear_8bit(codes [..., K], token_scale [...], packed, n, k, weight_type, ..., output_scale) -> as linear
    dequantize(packed, n, k, dtype) -> [N, K]

They take what the header of a packed weight says as arguments, since the header may lie on a GPU, and tracing must know
shapes without data. `machete.linear` fills them in.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl

from machete._native import native
from machete.product import (
    How,
    check,
    check_codes,
    check_out,
    check_output_scale,
    columns_of,
    name_of_codes,
    output_dtype,
    product_of,
)
from machete.tokens import empty_tokens, quantize
from machete.watch import is_unwatched

_KIND = "Tensor packed, int n, int k, str weight_type, str scale_type, int group_size, Tensor? output_scale=None"
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
# output_scale, are a `kind`.
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
) -> tuple[How, Tensor | None]:
    n, k, weight_type, scale_type, group_size, *rest = kind
    options = (schedule, overlap, batch_invariant, swiglu, activations, fast_accumulation, out_type)
    return (n, k, weight_type, scale_type, group_size, *options), rest[0] if rest else None


def _linear(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, output_scale = _told(kind, **options)
    return product_of(*how).of(x, packed, None, output_scale)


def _linear_out(x: Tensor, packed: Tensor, *kind: Any, out: Tensor, **options: Any) -> None:
    how, output_scale = _told(kind, **options)
    product_of(*how).of(x, packed, out, output_scale)


def _linear_fake(x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    (n, k, _, scale_type, *_, swiglu, _, _, out_type), output_scale = _told(kind, **options)
    dtype = output_dtype(scale_type, out_type)
    check(x, packed, k, scale_type)
    check_output_scale(x, output_scale, dtype)
    return x.new_empty((*x.shape[:-1], columns_of(n, swiglu)), dtype=dtype)


def _linear_out_fake(x: Tensor, packed: Tensor, *kind: Any, out: Tensor, **options: Any) -> None:
    (n, k, _, scale_type, *_, swiglu, _, _, out_type), output_scale = _told(kind, **options)
    dtype = output_dtype(scale_type, out_type)
    check(x, packed, k, scale_type)
    check_output_scale(x, output_scale, dtype)
    check_out(x, out, columns_of(n, swiglu), dtype)


def _linear_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    x, packed, n, k, *_ = inputs
    ctx.swiglu = keyword_only_inputs["swiglu"]
    ctx.save_for_backward(packed, *((x,) if ctx.swiglu else ()))  # the product alone needs x no more
    ctx.shape = (n, k, x.dtype)


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    if gradient.dtype == torch.float8_e4m3fn:
        raise NotImplementedError("outputs of 8 bits have no gradient; leave out out_dtype, or call torch.no_grad()")
    packed, *saved = ctx.saved_tensors
    n, k, dtype = ctx.shape
    weight = torch.ops.machete.dequantize(packed, n, k, gradient.dtype)  # [N, K]
    if ctx.swiglu:
        (x,) = saved
        gate, up = (x.to(gradient.dtype) @ weight.T).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        by_gate = gradient * up * sigmoid * (1 + gate * (1 - sigmoid))
        gradient = torch.cat((by_gate, gradient * gate * sigmoid), dim=-1)  # [..., N]
    return (gradient @ weight).to(dtype), None, None, None, None, None, None, None


def _linear_8bit(codes: Tensor, token_scale: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, output_scale = _told(kind, activations=name_of_codes(codes.dtype), **options)
    return product_of(*how).of_codes(codes, token_scale, packed, None, output_scale)


def _linear_8bit_fake(codes: Tensor, token_scale: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    how, output_scale = _told(kind, activations=name_of_codes(codes.dtype), **options)
    n, k, _, scale_type, *_, swiglu, activations, _, out_type = how
    dtype = output_dtype(scale_type, out_type)
    check_codes(codes, token_scale, packed, k, activations)
    check_output_scale(codes, output_scale, dtype)
    return codes.new_empty((*codes.shape[:-1], columns_of(n, swiglu)), dtype=dtype)


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

for _name in ("quantize_tokens", "linear_8bit"):
    torch.library.register_autograd(f"machete::{_name}", _no_gradient, lib=_library)

# What register_autograd would register, but for calls that need nothing of it: they are computed at once.
_with_gradient = make_autograd_impl(torch.ops.machete.linear.default, Info(_linear_backward, _linear_context))


def _linear_autograd(keyset: Any, x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    if is_unwatched(x, packed):  # an output_scale has no gradient
        return _linear(x, packed, *kind, **options)
    return _with_gradient(keyset, x, packed, *kind, **options)


_library.impl("linear", _linear_autograd, "Autograd", with_keyset=True)
