"""Whole models: replacing their linear layers by quantised ones."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from machete._native import name_of, native
from machete.fuse import fuse_model
from machete.linear import Linear
from machete.tokens import activations_of, bits_of
from machete.weight import PackedWeight, QuantizedWeight, prepack


def is_skipped(name: str, skip: Sequence[str]) -> bool:
    """Whether a layer is named: by its full dotted name, the end of it from a dot on, or a glob of the full name."""
    return any(name == entry or name.endswith("." + entry) or fnmatchcase(name, entry) for entry in skip)


def default_skip(model: nn.Module) -> list[str]:
    """The layer that makes logits of hidden states: most sensitive, and often tied to the embedding."""
    output: Any = getattr(model, "get_output_embeddings", None)
    if output is not None:
        head = output()
        return [name for name, module in model.named_modules() if module is head]
    return ["lm_head"]


def tied_layers(model: nn.Module) -> set[str]:
    """Linear layers whose weight is another module's parameter too: quantising them would copy, not save."""
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(id(module))
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and len(users[id(module.weight)]) > 1
    }


def layers_to_quantize(model: nn.Module, skip: Sequence[str] | None) -> dict[str, nn.Linear]:
    """The linear layers that are neither skipped nor tied, by name. A layer's subclasses may compute something else."""
    skip = default_skip(model) if skip is None else skip
    tied = tied_layers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not is_skipped(name, skip) and name not in tied
    }


def _places(model: nn.Module, layer: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Where a layer hangs: usually one parent, more if the model uses it twice."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is layer:
                yield parent, name


def quantize_model(
    model: nn.Module,
    weight: str = "u4b8",
    group_size: int = 128,
    skip: Sequence[str] | None = None,
    *,
    weights: Mapping[str, QuantizedWeight] | None = None,
    round_scales: bool = False,
    search: bool = True,
    fuse: bool = False,
    progress: bool = False,
    activations: str | None = None,
) -> nn.Module:
    """Replaces the linear layers of a model by `machete.Linear`, in place, and returns the model.

    Layers run with the dtype they have, bfloat16 or float16, on the device they lie on. `skip` names layers that stay:
    full dotted names, ends of them, or globs; by default the output layer (`lm_head`). Layers that share their weight
    with another module stay too. `weights`: what layers of these names take instead of being rounded to nearest, say
    from `machete.calibrate`; scales among them that the layer's dtype cannot hold are refused, or with `round_scales`
    rounded. `fuse` fuses projections afterwards (`fuse_model`). `activations`, "e4m3" or "s8", is what the layers
    quantise their inputs to, token by token; by default those stay of 16 bits. One layer after another is quantised,
    and its float weight let go before the next. What can fail (dtypes, sizes, NaN and Inf, `weights` that cannot be
    packed) does so before any layer changes: ValueError, NotImplementedError.
    """
    weights = weights or {}
    bits = bits_of(activations)
    layers = layers_to_quantize(model, skip)
    if not layers:
        raise ValueError("the model has no linear layer to quantise that is neither skipped nor tied; see skip=")
    for name in weights:
        if name not in layers:
            raise ValueError(f"weights has '{name}', which is none of the layers to quantise; see skip=")
    packed: dict[str, PackedWeight] = {}  # of `weights`; in CPU memory
    for name, layer in layers.items():
        dtype = layer.weight.dtype
        sizes = (layer.out_features, layer.in_features)
        try:
            if name in weights and (weights[name].n, weights[name].k) != sizes:
                raise ValueError(f"its weight of {weights[name].n} x {weights[name].k} must be {sizes[0]} x {sizes[1]}")
            kind, depth = weight, group_size
            if name in weights:
                kind, depth = weights[name].weight_type, weights[name].group_size
            native.packed_bytes(*sizes, kind, name_of("dtype", dtype), depth, False, bits)
            activations_of(kind, bits, activations)
        except (ValueError, NotImplementedError) as error:
            raise type(error)(f"{name}: {error}") from None
        if layer.weight.is_meta:
            raise ValueError(f"{name}: its weight is on the meta device; load the model first")
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"{name}: its weight holds NaN or Inf; repair the checkpoint")
    for name, given in weights.items():
        try:
            dtype = layers[name].weight.dtype
            packed[name] = prepack(given, dtype=dtype, device="cpu", round_scales=round_scales, activation_bits=bits)
        except (ValueError, NotImplementedError) as error:
            raise type(error)(f"{name}: {error}") from None

    names = list(layers)
    for name in tqdm(names, desc=f"Quantising to {weight}", unit="layer", disable=not progress):
        layer = layers.pop(name)
        if name in weights:
            quantized = Linear.from_packed(packed.pop(name).to(layer.weight.device), layer.bias, activations)
        else:
            how: Any = {"weight": weight, "group_size": group_size, "search": search, "activations": activations}
            quantized = Linear.from_float(layer, **how)
        quantized.train(layer.training)
        for parent, child in list(_places(model, layer)):
            setattr(parent, child, quantized)
        del layer

    # Models of transformers carry a description that save_pretrained writes; only where that is imported can one be.
    if "transformers" in sys.modules:
        from machete.transformers import describe

        describe(model, weight=weight, group_size=group_size, skip=skip, activations=activations)
    return fuse_model(model) if fuse else model
