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
from machete.product import Beside, How, Product, long_way, name_of_codes, product_of, way_of_codes
from machete.tokens import activations_of, bits_of
from machete.weight import PackedWeight, aligned, prepack, quantize


def linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    activations: str | None = None,
    token_scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    schedule: str = "",
    overlap: bool = False,
    batch_invariant: bool = False,
    fast_accumulation: bool = False,
) -> Tensor:
    """x [..., K] times the weight, transposed, plus bias [N]: [..., N] of the weight's dtype.

    As torch.nn.functional.linear: leading dimensions are kept and may be empty, strides are any. x and the bias have
    the dtype the weight was packed for and lie on its device. The bias is added in the same kernel, before the one
    rounding; of a weight with swiglu it is [N] too, gate's and then up's, and comes before the activation. Gradients
    flow to x and to the bias. `schedule` forces one (`list_schedules` names them); `overlap`,
    `batch_invariant` and `fast_accumulation` (of e4m3 activations) are the options of the C++ library. ValueError:
    shapes, dtypes or devices that do not fit; NotImplementedError: what no kernel serves.

    Where the weight was packed for 8-bit activations, x is quantised first (`quantize_tokens`) to `activations`, "e4m3"
    or "s8", which may be left out where the weight's type meets but one; gradients flow to x as if it were not. Or x
    holds codes already, float8_e4m3fn or int8, with `token_scale` [...], float32: then there are no gradients.

    `out_dtype` of float32 leaves the sums as they are, of float8_e4m3fn rounds them to 8 bits, saturating at 448, for
    a next layer that reads such: the values of the output are its codes times `output_scale`, one float32 on x's
    device, or 1. Outputs of 8 bits have no gradients.
    """
    if out is not None and torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        raise ValueError("out= does not record gradients; leave it out, or call under torch.no_grad()")
    data, result = weight.data, None
    options = (schedule, overlap, batch_invariant, activations, fast_accumulation, out_dtype)
    if token_scale is not None:
        codes = name_of_codes(x.dtype) if activations is None else activations
        how = weight.how(schedule, overlap, batch_invariant, codes, fast_accumulation, out_dtype)
        return way_of_codes(x, token_scale, data, how, Beside(out, output_scale, bias))
    if output_scale is None and not is_compiling():
        product = product_of(*weight.how(*options)) if any(options) else weight._product
        result = product.call(x, data, out, bias)
    if result is None:
        result = long_way(x, data, weight.how(*options), Beside(out, output_scale, bias))
    return result


