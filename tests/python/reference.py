"""The numerical contract of docs/numerics.md in fp64, from canonical weights, without the library."""

import re
from pathlib import Path

import torch
from torch import Tensor

from machete import QuantizedWeight

E4M3 = torch.float8_e4m3fn
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24, E4M3: 2.0**-4}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24, torch.float32: 2.0**-149}

MANIFEST = (Path(__file__).parents[2] / "instances" / "manifest.txt").read_text()
WEIGHT_TYPES = re.findall(r"^type (\w+)", MANIFEST, re.MULTILINE)
RUNS_AS = dict(re.findall(r"^type (\w+) [^#]* as (\w+)", MANIFEST, re.MULTILINE))
WITH_ZERO_POINTS = re.findall(r"^type (\w+) \d+ integer\(\d,zeros\)", MANIFEST, re.MULTILINE)
_DEFAULT = re.findall(r"^default \w+ (\w+) (\w+)", MANIFEST, re.MULTILINE)
# By activation type, the weights that the default build has kernels for.
DEFAULT_KERNELS = {
    a_type: {w_type for w_type in WEIGHT_TYPES if (RUNS_AS.get(w_type, w_type), a_type) in _DEFAULT}
    for a_type in ("bf16", "f16", "s8", "e4m3")
}
# Pairs of a weight type and activations of 8 bits that meet.
MEETS = [
    (w_type, a_type)
    for w_type, a_types in re.findall(r"^type (\w+) [^#]* meets ([\w,]+)", MANIFEST, re.MULTILINE)
    for a_type in a_types.split(",")
]
CODES = {"s8": torch.int8, "e4m3": E4M3}


def values(weight: QuantizedWeight) -> Tensor:
    """What the codes stand for, before scales and zero points: [N, K] in fp64. Types are what their names say."""
    codes = weight.qweight
    kind, *digits = re.findall(r"[a-z]|\d+", weight.weight_type)
    if kind == "e":
        exponent_bits, mantissa_bits = int(digits[0]), int(digits[2])
        bits = 1 + exponent_bits + mantissa_bits
    else:
        bits = int(digits[0])
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)[:, : weight.k].contiguous()
    if kind == "s":
        half = 2 ** (bits - 1)
        return (codes.double() + half) % (2 * half) - half
    if kind == "u":
        return codes.double()
    sign = 1 - 2 * (codes >> (bits - 1)).double()
    exponent = (codes >> mantissa_bits & (2**exponent_bits - 1)).double()
    mantissa = (codes & (2**mantissa_bits - 1)).double() * 2.0**-mantissa_bits
    power = exponent.clamp(min=1) - (2 ** (exponent_bits - 1) - 1)
    return sign * (mantissa + (exponent > 0)) * 2.0**power


def dequantize(weight: QuantizedWeight) -> Tensor:
    """W [N, K] in fp64, exactly."""
    size = weight.k if weight.group_size < 0 else weight.group_size

    def spread(numbers: Tensor) -> Tensor:  # [groups, N] to [N, K]
        return numbers.double().repeat_interleave(size, dim=0)[: weight.k].T

    zero = int(weight.weight_type.partition("b")[2] or 0)
    if weight.zero_points is not None:
        zero = spread(weight.zero_points)
    return (values(weight) - zero) * spread(weight.scales)


def quantize_tokens(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The formula of include/machete/tokens.h: codes [..., K] and token_scale [...]."""
    a = x.float()
    largest, limit = a.abs().amax(-1), torch.tensor(127.0 if dtype == torch.int8 else 448.0)
    tiny, broken = largest <= limit * 2.0**-126, ~a.isfinite().all(-1)
    scale = torch.where(tiny, 2.0**-126, largest / limit).masked_fill(broken, torch.nan)
    scaled = a * torch.where(tiny, 2.0**126, limit / largest).unsqueeze(-1)
    codes = scaled.masked_fill(broken.unsqueeze(-1), 0).clamp(-limit, limit)
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), scale


def check(
    d: Tensor,
    x: Tensor,
    weight: QuantizedWeight,
    token_scale: Tensor | None = None,
    output_scale: Tensor | None = None,
) -> None:
    """Holds every element of d = x W^T to the contract's bound; of codes with their scales too, before and after."""
    w = dequantize(weight)
    a = x.detach().double().reshape(-1, weight.k)
    exact = a @ w.T
    u = UNIT_ROUNDOFF[d.dtype]
    product = {torch.int8: 2.0**-24, E4M3: 2.0**-9}.get(x.dtype) or UNIT_ROUNDOFF[x.dtype]
    before = 8 * (a.square() @ w.square().T).sqrt() * (product + (weight.k / 16 + 16) * 2.0**-23)
    if x.dtype == torch.float16:
        before += 8 * 2.0**-25 * a.square().sum(1, keepdim=True).sqrt()
    if token_scale is not None:
        scale = token_scale.double().reshape(-1, 1)
        exact *= scale
        before = before * scale + 2.0**-24 * exact.abs()
    if output_scale is not None:
        exact /= output_scale.double().reshape(())
        before = before / output_scale.double().abs().reshape(()) + 2.0**-23 * exact.abs()
    if d.dtype == E4M3:
        least, most = ((exact + e).clamp(-448, 448) for e in (-before, before))
        exact = exact.clamp(-448, 448)
        before = torch.maximum(most - exact, exact - least)
        rounding = (u * (exact.abs() + before)).clamp(min=2.0**-10)
    else:
        rounding = u * (exact.abs() + before) + SMALLEST[d.dtype]
    error = (d.detach().double().reshape(exact.shape) - exact).abs()
    ratio = (error / (before + rounding)).max().item() if error.numel() else 0.0
    assert ratio <= 1, f"{ratio} of the bound at x {list(x.shape)}, N={weight.n}, group_size={weight.group_size}"
