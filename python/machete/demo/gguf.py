"""A Llama model's weights as its GGUF file holds them: the codes of Q4_1, carried over unchanged."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from machete.weight import QuantizedWeight

_GROUP = 32
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def q4_1_weights(path: Path, heads: int, key_value_heads: int) -> dict[str, QuantizedWeight]:
    """The layers of a GGUF file in Q4_1, by the names that transformers gives them: u4, zero points in fp16.

    ValueError: a layer in other blocks.
    """
    from gguf import GGMLQuantizationType, GGUFReader

    found = {}
    for tensor in GGUFReader(path).tensors:
        parts = tensor.name.split(".")  # blk.3.attn_q.weight
        if len(parts) != 4 or parts[2] not in _NAMES:
            continue
        if tensor.tensor_type != GGMLQuantizationType.Q4_1:
            raise ValueError(f"{tensor.name} in {path} is in blocks of {tensor.tensor_type.name}; Q4_1 is read here")
        k, n = (int(size) for size in tensor.shape)
        weight = _canonical(tensor.data.reshape(n, k // _GROUP, 20), k)
        if parts[2] in ("attn_q", "attn_k"):
            weight = _reordered(weight, _rotary_order(n, heads if parts[2] == "attn_q" else key_value_heads))
        found[f"model.layers.{parts[1]}.{_NAMES[parts[2]]}"] = weight
    return found


def _canonical(blocks: np.ndarray, k: int) -> QuantizedWeight:
    """Blocks [N, K / 32, 20]: d and m in fp16, then 32 codes, element i in the low half of byte i, i + 16 in the high.

    w = d q + m = d (q - zero) with zero = -m / d; where d is 0, w = m (0 - -1).
    """
    d, m = (torch.from_numpy(blocks[:, :, at : at + 2].copy().view(np.float16)[..., 0]).float() for at in (0, 2))
    codes = torch.from_numpy(blocks[:, :, 4:].copy())  # [N, K / 32, 16]
    codes = torch.cat([codes & 15, codes >> 4], dim=2)  # [N, K / 32, 32]
    constant = d == 0
    codes[constant] = 0
    scales = torch.where(constant, m, d)
    zeros = torch.where(constant, torch.where(m == 0, 0, -1), -m / torch.where(constant, 1, d))
    codes = codes.reshape(codes.shape[0], k)
    return QuantizedWeight(
        qweight=codes[:, 0::2] | codes[:, 1::2] << 4,
        scales=scales.T.contiguous().half(),
        zero_points=zeros.T.contiguous().half(),
        weight_type="u4",
        k=k,
        group_size=_GROUP,
    )


def _rotary_order(n: int, heads: int) -> Tensor:
    """The rows of Q or K in transformers' order: GGUF has the two halves of each head interleaved."""
    return torch.arange(n).reshape(heads, n // heads // 2, 2).swapaxes(1, 2).reshape(n)


def _reordered(weight: QuantizedWeight, rows: Tensor) -> QuantizedWeight:
    assert weight.zero_points is not None
    return QuantizedWeight(
        weight.qweight[rows],
        weight.scales[:, rows].contiguous(),
        weight.zero_points[:, rows].contiguous(),
        weight.weight_type,
        weight.k,
        weight.group_size,
    )
