"""The numerical contract of docs/numerics.md in fp64, from canonical weights, without the library."""

import torch
from torch import Tensor

from machete import QuantizedWeight

UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}


WEIGHT_TYPES = ["u4b8", "u4", "u8b128", "u8", "s4", "s8", "e4m3", "e2m1"]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)


def values(weight: QuantizedWeight) -> Tensor:
    """What the codes stand for, before scales and zero points: [N, K] in fp64."""
    codes = weight.qweight
    if weight.weight_type in ("u4b8", "u4", "s4", "e2m1"):
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)[:, : weight.k].contiguous()
    if weight.weight_type == "s4":
        return (codes.double() + 8) % 16 - 8
    if weight.weight_type == "s8":
        return codes.view(torch.int8).double()
    if weight.weight_type == "e4m3":
        return codes.view(torch.float8_e4m3fn).double()
    if weight.weight_type == "e2m1":
        return E2M1[(codes & 7).long()] * (1 - 2 * (codes >> 3).double())
    return codes.double()


def dequantize(weight: QuantizedWeight) -> Tensor:
    """W [N, K] in fp64, exactly."""
    size = weight.k if weight.group_size < 0 else weight.group_size

    def spread(numbers: Tensor) -> Tensor:  # [groups, N] to [N, K]
        return numbers.double().repeat_interleave(size, dim=0)[: weight.k].T

    zero = {"u4b8": 8, "u8b128": 128}.get(weight.weight_type, 0)
    if weight.zero_points is not None:
        zero = spread(weight.zero_points)
    return (values(weight) - zero) * spread(weight.scales)


def check(d: Tensor, x: Tensor, weight: QuantizedWeight) -> None:
    """Holds every element of d = x W^T to the contract's bound."""
    w = dequantize(weight)
    a = x.detach().double().reshape(-1, weight.k)
    exact = a @ w.T
    error = (d.detach().double().reshape(exact.shape) - exact).abs()
    u = UNIT_ROUNDOFF[d.dtype]
    before = 8 * (a.square() @ w.square().T).sqrt() * (u + (weight.k / 16 + 16) * 2.0**-23)
    if d.dtype == torch.float16:
        before += 8 * 2.0**-25 * a.square().sum(1, keepdim=True).sqrt()
    bound = before + u * (exact.abs() + before) + SMALLEST[d.dtype]
    ratio = (error / bound).max().item() if error.numel() else 0.0
    assert ratio <= 1, f"{ratio} of the bound at x {list(x.shape)}, N={weight.n}, group_size={weight.group_size}"
