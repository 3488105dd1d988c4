"""Calibration: weights quantised so that a model's outputs move least, after GPTQ (Frantar et al., 2022).

Rounding to nearest keeps each weight close. What matters is W xᵀ: with H = Σ xᵀ x over inputs x of the layer, the error
of a row is (w - ŵ) H (w - ŵ)ᵀ, and the error made in one input feature can be made good in those that are yet to be
rounded. The closed form for that is one row of the Cholesky factor of H⁻¹ a feature.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from machete._native import name_of
from machete.course import course_of, evaluating
from machete.model import layers_to_quantize
from machete.weight import QuantizedWeight, quantize

_COLUMNS = 128  # whose errors are handed on together
_FACTORS = [1.0, *(0.7 + 0.025 * i for i in range(23) if i != 12)]  # of a scale, 1 first: it stays where others tie


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
    damping: float = 0.1,
) -> QuantizedWeight:
    """Quantises W [N, K] given the second moments of its inputs, H [K, K] = Σ xᵀ x; any factor will do.

    Groups come in the order of H's diagonal, the weightiest first, and so do the inputs in each. Scales (and zero
    points) of a group are searched for when its turn comes, around those of `machete.quantize`, by the errors that the
    later groups cannot make good. `damping` times the mean of H's diagonal is added to the diagonal: less than 0.1
    takes moments of a few thousand tokens for more than they are. Inputs that were never other than zero take no part:
    their weights are rounded to nearest. The work is done on the device of `weight`, in fp32.
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
    damping: float = 0.1,
    progress: bool = False,
) -> dict[str, QuantizedWeight]:
    """Quantises the layers of a model by what they do to `inputs`: for `machete.quantize_model(model, weights=...)`.

    `inputs` are batches, each given to the model as its only argument: token ids [B, T], a few thousand in all, of text
    like that to come. Where one `nn.ModuleList` (the decoder layers) holds all layers to quantise, and each of its
    blocks takes what the one before returns, block after block is run, calibrated and run again with the weights it
    then has, so that each sees what it will see; other models are calibrated in one go. Layers that blocks share are
    calibrated with the first of these. The model runs as in evaluation. **Its float weights become the quantised
    values**, in its dtype. `skip` is that of `quantize_model`; `dtype` that of the scales, by default the layer's, or
    bfloat16 for fp32. The errors are those of `quantize_calibrated`, with the layer's name.
    """
    _check(weight, group_size, damping)
    layers = layers_to_quantize(model, skip)
    if not layers:
        raise ValueError("the model has no linear layer to quantise that is neither skipped nor tied; see skip=")
    batches = list(inputs)
    if not batches:
        raise ValueError("inputs has no batch; give some, a few thousand tokens in all")
    names = {layer: name for name, layer in layers.items()}
    scale_types = {layer: dtype or _scale_type(layer.weight.dtype) for layer in names}
    for layer, name in names.items():
        with _named(name):
            name_of("dtype", scale_types[layer])
    found: dict[str, QuantizedWeight] = {}
    bar = tqdm(total=len(layers), desc=f"Calibrating {weight}", disable=not progress)
    with torch.no_grad(), evaluating(model), bar:
        course = course_of(model, names, batches)
        for block in course.blocks:
            with ExitStack() as hooks:
                here = [layer for layer in block.modules() if layer in names and names[layer] not in found]
                moments = {layer: _Moments(layer, hooks) for layer in here if isinstance(layer, nn.Linear)}
                course.run(block)
            for layer, seen in moments.items():
                name = names[layer]
                with _named(name):
                    quantized, values = _calibrated(
                        layer.weight, seen.value, weight, group_size, scale_types[layer], damping
                    )
                layer.weight.data.copy_(values)
                found[name] = quantized
                bar.update()
            course.advance(block)
    return found


