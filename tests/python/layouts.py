"""Quantised layers as other tools lay them out, made from what the formats' descriptions say, without the library.

A layer is codes [N, K], counted from the lowest, zero points [groups, N], scales [groups, N] and g_idx [K].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which column each nibble of a word holds, from the lowest


@dataclass
class Layer:
    bits: int
    codes: Tensor
    zeros: Tensor
    scales: Tensor
    g_idx: Tensor

    @property
    def weight(self) -> Tensor:
        """[N, K], exact in 16 bits: scales have 3 bits, q - zero at most 8."""
        groups = self.g_idx.long()
        weight = self.scales.double()[groups].T * (self.codes - self.zeros[groups].T)
        assert torch.equal(weight, weight.half().double())
        return weight


def layer(n, k, bits=4, group_size=32, symmetric=True, act_order=False, dtype=torch.float16) -> Layer:
    size = k if group_size < 0 else group_size
    groups = -(-k // size)
    middle = 1 << (bits - 1)
    zeros = torch.full((groups, n), middle) if symmetric else torch.randint(1, 2 * middle, (groups, n))
    g_idx = torch.arange(k) // size
    if act_order:
        g_idx = g_idx[torch.randperm(k)]
    scales = torch.randint(1, 8, (groups, n)) / 2 ** (bits + 6)
    return Layer(bits, torch.randint(0, 2 * middle, (n, k)), zeros, scales.to(dtype), g_idx)


def words(elements: Tensor, bits: int) -> Tensor:
    """int32 of the elements of the last dimension, the first in the lowest bits; the last word filled with zeros."""
    share = 32 // bits
    padded = torch.nn.functional.pad(elements.long(), (0, -elements.shape[-1] % share)).unflatten(-1, (-1, share))
    word = (padded << (bits * torch.arange(share))).sum(-1)
    return (word - (word >= 2**31).long() * 2**32).int()


def gptq(x: Layer, version: int = 1, with_g_idx: bool = True) -> dict[str, Tensor]:
    tensors = {
        "qweight": words(x.codes, x.bits).T.contiguous(),  # [K * bits / 32, N]
        "qzeros": words(x.zeros - (1 if version == 1 else 0), x.bits),  # [groups, N * bits / 32]
        "scales": x.scales,
    }
    return {**tensors, "g_idx": x.g_idx.int()} if with_g_idx else tensors


def awq(x: Layer) -> dict[str, Tensor]:
    def shuffled(rows: Tensor) -> Tensor:  # [rows, N]
        return words(rows.unflatten(-1, (-1, 8))[..., AWQ_ORDER].flatten(-2), 4)

    return {"qweight": shuffled(x.codes.T), "qzeros": shuffled(x.zeros), "scales": x.scales}


def pack_quantized(x: Layer, symmetric: bool = True) -> dict[str, Tensor]:
    n, k = x.codes.shape
    tensors = {
        "weight_packed": words(x.codes, x.bits),  # [N, K * bits / 32]
        "weight_scale": x.scales.T.contiguous(),  # [N, groups]
        "weight_shape": torch.tensor([n, k]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(x.zeros, x.bits).T.contiguous()  # [N * bits / 32, groups]
    if not torch.equal(x.g_idx, x.g_idx.sort().values):
        tensors["weight_g_idx"] = x.g_idx.int()
    return tensors


def float_quantized(x: Layer) -> dict[str, Tensor]:
    """Of 4 bits, whose integers e4m3 has."""
    return {"weight": (x.codes - 8).to(torch.float8_e4m3fn), "weight_scale": x.scales.T.contiguous()}


def int_quantized(x: Layer) -> dict[str, Tensor]:
    return {"weight": (x.codes - 128).to(torch.int8), "weight_scale": x.scales.T.contiguous()}
