"""Activations of 8 bits: codes, and a scale for each token."""

import torch
from torch import Tensor

from machete._native import CODES, MEETS, name_of, native
from machete.watch import is_unwatched


def quantize_tokens(
    x: Tensor, dtype: torch.dtype = torch.float8_e4m3fn, *, overlap: bool = False
) -> tuple[Tensor, Tensor]:
    """x [..., K], bfloat16 or float16, to codes [..., K] of `dtype` and token_scale [...], float32.

    x is about codes * token_scale, each code half a unit off at most: token_scale is max |x| / L of the token, with
    L = 448 for float8_e4m3fn and 127 for int8, and codes are the nearest to x * (L / max |x|). Of a token with an Inf
    or NaN the scale is NaN and the codes are 0. Strides are any; the CPU and CUDA give the same bits. No gradient
    flows. `overlap` is the option of the C++ function. ValueError: other dtypes, K of 0.
    """
    x = x.detach()
    if is_unwatched(x, x):
        return quantize(x, dtype, overlap)
    return torch.ops.machete.quantize_tokens(x, dtype, overlap=overlap)


def quantize(x: Tensor, dtype: torch.dtype, overlap: bool) -> tuple[Tensor, Tensor]:
    """The same, whoever watches."""
    codes, token_scale = empty_tokens(x, dtype)
    if not native.quantize_tokens(x, codes, token_scale, overlap):  # the kernel cannot read its rows as they lie
        native.quantize_tokens(x.clone(memory_format=torch.contiguous_format), codes, token_scale, overlap)
    return codes, token_scale


def empty_tokens(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What x is quantised into."""
    check_rows(x)
    name_of("x.dtype", x.dtype)
    if dtype not in CODES:
        raise ValueError(f"dtype={dtype} must be torch.float8_e4m3fn or torch.int8, the types that weights meet")
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)


def check_rows(x: Tensor, k: int | None = None) -> None:
    if x.dim() == 0:
        raise ValueError("x has no dimension, and must have at least 1, of input features; reshape it to [1]")
    if k is not None and x.shape[-1] != k:
        raise ValueError(f"x of {list(x.shape)} must have K={k} input features in its last dimension; reshape it")


def bits_of(activations: str | None) -> int:
    """What `prepack` takes as activation_bits."""
    return 16 if activations is None else 8


def activations_of(weight_type: str, activation_bits: int, given: str | None = None) -> str:
    """What x is quantised to before it meets a weight: `given`, or what there is but one of. "": it stays as it is.

    ValueError: what the weight is not packed for, or more than one type to choose from; NotImplementedError: types that
    do not meet.
    """
    if activation_bits == 16:
        if given is not None:
            raise ValueError(
                f"activations={given!r} with a weight packed for 16-bit ones; pack it with activation_bits=8, or leave "
                "activations out"
            )
        return ""
    met = [activations for weight, activations in MEETS if weight == weight_type]
    if not met:
        raise NotImplementedError(
            f"{weight_type} weights meet no 8-bit activations; leave activations out, or quantise to another type"
        )
    if given is None and len(met) > 1:
        raise ValueError(f"{weight_type} weights meet activations of {' and '.join(met)}; say which: activations=")
    if given is not None and given not in met:
        raise NotImplementedError(
            f"activations={given!r} with {weight_type} weights is not served: those meet {' and '.join(met)}; take "
            "one of these, or quantise to another type"
        )
    return met[0] if given is None else given
