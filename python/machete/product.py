"""The product itself: the library's function, and the way to it past torch's dispatcher."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from machete._native import CODE_DTYPES, CODES, DTYPES, OUTPUTS, call_of, native
from machete.tokens import check_rows
from machete.watch import dispatch_modes, function_modes, is_unwatched, is_unwatched_bias, traces

# Sizes n and k, weight type, scale type, group size, schedule, overlap, batch_invariant, swiglu, what activations are
# quantised to or "", fast_accumulation, type of the output or "" for that of the scales.
How = tuple[int, int, str, str, int, str, bool, bool, bool, str, bool, str]
_OPTIONS = ("schedule", "overlap", "batch_invariant", "swiglu", "activations", "fast_accumulation", "out_type")

_compiled: Any = torch._C._dynamo.guards

# What native/call.cpp asks of torch; torch.empty_strided is that of code which torch compiles, half as dear.
_asked = (
    Tensor,
    torch.nn.Parameter,
    torch.is_grad_enabled,
    dispatch_modes,
    function_modes,
    traces,
    forward_ad,
    profiler,
    _compiled._empty_strided_cpu,
    _compiled._empty_strided_cuda,
    getattr(Tensor, "__dlpack_c_exchange_api__"),  # noqa: B009  # torch's own annotations lack it
)


class Beside(NamedTuple):
    """What a product may be given beside x and the weight."""

    out: Tensor | None = None
    output_scale: Tensor | None = None  # of outputs of 8 bits
    bias: Tensor | None = None  # [N], of the weight's dtype


class Product:
    """The products with weights of one kind under one set of options. `product_of` has them.

    `call(x, packed[, out[, bias]])` is the short way, of native/call.cpp: the product, or None where something watches
    or the library does not do it as things lie.
    """

    def __init__(self, how: How) -> None:
        n, _, _, scale_type, *_, swiglu, _, _, out_type = how
        self._how = how
        self._dtype = output_dtype(scale_type, out_type)
        self._columns = columns_of(n, swiglu)
        self._plans = native.plans_of(*how)
        self.call = call_of(self._plans, self._dtype, _asked)

    def __reduce__(self) -> tuple[Any, How]:
        return product_of, self._how

    def of(self, x: Tensor, packed: Tensor, beside: Beside) -> Tensor:
        """x [..., K] times the weight, transposed: [..., N], with swiglu [..., N / 2]; whoever watches."""
        result = None
        if beside.output_scale is None:
            result = self.call(x, packed, beside.out, beside.bias)
        return self.carefully(x, packed, beside) if result is None else result

    def carefully(self, x: Tensor, packed: Tensor, beside: Beside) -> Tensor:
        """What the library does not do as things lie is refused in torch's words, or done by copying."""
        _, k, _, scale_type, *_ = self._how
        check(x, packed, k, scale_type)
        return self._written(x, packed, None, beside)

    def of_codes(self, codes: Tensor, token_scale: Tensor, packed: Tensor, beside: Beside) -> Tensor:
        """The same of activations that are quantised already: codes [..., K] times token_scale [...]."""
        _, k, *_, activations, _, _ = self._how
        check_codes(codes, token_scale, packed, k, activations)
        return self._written(codes, packed, token_scale, beside)

    def _written(self, x: Tensor, packed: Tensor, token_scale: Tensor | None, beside: Beside) -> Tensor:
        """`out`, or a new output for the rows of x, with the product."""
        out, output_scale, bias = beside
        check_beside(x, beside, self._how)
        # Where rows of `out` are no rows of a matrix, or no kernel could write them, they are written elsewhere first.
        if out is not None and out.is_contiguous() and (not out.is_cuda or out.data_ptr() % 16 == 0):
            result = out
        else:
            result = x.new_empty((*x.shape[:-1], self._columns), dtype=self._dtype)
        if not native.linear(self._plans, x, packed, result, token_scale, output_scale, bias):
            # The kernels cannot read them as they lie.
            copies = (_copy(tensor) for tensor in (token_scale, output_scale, bias))
            native.linear(self._plans, _copy(x), packed, result, *copies)
        if out is None or out is result:
            return result
        out.detach().copy_(result)
        return out


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone(memory_format=torch.contiguous_format)


@functools.cache
def product_of(*how: Any) -> Product:
    return Product(how)


def long_way(x: Tensor, packed: Tensor, how: How, beside: Beside) -> Tensor:
    """The product where `Product.call` gives none: through torch's dispatcher if anything watches."""
    if _nobody_watches(packed, beside, x):
        return product_of(*how).carefully(x, packed, beside)
    return dispatch(x, packed, how, beside)


def way_of_codes(codes: Tensor, token_scale: Tensor, packed: Tensor, how: How, beside: Beside) -> Tensor:
    """The product of activations that are quantised already."""
    if _nobody_watches(packed, beside, codes, token_scale):
        return product_of(*how).of_codes(codes, token_scale, packed, beside)
    return _dispatch_codes(codes, token_scale, packed, how, beside)


def _nobody_watches(packed: Tensor, beside: Beside, *tensors: Tensor) -> bool:
    out, output_scale, bias = beside
    given = (tensor for tensor in (*tensors, output_scale) if tensor is not None)
    return (
        all(is_unwatched(tensor, packed) for tensor in given)
        and (bias is None or is_unwatched_bias(bias))
        and (out is None or type(out) is Tensor)
    )


