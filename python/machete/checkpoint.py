"""Layers as other tools have quantised them: GPTQ, AWQ, compressed-tensors, blocks of fp8.

The formats' details are in C++ (src/formats, docs/formats.md) and nowhere else; here are tensors and names.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from machete._native import native
from machete.weight import QuantizedWeight, _tensors

_GPTQ = ("qweight", "qzeros", "scales", "g_idx")

# What the tensors of a layer are called after its name, in the formats that are read.
SUFFIXES = {
    "gptq": _GPTQ,
    "gptq_v2": _GPTQ,
    "awq": _GPTQ,
    "pack-quantized": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
    "int-quantized": ("weight", "weight_scale", "weight_zero_point", "weight_g_idx"),
    "float-quantized": ("weight", "weight_scale"),
    "fp8": ("weight", "weight_scale_inv"),
}
_ALL = sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes})


@dataclass(frozen=True)
class FoundLayer:
    """A quantised layer of a checkpoint, without its elements."""

    name: str
    format: str  # "gptq", "gptq_v2", "awq", "pack-quantized", "int-quantized", "float-quantized", "fp8", ...
    weight_type: str  # "" where there is an obstacle
    n: int
    k: int
    group_size: int
    act_order: bool
    obstacle: str  # why it cannot be read; "" where it can
    parts: tuple[str, ...]  # the names of its tensors, without the bias


def find_layers(files: Sequence[str | os.PathLike[str]]) -> list[FoundLayer]:
    """The layers that other tools have quantised, in safetensors files of one folder, with its config.json.

    ValueError: tensors that contradict each other, damaged files; OSError.
    """
    found: Sequence[Any] = native.find_layers([os.fspath(file) for file in files])
    return [
        FoundLayer(*map(_plain, values), tuple(str(part) for part in parts))  # type: ignore[call-arg]
        for *values, parts in found
    ]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value  # the library's strings are a subclass


def read_layer(tensors: Mapping[str, Tensor], format: str | None = None) -> QuantizedWeight:
    """The weight of a layer from its tensors, without loss; see `machete.Linear.from_checkpoint`."""
    given = {suffix: tensors[suffix].detach().cpu().contiguous() for suffix in _ALL if suffix in tensors}
    _, weight_type, k, group_size, parts = native.read_layer(list(given), list(given.values()), format or "")
    qweight, scales, zero_points, g_idx = _tensors(parts)
    return QuantizedWeight(qweight, scales, zero_points, str(weight_type), k, group_size, g_idx)


def write_layer(weight: QuantizedWeight, format: str) -> dict[str, Tensor]:
    """The tensors that a layer of this weight has in a format; see `machete.Linear.to_checkpoint`."""
    suffixes, tensors = native.write_layer(*weight.parts(), weight.k, weight.weight_type, weight.group_size, format)
    return {str(suffix): tensor for suffix, tensor in zip(suffixes, _tensors(tensors), strict=True)}
