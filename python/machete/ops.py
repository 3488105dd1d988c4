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
from torch.autograd import forward_ad

from machete._native import DTYPES, native

_products: dict[Any, Any] = {}  # functions (x [M, K], packed, out) of the library, by How
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_traces = torch._C._is_tracing
_compiles = torch.compiler.is_compiling
_profiles = torch.autograd._profiler_enabled

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


# The types, the group size and the options, in the order of the operator's arguments; swiglu is the last.
How = tuple[str, str, int, str, bool, bool, bool]


def _product(x: Tensor, packed: Tensor, n: int, k: int, how: How) -> Tensor:
    shape = x.shape
    if not shape or shape[-1] != k:
        _check(x, packed, k, how[1])
    columns = n // 2 if how[-1] else n
    # Sizes one by one are half as dear as a tuple of them.
    out = x.new_empty(shape[0], columns) if len(shape) == 2 else x.new_empty(*shape[:-1], columns)
    _run(x, packed, out, k, how)
    return out


def _product_into(out: Tensor, x: Tensor, packed: Tensor, n: int, k: int, how: How) -> None:
    shape = x.shape
    columns = n // 2 if how[-1] else n
    if not shape or shape[-1] != k or out.shape != (*shape[:-1], columns):
        _check(x, packed, k, how[1])
        _check_out(x, out, columns)
    # Where rows of `out` are no rows of a matrix, or a kernel could not write them, they are written elsewhere first.
    if out.is_contiguous() and (not out.is_cuda or out.data_ptr() % 16 == 0):
        _run(x, packed, out.detach() if out.requires_grad else out, k, how)
    else:
        _check_out(x, out, columns)
        out.detach().copy_(_product(x, packed, n, k, how))


def _run(x: Tensor, packed: Tensor, out: Tensor, k: int, how: How) -> None:
    """The library's call. It checks what `_check` does, but K where the weight lies on a GPU: callers have."""
    run = _products.get(how) or _products.setdefault(how, native.linear_of(*how))
    try:
        if not run(x, packed, out):  # the kernels cannot read its rows as they lie
            run(x.clone(memory_format=torch.contiguous_format), packed, out)
        return
    except ValueError as error:
        refusal = error
    _check(x, packed, k, how[1])  # in torch's words
    _check_out(x, out, out.shape[-1])
    raise refusal


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
    return _product(x, packed, n, k, (weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu))


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
    _product_into(
        out, x, packed, n, k, (weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu)
    )


def linear(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    weight_type: str,
    scale_type: str,
    group_size: int,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """torch.ops.machete.linear, past the dispatcher where nobody would see the difference but by the time it takes."""
    if _is_unwatched(x, packed):
        how = (weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu)
        if out is None:
            return _product(x, packed, n, k, how)
        if type(out) is Tensor:
            _product_into(out, x, packed, n, k, how)
            return out
    arguments = (x, packed, n, k, weight_type, scale_type, group_size)
    options = {"schedule": schedule, "overlap": overlap, "batch_invariant": batch_invariant, "swiglu": swiglu}
    if out is None:
        return torch.ops.machete.linear.default(*arguments, **options)
    torch.ops.machete.linear.out(*arguments, **options, out=out)
    return out


def _is_unwatched(x: Tensor, packed: Tensor) -> bool:
    """Whether neither gradients nor tracing, modes, transforms or a profiler have to know of what happens to x."""
    return (
        not _compiles()
        and type(x) is Tensor
        and type(packed) is Tensor
        and not x.is_meta
        and not (x.requires_grad and torch.is_grad_enabled())
        and _dispatch_modes() == 0
        and _function_modes() == 0
        and _transforms() is None
        and not _traces()
        and forward_ad._current_level < 0
        and not _profiles()
    )


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

# What register_autograd would register, but for calls that need nothing of it: they are computed at once.
_with_gradient = make_autograd_impl(torch.ops.machete.linear.default, Info(_linear_backward, _linear_context))


def _linear_autograd(keyset: Any, x: Tensor, packed: Tensor, *arguments: Any, **options: Any) -> Tensor:
    if _is_unwatched(x, packed):
        return _linear(x, packed, *arguments, **options)
    return _with_gradient(keyset, x, packed, *arguments, **options)


_library.impl("linear", _linear_autograd, "Autograd", with_keyset=True)