class Linear(nn.Module):
    """A linear layer with a quantised weight.

    Its state is the buffer `packed_weight`, uint8 [128 + payload] with a header that loading checks, and the parameter
    `bias` [out_features], with swiglu [2 out_features], gate's and then up's. A new layer has no weight yet: load a
    state dict, or make the layer with `from_float` or `from_packed`. With `activations`, "e4m3" or "s8", x is quantised
    token by token before it meets the weight.
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
        activations: str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight_type = weight
        self.group_size = group_size
        self.dtype = dtype  # of activations, scales, bias and output
        self.swiglu = swiglu  # the weight is [gate; up], 2 out_features rows, and the output silu(gate) * up
        self.activations = activations  # what x is quantised to: "e4m3", "s8"; None: it stays as it is
        kind = (weight, name_of("dtype", dtype), group_size, swiglu, bits_of(activations))
        size = native.packed_bytes(self._rows(), in_features, *kind)
        activations_of(weight, bits_of(activations), activations)  # refuses what does not meet
        self.register_buffer("packed_weight", torch.zeros(size, dtype=torch.uint8, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(self._rows(), dtype=dtype, device=device))
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
        activations: str | None = None,
    ) -> "Linear":
        """Quantises a layer; on its device, for activations of `dtype` (by default the layer's).

        `activations`, "e4m3" or "s8": what those are quantised to in turn.
        """
        dtype, bits = layer.weight.dtype if dtype is None else dtype, bits_of(activations)
        name_of("dtype", dtype)  # refuse it before the work, not after
        activations_of(weight, bits, activations)
        quantized = quantize(layer.weight, weight, group_size, dtype=dtype, search=search)
        packed = prepack(quantized, device=layer.weight.device, activation_bits=bits)
        return cls.from_packed(packed, layer.bias, activations)

    @classmethod
    def from_packed(cls, packed: PackedWeight, bias: Tensor | None = None, activations: str | None = None) -> "Linear":
        """A layer with this weight; the bias is converted to its dtype.

        `activations`: as in `linear`, where the weight was packed for those of 8 bits.
        """
        layer = cls(
            packed.k,
            packed.columns,
            bias is not None,
            weight=packed.weight_type,
            group_size=packed.group_size,
            dtype=packed.dtype,
            device="meta",
            swiglu=packed.swiglu,
            activations=activations_of(packed.weight_type, packed.activation_bits, activations) or None,
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
        activations: str | None = None,
    ) -> "Linear":
        """A layer that another tool has quantised, from its tensors, without loss.

        `tensors` are named as in the checkpoint, without the layer's name: qweight, qzeros, scales and perhaps g_idx of
        GPTQ and AWQ; weight_packed, weight_scale, weight_shape, ... of compressed-tensors; weight_scale_inv of fp8; and
        perhaps bias. What they do not show is said by `format`: "gptq_v2" or "awq" (docs/formats.md). `dtype`: of the
        activations, by default that of the scales; scales that it cannot hold are refused, or with `round_scales`
        rounded. `activations`: "e4m3" or "s8" where they are to be quantised. ValueError: tensors that contradict each
        other; NotImplementedError: what there is no weight type for, or what the type does not meet.
        """
        weight = read_layer(tensors, format)
        device = next(iter(tensors.values())).device if device is None else device
        bits = bits_of(activations)
        packed = prepack(weight, dtype=dtype, device=device, round_scales=round_scales, activation_bits=bits)
        return cls.from_packed(packed, tensors.get("bias"), activations)

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
            bits_of(self.activations),
        )

    def _rows(self) -> int:
        return 2 * self.out_features if self.swiglu else self.out_features

    def _how(self) -> How:
        kind = (self._rows(), self.in_features, self.weight_type, NAMES[self.dtype], self.group_size)
        return (*kind, "", False, False, self.swiglu, self.activations or "", False, "")

    @cached_property
    def _product(self) -> Product:
        return product_of(*self._how())

    def forward(self, x: Tensor) -> Tensor:
        packed: Any
        try:
            packed, bias = self._buffers["packed_weight"], self._parameters["bias"]  # a tenth of an attribute's cost
        except KeyError:
            packed, bias = self.packed_weight, self.bias  # parametrised, or in other hands
        result = None if is_compiling() else self._product.call(x, packed, None, bias)
        if result is None:
            result = long_way(x, packed, self._how(), Beside(bias=bias))
        return result

    def adopt(self, packed: PackedWeight) -> None:
        """Takes a weight of the layer's sizes, dtype, epilogue and activations, of any type and groups.

        ValueError, NotImplementedError for others.
        """
        wanted = self.packed()
        for name in ("n", "k", "dtype", "swiglu", "activation_bits"):
            if getattr(packed, name) != getattr(wanted, name):
                raise ValueError(f"the weight has {name}={getattr(packed, name)}, the layer {getattr(wanted, name)}")
        activations_of(packed.weight_type, packed.activation_bits, self.activations)
        self.packed_weight = packed.data
        self.weight_type, self.group_size = packed.weight_type, packed.group_size
        self.__dict__.pop("_product", None)

    def _check(self, data: Tensor) -> None:
        found, wanted = PackedWeight.from_tensor(data), self.packed()
        for name in ("weight_type", "n", "k", "group_size", "dtype", "swiglu", "activation_bits"):
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
            + (f", activations={self.activations}" if self.activations else "")
        )
