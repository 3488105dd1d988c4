"""Gradients of products with quantised weights: through the dequantised weight, to the activations alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def gradient_of(gradient: Tensor, packed: Tensor, sizes: tuple[int, int], x: Tensor | None) -> Tensor:
    """[..., K] of an output's gradient [..., N], or of swiglu's [..., N / 2] with the x [..., K] it was made of."""
    weight = torch.ops.machete.dequantize(packed, *sizes, gradient.dtype)  # [N, K]
    if x is not None:
        gate, up = (x @ weight.T).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        by_gate = gradient * up * sigmoid * (1 + gate * (1 - sigmoid))
        gradient = torch.cat((by_gate, gradient * gate * sigmoid), dim=-1)  # [..., N]
    return gradient @ weight


class StraightThrough(Function):
    """A product whose activations are quantised on the way, which its gradient does not see."""

    @staticmethod
    def forward(
        ctx: Any, product: Callable[[Tensor, Tensor], Tensor], x: Tensor, packed: Tensor, n: int, k: int, swiglu: bool
    ) -> Tensor:
        ctx.save_for_backward(packed, *((x,) if swiglu else ()))
        ctx.sizes = (n, k)
        return product(x, packed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (packed, *saved) = gradients, ctx.saved_tensors
        found = gradient_of(gradient, packed, ctx.sizes, saved[0] if saved else None)
        return None, found, None, None, None, None