def dispatch(x: Tensor, packed: Tensor, how: How, beside: Beside) -> Tensor:
    kind, options = _said(how)
    out, *others = beside
    if out is None:
        return torch.ops.machete.linear.default(x, packed, *kind, *others, **options)
    torch.ops.machete.linear.out(x, packed, *kind, *others, **options, out=out)
    return out


def _dispatch_codes(codes: Tensor, token_scale: Tensor, packed: Tensor, how: How, beside: Beside) -> Tensor:
    kind, options = _said(how)
    out, *others = beside
    check_codes(codes, token_scale, packed, how[1], options.pop("activations"))
    if out is not None:
        check_out(codes, out, columns_of(how[0], options["swiglu"]), output_dtype(how[3], options["out_type"]))
    result = torch.ops.machete.linear_8bit(codes, token_scale, packed, *kind, *others, **options)
    return result if out is None else out.copy_(result)


def _said(how: How) -> tuple[Sequence[Any], dict[str, Any]]:
    """What operators are told by position, and by name."""
    return how[:5], dict(zip(_OPTIONS, how[5:], strict=True))


def columns_of(n: int, swiglu: bool) -> int:
    return n // 2 if swiglu else n


def output_dtype(scale_type: str, out_type: str) -> torch.dtype:
    if (out_type or scale_type) in OUTPUTS:
        return OUTPUTS[out_type or scale_type]
    raise ValueError(f"out_type={out_type!r} must be one of {', '.join(OUTPUTS)}")


def name_of_output(dtype: torch.dtype | None) -> str:
    for name, known in OUTPUTS.items():
        if known == dtype:
            return name
    raise ValueError(f"out_dtype={dtype} must be one of {', '.join(map(str, OUTPUTS.values()))}")


def name_of_codes(dtype: torch.dtype) -> str:
    if dtype in CODES:
        return CODES[dtype]
    raise ValueError(f"x of {dtype} must be torch.float8_e4m3fn or torch.int8; see machete.quantize_tokens")


def check(x: Tensor, packed: Tensor, k: int, scale_type: str) -> None:
    """What tracing can know; the library checks the rest."""
    check_rows(x, k)
    if x.dtype in CODES:
        raise ValueError(f"x of {x.dtype} holds codes, whose scales are missing; pass them as token_scale=")
    if x.dtype != DTYPES.get(scale_type):
        raise ValueError(
            f"x of {x.dtype} must be {DTYPES.get(scale_type, scale_type)}, the type the weight was packed for; convert "
            "it, or pack the weight for its type"
        )
    _check_device(x, packed)


def check_codes(codes: Tensor, token_scale: Tensor, packed: Tensor, k: int, activations: str) -> None:
    check_rows(codes, k)
    if CODES.get(codes.dtype) != activations:
        raise ValueError(f"x of {codes.dtype} must be {CODE_DTYPES[activations]}; see machete.quantize_tokens")
    rows = codes.shape[:-1]
    if token_scale.shape != rows or token_scale.dtype != torch.float32 or token_scale.device != codes.device:
        raise ValueError(
            f"token_scale of {token_scale.dtype} {list(token_scale.shape)} on {token_scale.device} must be "
            f"torch.float32 {list(rows)} on {codes.device}, one number a row of x; see machete.quantize_tokens"
        )
    _check_device(codes, packed)


def _check_device(x: Tensor, packed: Tensor) -> None:
    if x.device != packed.device:
        raise ValueError(f"x lies on {x.device}, the weight on {packed.device}; move one to the other")


def check_beside(x: Tensor, beside: Beside, how: How) -> None:
    n, _, _, scale_type, *_, swiglu, _, _, out_type = how
    dtype = output_dtype(scale_type, out_type)
    check_output_scale(x, beside.output_scale, dtype)
    check_bias(x, beside.bias, how)
    if beside.out is not None:
        check_out(x, beside.out, columns_of(n, swiglu), dtype)


def check_output_scale(x: Tensor, output_scale: Tensor | None, dtype: torch.dtype) -> None:
    if output_scale is None:
        return
    if dtype != torch.float8_e4m3fn:
        raise ValueError(f"output_scale with outputs of {dtype}: those of torch.float8_e4m3fn have one; leave it out")
    if output_scale.numel() != 1 or output_scale.dtype != torch.float32 or output_scale.device != x.device:
        raise ValueError(
            f"output_scale of {output_scale.dtype} {list(output_scale.shape)} on {output_scale.device} must be one "
            f"torch.float32 on {x.device}"
        )


def check_bias(x: Tensor, bias: Tensor | None, how: How) -> None:
    n, _, _, scale_type, *_ = how
    if bias is None:
        return
    if tuple(bias.shape) != (n,) or bias.dtype != DTYPES[scale_type] or bias.device != x.device:
        raise ValueError(
            f"bias of {bias.dtype} {list(bias.shape)} on {bias.device} must be {DTYPES[scale_type]} [{n}] on {x.device}"
        )


def check_out(x: Tensor, out: Tensor, columns: int, dtype: torch.dtype) -> None:
    shape = (*x.shape[:-1], columns)
    if tuple(out.shape) != shape or out.dtype != dtype or out.device != x.device:
        raise ValueError(
            f"out of {out.dtype} {list(out.shape)} on {out.device} must be {dtype} {list(shape)} on {x.device}"
        )
