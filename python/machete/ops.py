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

from machete._native import DTYPES, native

_LINEAR = (
    "(Tensor x, Tensor packed, int n, int k, str weight_type, str scale_type, int group_size, *, "
    'str schedule="", bool overlap=False, bool batch_invariant=False, bool swiglu=False'
)
_library = torch.library.Library("machete", "DEF")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define(f"linear{_LINEAR}) -> Tensor", tags=_tags)
_library.define(f"linear.out{_LINEAR}, Tensor(a!) out) -> ()", tags=_tags)
_library.define("dequantize(Tensor packed, int n, int k, ScalarType dtype) -> Tensor", tags=_tags)


def _check(x: Tensor, packed: Tensor, k: int, scale_type: str) -> None:
    """What tracing can know; the library checks the rest."""
    if x.dim() == 0:
        raise ValueError("x has no dimension, and must have at least 1, of input features; reshape it to [1]")
    if x.shape[-1] != k:
        raise ValueError(f"x of {list(x.shape)} must have K={k} input features in its last dimension; reshape it")
    if x.dtype != DTYPES.get(scale_type):
        raise ValueError(
            f"x of {x.dtype} must be {DTYPES.get(scale_type, scale_type)}, the type the weight was packed for; convert "
            "it, or pack the weight for its type"
        )
    if x.device != packed.device:
        raise ValueError(f"x lies on {x.device}, the weight on {packed.device}; move one to the other")


def _rows(x: Tensor, k: int) -> Tensor:
    """x as [M, K] with rows that the kernels can read; a copy only where they cannot."""
    rows = x if x.dim() == 2 else x.reshape(-1, k)
    if rows.is_contiguous():
        pass
    elif (k > 1 and rows.stride(1) != 1) or (rows.shape[0] > 1 and rows.stride(0) < k):
        rows = rows.contiguous()
    if rows.is_cuda and rows.data_ptr() % 16 != 0:
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows


def _run(
    x: Tensor,
    packed: Tensor,
    out: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    group_size: int,
    schedule: str,
    overlap: bool,
    batch_invariant: bool,
    swiglu: bool,
) -> None:
    native.linear(
        _rows(x, k),
        packed,
        out if out.dim() == 2 else out.view(-1, _columns(n, swiglu)),
        weight_type,
        scale_type,
        group_size,
        schedule,
        overlap,
        batch_invariant,
        swiglu,
    )


def _linear(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    group_size: int,
    *,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
) -> Tensor:
    _check(x, packed, k, scale_type)
    out = x.new_empty((*x.shape[:-1], _columns(n, swiglu)))
    _run(x, packed, out, n, k, weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu)
    return out


def _linear_out(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    group_size: int,
    *,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
    out: Tensor,
) -> None:
    _check(x, packed, k, scale_type)
    _check_out(x, out, _columns(n, swiglu))
    # Where rows of `out` are no rows of a matrix, or a kernel could not write them, they are written elsewhere first.
    direct = out.is_contiguous() and (not out.is_cuda or out.data_ptr() % 16 == 0)
    target = out.detach() if direct else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    _run(x, packed, target, n, k, weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu)
    if not direct:
        out.detach().copy_(target)


def _columns(n: int, swiglu: bool) -> int:
    return n // 2 if swiglu else n


def _check_out(x: Tensor, out: Tensor, columns: int) -> None:
    shape = (*x.shape[:-1], columns)
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out of {out.dtype} {list(out.shape)} on {out.device} must be {x.dtype} {list(shape)} on {x.device}"
        )


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
    _check(x, packed, k, scale_type)
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
    _check(x, packed, k, scale_type)
    _check_out(x, out, _columns(n, swiglu))


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
torch.library.register_autograd("machete::linear", _linear_backward, setup_context=_linear_context, lib=_library)
