"""Calibration: weights quantised so that a model's outputs move least, after GPTQ (Frantar et al., 2022).

Rounding to nearest keeps each weight close. What matters is W xᵀ: with H = Σ xᵀ x over inputs x of the layer, the error
of a row is (w - ŵ) H (w - ŵ)ᵀ, and the error made in one input feature can be made good in those that are yet to be
rounded. The closed form for that is one row of the Cholesky factor of H⁻¹ a feature.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from machete.model import layers_to_quantize
from machete.weight import QuantizedWeight, quantize

_COLUMNS = 128  # whose errors are handed on together


@dataclass(frozen=True)
class _Codes:
    """A weight type whose values are evenly spaced: W = scale * (q - zero), lowest <= q <= highest."""

    bits: int
    lowest: int
    highest: int
    zero: int | None  # None: the type has zero points


_CODES = {
    "u4b8": _Codes(4, 0, 15, 8),
    "s4": _Codes(4, -8, 7, 0),
    "u4": _Codes(4, 0, 15, None),
    "u8b128": _Codes(8, 0, 255, 128),
    "s8": _Codes(8, -128, 127, 0),
    "u8": _Codes(8, 0, 255, None),
}


def quantize_calibrated(
    weight: Tensor,
    moments: Tensor,
    weight_type: str = "u4b8",
    group_size: int = 128,
    *,
    dtype: torch.dtype = torch.bfloat16,
    damping: float = 0.01,
) -> QuantizedWeight:
    """Quantises W [N, K] given the second moments of its inputs, H [K, K] = Σ xᵀ x; any factor will do.

    Scales (and zero points) of a group are searched for as by `machete.quantize`, in the weights as they are when the
    group's turn comes. `damping` times the mean of H's diagonal is added to the diagonal. Inputs that were never other
    than zero take no part: their weights are rounded to nearest. The work is done on the device of `weight`, in fp32.
    NotImplementedError: weight types whose values are not evenly spaced. ValueError: shapes that do not fit, NaN or
    Inf, moments of no inputs.
    """
    return _calibrated(weight, moments, weight_type, group_size, dtype, damping)[0]


def calibrate(
    model: nn.Module,
    inputs: Iterable[Any],
    weight: str = "u4b8",
    group_size: int = 128,
    skip: Sequence[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    damping: float = 0.01,
    progress: bool = False,
) -> dict[str, QuantizedWeight]:
    """Quantises the layers of a model by what they do to `inputs`: for `machete.quantize_model(model, weights=...)`.

    `inputs` are batches, each given to the model as its only argument: token ids [B, T], a few thousand in all, of text
    like that to come. Block after block of the model's longest `nn.ModuleList` (its decoder layers) is run, calibrated
    and run again with the weights it then has, so that each block sees what it will see; a model whose layers lie
    elsewhere too is calibrated in one go. **The model's float weights become the quantised values**, in its dtype.
    `skip` is that of `quantize_model`; `dtype` that of the scales, by default the layer's, or bfloat16 for fp32. The
    errors are those of `quantize_calibrated`, with the layer's name.
    """
    layers = layers_to_quantize(model, skip)
    if not layers:
        raise ValueError("the model has no linear layer to quantise that is neither skipped nor tied; see skip=")
    found: dict[str, QuantizedWeight] = {}
    names = {layer: name for name, layer in layers.items()}

    def finish(moments: dict[nn.Linear, "_Moments"]) -> None:
        for layer, seen in moments.items():
            name = names[layer]
            scale_type = dtype or (torch.bfloat16 if layer.weight.dtype == torch.float32 else layer.weight.dtype)
            try:
                quantized, values = _calibrated(layer.weight, seen.value, weight, group_size, scale_type, damping)
            except (ValueError, NotImplementedError) as error:
                raise type(error)(f"{name}: {error}") from None
            layer.weight.data.copy_(values)
            found[name] = quantized
            bar.update()

    with torch.no_grad(), tqdm(total=len(layers), desc=f"Calibrating {weight}", disable=not progress) as bar:
        course = _course(model, names, list(inputs))
        for block in course.blocks:
            with ExitStack() as hooks:
                moments = {layer: _Moments(layer, hooks) for layer in block.modules() if layer in names}
                course.run(block)
            finish(moments)
            course.advance(block)
    return found


class _Moments:
    """H of a layer, summed up while the model runs."""

    def __init__(self, layer: nn.Linear, hooks: ExitStack) -> None:
        self.value = torch.zeros(layer.in_features, layer.in_features, device=layer.weight.device)
        hooks.callback(layer.register_forward_pre_hook(self._add).remove)

    def _add(self, _layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].detach().reshape(-1, self.value.shape[0]).float()
        self.value.addmm_(x.T, x)


class _Stop(Exception):
    """Ends a model's forward pass where its first block begins."""


class _Whole:
    """A model that is calibrated in one go."""

    def __init__(self, model: nn.Module, batches: list[Any]) -> None:
        self._batches = batches
        self.blocks = [model]

    def run(self, block: nn.Module) -> None:
        for batch in self._batches:
            block(batch)

    def advance(self, block: nn.Module) -> None:
        pass


