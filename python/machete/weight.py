"""Weights: quantised ones in canonical form, and packed ones in the order that the kernels read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from machete._native import DTYPES, NAMES, name_of, native
from machete.product import How, Product, name_of_output, product_of
from machete.tokens import activations_of

HEADER_BYTES = 128
# Set in codes that are no numbers, and in those alone.
SPECIAL_BITS = {"e4m3": 0x7F, "e5m2": 0x7C}


def _tensors(parts: Sequence[Any]) -> Iterator[Any]:
    """What the library returns, as torch's tensors: newer versions of tvm-ffi have converted it already."""
    return (None if part is None else torch.from_dlpack(part) for part in parts)


def aligned(data: Tensor) -> Tensor:
    """The tensor, or a copy where it starts as no allocation does: views of mapped files may."""
    return data.clone() if data.data_ptr() % 64 != 0 else data


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A quantised weight in canonical form, W = scale * (q - zero)."""

    qweight: Tensor  # uint8 [N, ceil(K * bits / 8)]; of 4 bits the even k lies in the low half of a byte
    scales: Tensor  # [ceil(K / group_size), N], floating point
    zero_points: Tensor | None  # [ceil(K / group_size), N], uint8 or floating point; None for types without
    weight_type: str  # "u4b8", ...
    k: int  # input features
    group_size: int  # elements of K that share a scale, a multiple of 16; -1: all of them
    g_idx: Tensor | None = None  # int32 [K], the group of each k where they lie in an order of their own (act-order)

    def check_codes(self) -> None:
        """ValueError: NaN or Inf among the codes, which CUDA kernels do not know."""
        bits = SPECIAL_BITS.get(self.weight_type)
        if bits is None:
            return
        found = (self.qweight & bits == bits).nonzero()  # [count, 2]
        if len(found) > 0:
            row, column = found[0].tolist()
            raise ValueError(
                f"qweight[{row}, {column}] is NaN or Inf, which CUDA kernels do not serve; quantise the layer again, "
                "or run it on the CPU"
            )

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Its tensors in CPU memory, as the library takes them."""
        zero_points = None if self.zero_points is None else self.zero_points.cpu().contiguous()
        g_idx = None if self.g_idx is None else self.g_idx.cpu().contiguous()
        return self.qweight.cpu().contiguous(), self.scales.cpu().contiguous(), zero_points, g_idx

    @property
    def n(self) -> int:
        """Output features."""
        return self.qweight.shape[0]


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight in the order that the kernels read, as one tensor: its header of 128 bytes, then the payload.

    One packed weight serves every number of tokens. The tensor may be saved, pickled, copied and moved between devices
    like any other; `from_tensor` makes the PackedWeight of it again.
    """

    data: Tensor  # uint8 [128 + payload]
    weight_type: str
    n: int  # output features
    k: int  # input features
    group_size: int
    dtype: torch.dtype  # of its scales, hence of activations and output: torch.bfloat16 or torch.float16
    swiglu: bool = False  # whether it is [gate; up], for that epilogue
    activation_bits: int = 16  # that it was packed for; 8: activations are quantised, and then meet it

    @classmethod
    def from_tensor(cls, data: Tensor) -> "PackedWeight":
        """Reads the header, and the order of K behind an act-order weight, which a run follows without looking.

        ValueError: no packed weight, another version of the layout, a damaged header or order.
        """
        data = aligned(data)
        start = data[:HEADER_BYTES].cpu()  # of CUDA tensors nothing is copied but this and the order
        weight_type, scale_type, n, k, group_size, *rest = native.header(start, data.numel())
        swiglu, activation_bits, order_bytes = rest
        if order_bytes > 0:
            native.check_permutation(data[-order_bytes:].cpu(), k)
        return cls(data, str(weight_type), n, k, group_size, DTYPES[scale_type], swiglu, activation_bits)

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def columns(self) -> int:
        """Of the output: N, or with swiglu N / 2."""
        return self.n // 2 if self.swiglu else self.n

    def how(
        self,
        schedule: str = "",
        overlap: bool = False,
        batch_invariant: bool = False,
        activations: str | None = None,
        fast_accumulation: bool = False,
        out_dtype: torch.dtype | None = None,
    ) -> How:
        """What its header says and the options, as the library takes them."""
        kind = (self.n, self.k, self.weight_type, NAMES[self.dtype], self.group_size)
        codes = activations_of(self.weight_type, self.activation_bits, activations)
        out_type = "" if out_dtype in (None, self.dtype) else name_of_output(out_dtype)
        return (*kind, schedule, overlap, batch_invariant, self.swiglu, codes, fast_accumulation, out_type)

    @cached_property
    def _product(self) -> Product:
        return product_of(*self.how())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "PackedWeight":
        """On another device, or for activations of another type; ValueError where a scale has no exact value in it."""
        packed = self
        if dtype not in (None, self.dtype):
            options: Any = {"swiglu": self.swiglu, "activation_bits": self.activation_bits}
            packed = prepack(self.unpack(), dtype=dtype, device=self.device, **options)
        return packed if device is None else PackedWeight.from_tensor(packed.data.to(device))

    def unpack(self) -> QuantizedWeight:
        """The canonical form again, bit for bit, in CPU memory."""
        qweight, scales, zero_points, g_idx = _tensors(native.unpack(self.data.cpu()))
        return QuantizedWeight(qweight, scales, zero_points, self.weight_type, self.k, self.group_size, g_idx)

    def dequantize(self) -> Tensor:
        """W [N, K] of `dtype`, on the weight's device; each value scale * (q - zero) rounded once."""
        return torch.ops.machete.dequantize(self.data, self.n, self.k, self.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file that `machete::load` of C++ reads, all or nothing, with a checksum."""
        native.save(self.data.cpu(), os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "PackedWeight":
        """Reads what `save`, of Python or C++, has written. ValueError: damaged files, other versions. OSError."""
        return cls.from_tensor(torch.from_dlpack(native.load(os.fspath(path))).to(device))

    def __repr__(self) -> str:
        return (
            f"PackedWeight({self.weight_type} [{self.n}, {self.k}], group_size={self.group_size}, {self.dtype}, "
            f"{self.device}, {self.data.numel()} bytes" + (", activation_bits=8)" if self.activation_bits == 8 else ")")
        )


def quantize(
    weight: Tensor,
    weight_type: str = "u4b8",
    group_size: int = 128,
    *,
    dtype: torch.dtype = torch.bfloat16,
    search: bool = True,
) -> QuantizedWeight:
    """Quantises W [N, K] by rounding to nearest, with the scale (and zero point) of each group searched for.

    `dtype` is that of the scales. With `search=False` a group's largest value sets its scale. Runs on the CPU; the
    result lies there. ValueError: NaN or Inf in the weight, group sizes other than -1 and multiples of 16.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"weight of {weight.dtype} {list(weight.shape)} must be floating point [N, K]; reshape it")
    values = weight.detach().to(device="cpu", dtype=torch.float32).contiguous()
    scale_type = name_of("dtype", dtype)
    parts = native.quantize(values, weight_type, group_size, scale_type, search)
    qweight, scales, zero_points, _ = _tensors(parts)
    return QuantizedWeight(qweight, scales, zero_points, weight_type, values.shape[1], group_size)


def prepack(
    weight: QuantizedWeight,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    round_scales: bool = False,
    swiglu: bool = False,
    activation_bits: int = 16,
) -> PackedWeight:
    """Puts a weight into the order that the kernels read.

    `dtype`: of the activations it will meet, by default that of the scales. `device`: where the result shall lie, by
    default where `weight` does. Scales and zero points that `dtype` cannot hold are refused (ValueError), or with
    `round_scales` rounded; NaN and Inf among codes are refused on a GPU. `swiglu`: the weight is [gate; up], and will
    meet that epilogue. `activation_bits`: 8 where activations will be quantised (`quantize_tokens`) before they meet
    it; NotImplementedError for weight types that meet none of 8 bits.
    """
    dtype = weight.scales.dtype if dtype is None else dtype
    device = weight.qweight.device if device is None else torch.device(device)
    if device.type == "cuda":
        weight.check_codes()
    packed = native.prepack(
        *weight.parts(),
        weight.k,
        weight.weight_type,
        weight.group_size,
        name_of("dtype", dtype),
        round_scales,
        swiglu,
        activation_bits,
    )
    return PackedWeight.from_tensor(torch.from_dlpack(packed).to(device))
