"""The product itself: the library's function, and the way to it past torch's dispatcher."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from machete._native import DTYPES, native

# Sizes n and k, weight type, scale type, group size, schedule, overlap, batch_invariant, swiglu.
How = tuple[int, int, str, str, int, str, bool, bool, bool]

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_traces = torch._C._is_tracing
_compiles = torch.compiler.is_dynamo_compiling

# torch.empty_strided of code that torch compiles: half as dear, on the CPU or the current GPU.
_compiled: Any = torch._C._dynamo.guards
_empty_cpu, _empty_cuda = _compiled._empty_strided_cpu, _compiled._empty_strided_cuda


def is_unwatched(x: Tensor, packed: Tensor) -> bool:
    """Whether neither gradients nor tracing, modes or a profiler have to know of what happens to x.

    That it is a stand-in, too, only the library has to know: it refuses those, and `Product` looks then.
    """
    return (
        not _compiles()
        and type(x) is Tensor
        and type(packed) is Tensor
        and not (x.requires_grad and torch.is_grad_enabled())
        and not _dispatch_modes()
        and not _function_modes()
        and not _traces()
        and forward_ad._current_level < 0
        and not profiler._is_profiler_enabled
    )


def is_stand_in(x: Tensor) -> bool:
    """Whether x may have no data of its own: on the device meta, or wrapped by a transform."""
    return x.is_meta or _transforms() is not None


class Product:
    """The products with weights of one kind under one set of options. `product_of` has them."""

    def __init__(self, how: How) -> None:
        n, _, _, scale_type, *_, swiglu = how
        self._how = how
        self._run = native.linear_of(*how)
        self._columns = n // 2 if swiglu else n
        self._strides = (self._columns, 1)
        self._dtype = DTYPES[scale_type]
        self._may_be_negative = self._dtype == torch.float16  # lazily, as the imaginary part of a conjugate is

    def __reduce__(self) -> tuple[Any, How]:
        return product_of, self._how

    def of(self, x: Tensor, packed: Tensor) -> Tensor:
        """x [..., K] times the weight, transposed: [..., N], with swiglu [..., N / 2]."""
        if self._may_be_negative and x.is_neg():
            x = x.resolve_neg()
        columns = self._columns
        empty = _empty_cuda if x.is_cuda else _empty_cpu
        shape = x.shape
        if len(shape) == 2:
            out = empty((shape[0], columns), self._strides, self._dtype)
        elif len(shape) == 3:
            out = empty((shape[0], shape[1], columns), (shape[1] * columns or columns, columns, 1), self._dtype)
        else:
            out = x.new_empty(*shape[:-1], columns)
        try:
            if self._run(x, packed, out):
                return out
        except (RuntimeError, ValueError):
            pass
        return self._otherwise(x, packed, None)

    def into(self, x: Tensor, packed: Tensor, out: Tensor) -> Tensor:
        """The same, written there."""
        if self._may_be_negative and x.is_neg():
            x = x.resolve_neg()
        try:
            if self._run(x, packed, out):
                return out
        except (RuntimeError, ValueError):
            pass
        return self._otherwise(x, packed, out)

    def _otherwise(self, x: Tensor, packed: Tensor, out: Tensor | None) -> Tensor:
        """What the library did not do as things lay: it is refused in torch's words, or done by copying."""
        if is_stand_in(x):
            return dispatch(x, packed, self._how, out)
        _, k, _, scale_type, *_ = self._how
        check(x, packed, k, scale_type)
        if out is not None:
            check_out(x, out, self._columns)
        # Where rows of `out` are no rows of a matrix, or no kernel could write them, they are written elsewhere first.
        if out is not None and out.is_contiguous() and (not out.is_cuda or out.data_ptr() % 16 == 0):
            result = out
        else:
            result = x.new_empty((*x.shape[:-1], self._columns))
        if not self._run(x, packed, result):  # the kernels cannot read its rows as they lie
            self._run(x.clone(memory_format=torch.contiguous_format), packed, result)
        return result if out is None or out is result else out.detach().copy_(result)


@functools.cache
def product_of(*how: Any) -> Product:
    return Product(how)


def dispatch(x: Tensor, packed: Tensor, how: How, out: Tensor | None = None) -> Tensor:
    """The same through torch's dispatcher: torch.ops.machete.linear."""
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