class _Chain:
    """A model's blocks, each of which takes what the one before has made of the inputs."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList, batches: list[Any]) -> None:
        self.blocks = list(blocks)
        self._calls: list[tuple[list[Any], dict[str, Any]]] = []  # of the next block, a batch each

        def catch(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._calls.append((list(arguments), named))
            raise _Stop

        config = getattr(model, "config", None)
        caches = getattr(config, "use_cache", False)  # which would grow with every run of a block
        hook = self.blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            if caches:
                config.use_cache = False
            for batch in batches:
                with suppress(_Stop):
                    model(batch)
        finally:
            hook.remove()
            if caches:
                config.use_cache = True

    def run(self, block: nn.Module) -> None:
        for arguments, named in self._calls:
            block(*arguments, **named)

    def advance(self, block: nn.Module) -> None:
        for arguments, named in self._calls:
            result = block(*arguments, **named)
            arguments[0] = result[0] if isinstance(result, tuple) else result


def _course(model: nn.Module, layers: Iterable[nn.Linear], batches: list[Any]) -> _Chain | _Whole:
    """How to go through a model: block after block, where one list of blocks holds all the layers."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    blocks = max(lists, key=len, default=None)
    if blocks is None or not set(layers) <= set(blocks.modules()):
        return _Whole(model, batches)
    return _Chain(model, blocks, batches)


def _calibrated(
    weight: Tensor, moments: Tensor, weight_type: str, group_size: int, dtype: torch.dtype, damping: float
) -> tuple[QuantizedWeight, Tensor]:
    """The quantised weight, and its values [N, K] in fp32."""
    if weight_type not in _CODES:
        raise NotImplementedError(
            f"weight_type={weight_type} cannot be calibrated, only {', '.join(_CODES)}; use machete.quantize"
        )
    codes = _CODES[weight_type]
    n, k = weight.shape
    if group_size != -1 and (group_size <= 0 or group_size % 16 != 0):
        raise ValueError(f"group_size={group_size} must be -1 or a multiple of 16")
    if moments.shape != (k, k):
        raise ValueError(f"moments of {list(moments.shape)} must be [K, K] with the weight's K={k}")
    if not damping > 0:
        raise ValueError(f"damping={damping} must be positive; 0.01 is usual")
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds NaN or Inf; repair the checkpoint")
    if not torch.isfinite(moments).all():
        raise ValueError("the moments hold NaN or Inf; look at what the model computes of the calibration inputs")
    if not moments.diagonal().any():
        raise ValueError("the moments are all zero: no inputs have reached the layer; give inputs that do")

    rest = weight.detach().float().clone()  # [N, K], what is left to be rounded
    factor = _inverse_factor(moments.to(rest.device, torch.float32), damping)  # [K, K], upper
    found = torch.empty(n, k, dtype=torch.uint8, device=rest.device)
    values = torch.empty_like(rest)
    scales, zero_points = [], []
    depth = k if group_size == -1 else group_size
    for first in range(0, k, depth):
        last = min(first + depth, k)
        group = quantize(rest[:, first:last], weight_type, -1, dtype=dtype)
        scales.append(group.scales)
        scale = group.scales[0].to(rest.device, torch.float32)  # [N]
        zero = torch.full_like(scale, codes.zero or 0)
        if group.zero_points is not None:
            zero_points.append(group.zero_points)
            zero = group.zero_points[0].to(rest.device, torch.float32)
        reciprocal = torch.where(scale == 0, 0, 1 / scale)
        for begin in range(first, last, _COLUMNS):
            end = min(begin + _COLUMNS, last)
            errors = torch.empty(n, end - begin, device=rest.device)
            for column in range(begin, end):
                wanted = rest[:, column]
                q = (wanted * reciprocal + zero).round_().clamp_(codes.lowest, codes.highest)
                found[:, column] = q.to(torch.int16).to(torch.uint8)  # two's complement
                values[:, column] = scale * (q - zero)
                error = (wanted - values[:, column]) / factor[column, column]
                errors[:, column - begin] = error
                rest[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
            rest[:, end:] -= errors @ factor[begin:end, end:]
    quantized = QuantizedWeight(
        qweight=_packed(found, codes.bits).cpu(),
        scales=torch.cat(scales),
        zero_points=torch.cat(zero_points) if zero_points else None,
        weight_type=weight_type,
        k=k,
        group_size=group_size,
    )
    return quantized, values


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of H⁻¹ [K, K], H damped; inputs that were always zero are on their own."""
    h = moments.clone()
    diagonal = h.diagonal()
    mean = diagonal.mean()
    diagonal[diagonal == 0] = mean
    diagonal += damping * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def _packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 [N, K] to [N, ceil(K * bits / 8)], the even k in the low half."""
    if bits == 8:
        return codes
    codes = nn.functional.pad(codes & 15, (0, codes.shape[1] % 2))
    return codes[:, 0::2] | codes[:, 1::2] << 4
