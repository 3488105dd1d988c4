"""The numerical contract of docs/numerics.md in fp64, from canonical weights, without the library."""

import torch
from torch import Tensor

from machete import QuantizedWeight

UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}


def dequantize(weight: QuantizedWeight) -> Tensor:
    """W [N, K] in fp64, exactly, of a u4b8 weight."""
    assert weight.weight_type == "u4b8"
    codes = torch.stack((weight.qweight & 15, weight.qweight >> 4), dim=-1).flatten(1)[:, : weight.k].double()
    size = weight.k if weight.group_size < 0 else weight.group_size
    scales = weight.scales.double().repeat_interleave(size, dim=0)[: weight.k]  # [K, N]
    return (codes - 8) * scales.T


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
