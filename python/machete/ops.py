"""The operators torch.ops.machete.*, registered with torch.library: CPU, CUDA, fake tensors, autograd.

    linear(x [..., K], packed, n, k, weight_type, scale_type, group_size) -> [..., N], with swiglu [..., N / 2]
    linear.out(..., out) -> ()
    dequantize(packed, n, k, dtype) -> [N, K]

They take what the header of a packed weight says as arguments, since the header may lie on a GPU, and tracing must know
shapes without data. `machete.linear` fills them in.
"""

from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl

from machete._native import native
from machete.product import check, check_out, is_unwatched, product_of

_LINEAR = (
    "(Tensor x, Tensor packed, int n, int k, str weight_type, str scale_type, int group_size, *, "
    'str schedule="", bool overlap=False, bool batch_invariant=False, bool swiglu=False'
)
_library = torch.library.Library("machete", "DEF")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(f"linear{_LINEAR}) -> Tensor", tags=_tags)
_library.define(f"linear.out{_LINEAR}, Tensor(a!) out) -> ()", tags=_tags)
_library.define("dequantize(Tensor packed, int n, int k, ScalarType dtype) -> Tensor", tags=_tags)


# Kernels get what the schema has in order, but defaults: n, k, weight_type, scale_type and group_size are a `kind`.
def _linear(
    x: Tensor,
    packed: Tensor,
    *kind: Any,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
) -> Tensor:
    return product_of(*kind, schedule, overlap, batch_invariant, swiglu).of(x, packed)


def _linear_out(
    x: Tensor,
    packed: Tensor,
    *kind: Any,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
    out: Tensor,
) -> None:
    product_of(*kind, schedule, overlap, batch_invariant, swiglu).of(x, packed, out)


def _columns(n: int, swiglu: bool) -> int:
    return n // 2 if swiglu else n


def _linear_fake(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    *_: Any,
    swiglu: bool = False,
    **__: Any,
) -> Tensor:
    check(x, packed, k, scale_type)
    return x.new_empty((*x.shape[:-1], _columns(n, swiglu)))


def _linear_out_fake(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    *_: Any,
    swiglu: bool = False,
    out: Tensor,
    **__: Any,
) -> None:
    check(x, packed, k, scale_type)
    check_out(x, out, _columns(n, swiglu))


def _linear_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    x, packed, n, k, *_ = inputs
    ctx.swiglu = keyword_only_inputs["swiglu"]
    ctx.save_for_backward(packed, *((x,) if ctx.swiglu else ()))  # the product alone needs x no more
    ctx.shape = (n, k, x.dtype)


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    packed, *saved = ctx.saved_tensors
    weight = torch.ops.machete.dequantize(packed, *ctx.shape)  # [N, K]
    if ctx.swiglu:
        (x,) = saved
        gate, up = (x @ weight.T).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        by_gate = gradient * up * sigmoid * (1 + gate * (1 - sigmoid))
        gradient = torch.cat((by_gate, gradient * gate * sigmoid), dim=-1)  # [..., N]
    return gradient @ weight, None, None, None, None, None, None


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
    _library.impl("dequantize", _dequantize, _device)
torch.library.register_fake("machete::linear", _linear_fake, lib=_library)
torch.library.register_fake("machete::linear.out", _linear_out_fake, lib=_library)
torch.library.register_fake("machete::dequantize", _dequantize_fake, lib=_library)

# What register_autograd would register, but for calls that need nothing of it: they are computed at once.
_with_gradient = make_autograd_impl(torch.ops.machete.linear.default, Info(_linear_backward, _linear_context))


def _linear_autograd(keyset: Any, x: Tensor, packed: Tensor, *kind: Any, **options: Any) -> Tensor:
    if is_unwatched(x, packed):
        return _linear(x, packed, *kind, **options)
    return _with_gradient(keyset, x, packed, *kind, **options)


_library.impl("linear", _linear_autograd, "Autograd", with_keyset=True)