def _scale_type(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.float32 else dtype


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says of which layer an error is."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"{name}: {error}") from None


class _Moments:
    """H of a layer, summed up while the model runs."""

    def __init__(self, layer: nn.Linear, hooks: ExitStack) -> None:
        self.value = torch.zeros(layer.in_features, layer.in_features, device=layer.weight.device)
        hooks.callback(layer.register_forward_pre_hook(self._add, with_kwargs=True).remove)

    def _add(self, _layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = arguments[0] if arguments else named["input"]
        x = x.detach().reshape(-1, self.value.shape[0]).float()
        self.value.addmm_(x.T, x)


def _check(weight_type: str, group_size: int, damping: float) -> _Codes:
    """What can be said before there are weights and inputs."""
    if weight_type not in _CODES:
        raise NotImplementedError(
            f"weight_type={weight_type} cannot be calibrated, only {', '.join(_CODES)}; use machete.quantize"
        )
    if group_size != -1 and (group_size <= 0 or group_size % 16 != 0):
        raise ValueError(f"group_size={group_size} must be -1 or a multiple of 16")
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping={damping} must be positive; 0.1 is usual")
    return _CODES[weight_type]


def _calibrated(
    weight: Tensor, moments: Tensor, weight_type: str, group_size: int, dtype: torch.dtype, damping: float
) -> tuple[QuantizedWeight, Tensor]:
    """The quantised weight, and its values [N, K] in fp32."""
    codes = _check(weight_type, group_size, damping)
    n, k = weight.shape
    if moments.shape != (k, k):
        raise ValueError(f"moments of {list(moments.shape)} must be [K, K] with the weight's K={k}")
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds NaN or Inf; repair the checkpoint")
    if not torch.isfinite(moments).all():
        raise ValueError("the moments hold NaN or Inf; look at what the model computes of the calibration inputs")
    if not moments.diagonal().any():
        raise ValueError("the moments are all zero: no inputs have reached the layer; give inputs that do")

    depth = k if group_size == -1 else group_size
    h = moments.to(weight.device, torch.float32)
    groups = _in_order(h.diagonal(), depth)
    order = torch.cat([columns for _, columns in groups])
    rest = weight.detach().float()[:, order]  # [N, K] in that order, what is left to be rounded
    factor = _inverse_factor(h[order][:, order], damping)  # [K, K], upper
    found = torch.empty(n, k, dtype=torch.uint8, device=rest.device)
    values = torch.empty_like(rest)
    scales: list[Tensor] = [torch.empty(0)] * len(groups)
    zero_points = list(scales)
    last = 0
    for at, columns in groups:
        first, last = last, last + len(columns)
        scale, zero = _grid(rest[:, first:last], factor.diagonal()[first:last] ** -2, weight_type, dtype)  # [N]
        scales[at] = scale[None].to("cpu", dtype)
        zero_points[at] = zero[None].to("cpu", torch.uint8)
        reciprocal = _reciprocal(scale)
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
    back = order.argsort()
    quantized = QuantizedWeight(
        qweight=_packed(found[:, back], codes.bits).cpu(),
        scales=torch.cat(scales),
        zero_points=torch.cat(zero_points) if codes.zero is None else None,
        weight_type=weight_type,
        k=k,
        group_size=group_size,
    )
    return quantized, values[:, back]


def _grid(values: Tensor, weights: Tensor, weight_type: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row of a group [N, D], by the error that each column's counts for, [D].

    What `machete.quantize` finds is one of the candidates; others lie around it.
    """
    codes = _CODES[weight_type]
    plain = quantize(values, weight_type, -1, dtype=dtype)
    scale = plain.scales[0].to(values.device, torch.float32)  # [N]
    zero = torch.full_like(scale, codes.zero or 0)
    if plain.zero_points is not None:
        zero = plain.zero_points[0].to(values.device, torch.float32)
    mirrored, moved = ((1, -1), (0,)) if plain.zero_points is None else ((1,), (0, -1, 1))
    best, least = (scale, zero), torch.full_like(scale, torch.inf)
    for sign, move in product(mirrored, moved):
        shifted = (zero + move).clamp_(codes.lowest, codes.highest)
        for factor in _FACTORS:
            tried = (scale * (sign * factor)).to(dtype).float()
            q = (values * _reciprocal(tried)[:, None] + shifted[:, None]).round_().clamp_(codes.lowest, codes.highest)
            error = q.sub_(shifted[:, None]).mul_(tried[:, None]).sub_(values).square_() @ weights
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, tried, best[0]), torch.where(better, shifted, best[1])
    return best


def _reciprocal(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def _in_order(diagonal: Tensor, depth: int) -> list[tuple[int, Tensor]]:
    """The groups and their columns, the weightiest group first and in it the weightiest column.

    What is rounded early has its error made good in what follows. Columns keep their groups, so that no order of K has
    to be kept with the weight.
    """
    groups = [
        columns[diagonal[columns].argsort(descending=True, stable=True)]
        for columns in torch.arange(len(diagonal), device=diagonal.device).split(depth)
    ]
    heaviest = torch.stack([diagonal[columns[0]] for columns in groups])
    return [(at, groups[at]) for at in heaviest.argsort(descending=True, stable=True).tolist()]


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of H⁻¹ [K, K], H damped; inputs that were always zero are on their own."""
    h = moments.clone()
    diagonal = h.diagonal()
    mean = diagonal.mean()
    diagonal[diagonal == 0] = mean
    diagonal += damping * mean
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        return torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError:
        raise ValueError(
            f"the moments with damping={damping} are not positive definite; take more damping, say {10 * damping:g}, "
            "or more inputs"
        ) from None


def _packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 [N, K] to [N, ceil(K * bits / 8)], the even k in the low half."""
    if bits == 8:
        return codes
    codes = nn.functional.pad(codes & 15, (0, codes.shape[1] % 2))
    return codes[:, 0::2] | codes[:, 1::2] << 4
