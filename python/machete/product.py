"""The product itself: the library's function, and the way to it past torch's dispatcher."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from machete._native import DTYPES, call_of, native

# Sizes n and k, weight type, scale type, group size, schedule, overlap, batch_invariant, swiglu.
How = tuple[int, int, str, str, int, str, bool, bool, bool]

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_traces = torch._C._is_tracing
_compiled: Any = torch._C._dynamo.guards

# What native/call.cpp asks of torch; torch.empty_strided is that of code which torch compiles, half as dear.
_asked = (
    Tensor,
    torch.is_grad_enabled,
    _dispatch_modes,
    _function_modes,
    _traces,
    forward_ad,
    profiler,
    _compiled._empty_strided_cpu,
    _compiled._empty_strided_cuda,
    getattr(Tensor, "__dlpack_c_exchange_api__"),  # noqa: B009  # torch's own annotations lack it
)


def is_unwatched(x: Tensor, packed: Tensor) -> bool:
    """Whether neither gradients nor tracing, modes, transforms or a profiler have to know of what happens to x."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and type(packed) is Tensor
        and not x.is_meta
        and not x.is_neg()
        and not (x.requires_grad and torch.is_grad_enabled())
        and not _dispatch_modes()
        and not _function_modes()
        and _transforms() is None
        and not _traces()
        and forward_ad._current_level < 0
        and not profiler._is_profiler_enabled
    )


class Product:
    """The products with weights of one kind under one set of options. `product_of` has them.

    `call(x, packed[, out])` is the short way, of native/call.cpp: the product, or None where something watches or the
    library does not do it as things lie.
    """

    def __init__(self, how: How) -> None:
        n, _, _, scale_type, *_, swiglu = how
        self._how = how
        self._plans = native.plans_of(*how)
        self._columns = n // 2 if swiglu else n
        self.call = call_of(self._plans, DTYPES[scale_type], _asked)

    def __reduce__(self) -> tuple[Any, How]:
        return product_of, self._how

    def of(self, x: Tensor, packed: Tensor, out: Tensor | None = None) -> Tensor:
        """x [..., K] times the weight, transposed: [..., N], with swiglu [..., N / 2]; whoever watches."""
        result = self.call(x, packed) if out is None else self.call(x, packed, out)
        return self.carefully(x, packed, out) if result is None else result

    def carefully(self, x: Tensor, packed: Tensor, out: Tensor | None = None) -> Tensor:
        """What the library does not do as things lie is refused in torch's words, or done by copying."""
        _, k, _, scale_type, *_ = self._how
        check(x, packed, k, scale_type)
        if out is not None:
            check_out(x, out, self._columns)
        # Where rows of `out` are no rows of a matrix, or no kernel could write them, they are written elsewhere first.
        if out is not None and out.is_contiguous() and (not out.is_cuda or out.data_ptr() % 16 == 0):
            result = out
        else:
            result = x.new_empty((*x.shape[:-1], self._columns))
        if not native.linear(self._plans, x, packed, result):  # the kernels cannot read its rows as they lie
            native.linear(self._plans, x.clone(memory_format=torch.contiguous_format), packed, result)
        if out is None or out is result:
            return result
        out.detach().copy_(result)
        return out


@functools.cache
def product_of(*how: Any) -> Product:
    return Product(how)


def long_way(x: Tensor, packed: Tensor, how: How, out: Tensor | None = None) -> Tensor:
    """The product where `Product.call` gives none: through torch's dispatcher if anything watches."""
    if is_unwatched(x, packed) and (out is None or type(out) is Tensor):
        return product_of(*how).carefully(x, packed, out)
    return dispatch(x, packed, how, out)


def dispatch(x: Tensor, packed: Tensor, how: How, out: Tensor | None) -> Tensor:
    *sizes_and_types, schedule, overlap, batch_invariant, swiglu = how
    options = {"schedule": schedule, "overlap": overlap, "batch_invariant": batch_invariant, "swiglu": swiglu}
    if out is None:
        return torch.ops.machete.linear.default(x, packed, *sizes_and_types, **options)
    torch.ops.machete.linear.out(x, packed, *sizes_and_types, **options, out=out)
    return out


def check(x: Tensor, packed: Tensor, k: int, scale_type: str) -> None:
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


def check_out(x: Tensor, out: Tensor, columns: int) -> None:
    shape = (*x.shape[:-1], columns)
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out of {out.dtype} {list(out.shape)} on {out.device} must be {x.dtype} {list(shape)} on {x.device}"
        )
