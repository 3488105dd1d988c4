"""The linear layer: a function over packed weights, and a module."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling as is_compiling

import machete.ops  # noqa: F401  # registers what `long_way` calls
from machete._native import NAMES, name_of, native
from machete.checkpoint import read_layer, write_layer
from machete.product import How, Product, long_way, product_of
from machete.weight import PackedWeight, aligned, prepack, quantize


def linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
) -> Tensor:
    """x [..., K] times the weight, transposed, plus bias [N]: [..., N] of x's dtype.

    As torch.nn.functional.linear: leading dimensions are kept and may be empty, strides are any. x has the dtype the
    weight was packed for and lies on its device. The bias is added to the rounded product. Gradients flow to x and to
    the bias. `schedule` forces one (`list_schedules` names them); `overlap` and `batch_invariant` are the options of
    the C++ plan. ValueError: shapes, dtypes or devices that do not fit; NotImplementedError: what no kernel serves.
    """
    if out is not None and torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        raise ValueError("out= does not record gradients; leave it out, or call under torch.no_grad()")
    data, result = weight.data, None
    if not is_compiling():
        product = weight._product
        if schedule or overlap or batch_invariant:
            product = product_of(*weight.how(schedule, overlap, batch_invariant))
        result = product.call(x, data) if out is None else product.call(x, data, out)
    if result is None:
        result = long_way(x, data, weight.how(schedule, overlap, batch_invariant), out)
    return result if bias is None else result.add_(bias)


class Linear(nn.Module):
    """A linear layer with a quantised weight.

    Its state is the buffer `packed_weight`, uint8 [128 + payload] with a header that loading checks, and the parameter
    `bias` [out_features]. A new layer has no weight yet: load a state dict, or make the layer with `from_float` or
    `from_packed`.
    """

    packed_weight: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight: str = "u4b8",
        group_size: int = 128,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
        swiglu: bool = False,
    ) -> None:
        super().__init__()
        if swiglu and bias:
            raise ValueError("swiglu=True and bias=True: the epilogue has no place for a bias; leave one out")
        self.in_features = in_features
        self.out_features = out_features
        self.weight_type = weight
        self.group_size = group_size
        self.dtype = dtype  # of activations, scales, bias and output
        self.swiglu = swiglu  # the weight is [gate; up], 2 out_features rows, and the output silu(gate) * up
        size = native.packed_bytes(self._rows(), in_features, weight, name_of("dtype", dtype), group_size, swiglu)
        self.register_buffer("packed_weight", torch.zeros(size, dtype=torch.uint8, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_float(
        cls,
        layer: nn.Linear,
        *,
        weight: str = "u4b8",
        group_size: int = 128,
        dtype: torch.dtype | None = None,
        search: bool = True,
    ) -> "Linear":
        """Quantises a layer; on its device, for activations of `dtype` (by default the layer's)."""
        dtype = layer.weight.dtype if dtype is None else dtype
        name_of("dtype", dtype)  # refuse it before the work, not after
        quantized = quantize(layer.weight, weight, group_size, dtype=dtype, search=search)
        return cls.from_packed(prepack(quantized, device=layer.weight.device), layer.bias)

    @classmethod
    def from_packed(cls, packed: PackedWeight, bias: Tensor | None = None) -> "Linear":
        """A layer with this weight; the bias is converted to its dtype."""
        layer = cls(
            packed.k,
            packed.columns,
            bias is not None,
            weight=packed.weight_type,
            group_size=packed.group_size,
            dtype=packed.dtype,
            device="meta",
            swiglu=packed.swiglu,
        )
        layer.packed_weight = packed.data
        if bias is not None:
            value = bias.detach().to(device=packed.device, dtype=packed.dtype)
            layer.bias = nn.Parameter(value, requires_grad=bias.requires_grad)
        return layer

    @classmethod
    def from_checkpoint(
        cls,
        tensors: Mapping[str, Tensor],
        format: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        round_scales: bool = False,
    ) -> "Linear":
        """A layer that another tool has quantised, from its tensors, without loss.

        `tensors` are named as in the checkpoint, without the layer's name: qweight, qzeros, scales and perhaps g_idx of
        GPTQ and AWQ; weight_packed, weight_scale, weight_shape, ... of compressed-tensors; and perhaps bias. What they
        do not show is said by `format`: "gptq_v2" or "awq" (docs/formats.md). `dtype`: of the activations, by default
        that of the scales; scales that it cannot hold are refused, or with `round_scales` rounded. ValueError: tensors
        that contradict each other; NotImplementedError: what there is no weight type for.
        """
        weight = read_layer(tensors, format)
        device = next(iter(tensors.values())).device if device is None else device
        packed = prepack(weight, dtype=dtype, device=device, round_scales=round_scales)
        return cls.from_packed(packed, tensors.get("bias"))

    def to_checkpoint(self, format: str) -> dict[str, Tensor]:
        """The layer's tensors as another tool has them, in CPU memory: "gptq", "gptq_v2" or "pack-quantized".

        The inverse of `from_checkpoint`, bit for bit. NotImplementedError: what the format has no place for.
        """
        tensors = write_layer(self.packed().unpack(), format)
        if self.bias is not None:
            tensors["bias"] = self.bias.detach().cpu().clone()
        return tensors

    def packed(self) -> PackedWeight:
        """The weight, as functions take it."""
        return PackedWeight(
            self.packed_weight,
            self.weight_type,
            self._rows(),
            self.in_features,
            self.group_size,
            self.dtype,
            self.swiglu,
        )

    def _rows(self) -> int:
        return 2 * self.out_features if self.swiglu else self.out_features

    def _how(self) -> How:
        kind = (self._rows(), self.in_features, self.weight_type, NAMES[self.dtype], self.group_size)
        return (*kind, "", False, False, self.swiglu)

    @cached_property
    def _product(self) -> Product:
        return product_of(*self._how())

    def forward(self, x: Tensor) -> Tensor:
        packed: Any
        try:
            packed, bias = self._buffers["packed_weight"], self._parameters["bias"]  # a tenth of an attribute's cost
        except KeyError:
            packed, bias = self.packed_weight, self.bias  # parametrised, or in other hands
        result = None if is_compiling() else self._product.call(x, packed)
        if result is None:
            result = long_way(x, packed, self._how())
        return result if bias is None else result.add_(bias)

    def adopt(self, packed: PackedWeight) -> None:
        """Takes a weight of the layer's sizes, dtype and epilogue, of any type and groups; ValueError for others."""
        wanted = {"n": self._rows(), "k": self.in_features, "dtype": self.dtype, "swiglu": self.swiglu}
        for name, value in wanted.items():
            if getattr(packed, name) != value:
                raise ValueError(f"the weight has {name}={getattr(packed, name)}, the layer {value}")
        self.packed_weight = packed.data
        self.weight_type, self.group_size = packed.weight_type, packed.group_size
        self.__dict__.pop("_product", None)

    def _check(self, data: Tensor) -> None:
        found, wanted = PackedWeight.from_tensor(data), self.packed()
        for name in ("weight_type", "n", "k", "group_size", "dtype", "swiglu"):
            if getattr(found, name) != getattr(wanted, name):
                raise ValueError(
                    f"the weight has {name}={getattr(found, name)}, the layer {getattr(wanted, name)}; make the layer "
                    "with the weight's"
                )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        value = state_dict.get(prefix + "packed_weight")
        if value is not None and not value.is_meta:
            try:
                self._check(value)
            except ValueError as error:
                arguments[-1].append(f"{prefix}packed_weight: {error}")  # the caller's list of errors
                return
            if value.shape != self.packed_weight.shape:  # act-order keeps the order of K beside the weight
                self.packed_weight = self.packed_weight.new_empty(value.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.packed_weight = aligned(self.packed_weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Linear":
        """Every .to(), .half(), .cuda(): scales follow the dtype, exactly or with an error before anything else."""
        dtype = fn(torch.empty(0, dtype=self.dtype, device=self.packed_weight.device)).dtype
        if dtype != self.dtype:
            name_of("dtype", dtype)
            if not self.packed_weight.is_meta:
                self.packed_weight = self.packed().to(dtype=dtype).data
            self.dtype = dtype
            self.__dict__.pop("_product", None)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"weight={self.weight_type}, group_size={self.group_size}, dtype={self.dtype}"
            + (", swiglu=True" if self.swiglu else "")
        )
