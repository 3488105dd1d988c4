"""Fused projections for Llama-like models: one product for queries, keys and values, one for gate and up.

The modules keep their names and classes' code. An attention gets a linear `qkv_proj` for its three; its own forward
runs as before, and finds the products ready where it would compute them. A gated MLP gets `gate_up_proj`, whose
epilogue is SwiGLU.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from machete.linear import Linear
from machete.tokens import bits_of
from machete.weight import QuantizedWeight, prepack

_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")


def fuse_model(model: nn.Module) -> nn.Module:
    """Fuses what can be in a quantised model, in place, and returns it.

    Attention modules with q_proj, k_proj and v_proj, and MLPs that compute down_proj(silu(gate_proj(x)) * up_proj(x)),
    if those are `machete.Linear`s of one weight type, group size, dtype, device and activations. Others stay as they
    are. The codes do not change; results differ from the unfused model's by the order of roundings in SwiGLU alone.
    """
    for module in list(model.modules()):
        if _has(module, _QKV) and hasattr(module, "o_proj"):
            layers = [getattr(module, name) for name in _QKV]
            weight = _concatenate(layers)
            if weight is not None:
                _fuse_qkv(module, _join(layers, weight, swiglu=False))
        elif _has(module, _GATE_UP) and _is_gated_mlp(_class_of(module)) and _is_silu(getattr(module, "act_fn", None)):
            layers = [getattr(module, name) for name in _GATE_UP]
            weight = _concatenate(layers)
            if weight is not None:
                _fuse_gate_up(module, _join(layers, weight, swiglu=True))
    return model


def fuse_empty(model: nn.Module, tensor_names: Iterable[str]) -> None:
    """Gives a model whose layers have no weights yet the shape of the fused model that wrote these tensors."""
    for name in tensor_names:
        path, _, _ = name.removesuffix(".packed_weight").rpartition(".")
        for suffix, parts, fuse in ((".qkv_proj", _QKV, _fuse_qkv), (".gate_up_proj", _GATE_UP, _fuse_gate_up)):
            if not name.endswith(f"{suffix}.packed_weight"):
                continue
            module = model.get_submodule(path)
            if _has(module, parts):
                layers = [getattr(module, part) for part in parts]
                fuse(module, _empty(layers, swiglu=parts is _GATE_UP))


def _class_of(module: nn.Module) -> Any:
    return type(module)  # a key of caches, which typing thinks nn.Module's is not


def _has(module: nn.Module, names: Sequence[str]) -> bool:
    return all(isinstance(getattr(module, name, None), Linear) for name in names)


def _concatenate(layers: Sequence[Linear]) -> QuantizedWeight | None:
    """Their weights, one below the other; None where they are not of one kind."""
    first = layers[0]
    for layer in layers[1:]:
        same = ("weight_type", "group_size", "dtype", "in_features", "swiglu", "activations")
        if any(getattr(layer, name) != getattr(first, name) for name in same):
            return None
        if layer.packed_weight.device != first.packed_weight.device or (layer.bias is None) != (first.bias is None):
            return None
    weights = [layer.packed().unpack() for layer in layers]
    zero_points, g_idx = weights[0].zero_points, weights[0].g_idx
    for weight in weights[1:]:
        if not _equal(weight.g_idx, g_idx) or _dtype(weight.zero_points) != _dtype(zero_points):
            return None
    zeros = [weight.zero_points for weight in weights if weight.zero_points is not None]
    return QuantizedWeight(
        torch.cat([weight.qweight for weight in weights]),
        torch.cat([weight.scales for weight in weights], dim=1),
        torch.cat(zeros, dim=1) if zeros else None,
        weights[0].weight_type,
        weights[0].k,
        weights[0].group_size,
        g_idx,
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _dtype(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype


def _join(layers: Sequence[Linear], weight: QuantizedWeight, swiglu: bool) -> Linear:
    first = layers[0]
    bits = bits_of(first.activations)
    packed = prepack(weight, device=first.packed_weight.device, swiglu=swiglu, activation_bits=bits)
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    return Linear.from_packed(packed, torch.cat(biases) if biases else None, first.activations)


def _empty(layers: Sequence[Linear], swiglu: bool) -> Linear:
    first = layers[0]
    return Linear(
        first.in_features,
        sum(layer.out_features for layer in layers) // (2 if swiglu else 1),
        first.bias is not None,
        weight=first.weight_type,
        group_size=first.group_size,
        dtype=first.dtype,
        device="meta",
        swiglu=swiglu,
        activations=first.activations,
    )


def _fuse_qkv(module: Any, joined: Linear) -> None:
    module.qkv_sizes = [getattr(module, name).out_features for name in _QKV]
    _replace(module, _QKV, "qkv_proj", joined, _attention_class(_class_of(module)))


def _fuse_gate_up(module: nn.Module, joined: Linear) -> None:
    _replace(module, _GATE_UP, "gate_up_proj", joined, _mlp_class(_class_of(module)))


def _replace(module: nn.Module, parts: Sequence[str], name: str, joined: Linear, fused: type[nn.Module]) -> None:
    joined.train(module.training)
    for part in parts:
        delattr(module, part)
    setattr(module, name, joined)
    module.__class__ = fused


class _Fused:
    """What the fused classes share: the class they were made of, by which they are pickled and copied."""

    base: type[nn.Module]
    make: Callable[[type[nn.Module]], type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (type(self).make, type(self).base), self.__dict__


def _rebuild(make: Callable[[type[nn.Module]], type[nn.Module]], base: type[nn.Module]) -> nn.Module:
    fused = make(base)
    return fused.__new__(fused)


class _Ready:
    """An attention module whose projections of one x are computed already."""

    def __init__(self, module: Any, x: Tensor) -> None:
        parts = module.qkv_proj(x).split(module.qkv_sizes, dim=-1)
        self._module = module
        self.q_proj, self.k_proj, self.v_proj = (self._projection(x, parts, i) for i in range(3))

    def _projection(self, x: Tensor, parts: Sequence[Tensor], i: int) -> Callable[[Tensor], Tensor]:
        def project(y: Tensor) -> Tensor:
            if y is x:
                return parts[i]
            return self._module.qkv_proj(y).split(self._module.qkv_sizes, dim=-1)[i]

        return project

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@cache
def _attention_class(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return base.forward(_Ready(self, hidden_states), hidden_states, *args, **kwargs)

    return _subclass(base, _attention_class, forward)


@cache
def _mlp_class(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x: Tensor) -> Any:
        return self.down_proj(self.gate_up_proj(x))

    return _subclass(base, _mlp_class, forward)


def _subclass(base: type[nn.Module], make: Any, forward: Any) -> type[nn.Module]:
    body = {"base": base, "make": staticmethod(make), "forward": forward, "__module__": __name__}
    return type(f"Fused{base.__name__}", (_Fused, base), body)


def _is_silu(activation: Any) -> bool:
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    try:
        return torch.equal(activation(x), nn.functional.silu(x))
    except (TypeError, RuntimeError):
        return False


@cache
def _is_gated_mlp(cls: type[nn.Module]) -> bool:
    """Whether its forward is down(act(gate(x)) * up(x)), by trying it with functions that tell where each one went."""

    class Probe:
        gate_proj = staticmethod(lambda x: 2 * x)
        up_proj = staticmethod(lambda x: 3 * x + 1)
        act_fn = staticmethod(torch.sin)
        down_proj = staticmethod(lambda x: 5 * x - 1)

    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    try:
        found = cls.forward(Probe(), x)
    except Exception:  # any other forward, for whatever reason
        return False
    return isinstance(found, Tensor) and torch.allclose(found, 5 * (torch.sin(2 * x) * (3 * x + 1)) - 1, rtol=1e-12)
