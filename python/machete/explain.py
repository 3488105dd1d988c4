"""Which schedule runs a layer, and why."""

from dataclasses import dataclass

import torch

from machete._native import NAMES
from machete.linear import Linear
from machete.schedule import Schedule, list_schedules
from machete.tokens import activations_of
from machete.weight import PackedWeight


@dataclass(frozen=True)
class Explanation:
    """What the planner found for a weight and M tokens; print it."""

    m: int
    weight: PackedWeight
    activations: str  # of its products: "bf16", "f16"; "e4m3", "s8"
    schedules: tuple[Schedule, ...]  # that could run, best first

    @property
    def chosen(self) -> Schedule:
        return self.schedules[0]

    def __str__(self) -> str:
        w = self.weight
        groups = "one scale a row" if w.group_size < 0 else f"groups of {w.group_size}"
        lines = [
            f"M={self.m}, N={w.n}, K={w.k}: {w.weight_type} in {groups}, activations of {self.activations}"
            f"{', outputs of ' + NAMES[w.dtype] if w.activation_bits == 8 else ''}"
            f"{', swiglu' if w.swiglu else ''}, on {w.device}"
        ]
        width = max(len(schedule.name) for schedule in self.schedules)
        for schedule in self.schedules:
            mark = "->" if schedule is self.chosen else "  "
            estimate = f"{schedule.estimate_us:9.2f} us  " if schedule.estimate_us > 0 else ""
            lines.append(f"{mark} {schedule.name:{width}}  {estimate}{schedule.reason}")
        return "\n".join(lines)


def explain(
    layer: Linear | PackedWeight,
    m: int,
    *,
    overlap: bool = False,
    batch_invariant: bool = False,
    activations: str | None = None,
    fast_accumulation: bool = False,
) -> Explanation:
    """Which schedule runs `layer` for `m` tokens, what the planner expects of it and the others, and what bounds them.

    The options are those of `linear`; a layer has its own `activations`. ValueError: m < 0, no layer of ours;
    NotImplementedError: nothing in this build or on this device serves it.
    """
    if not isinstance(layer, Linear | PackedWeight):
        raise ValueError(f"layer is a {type(layer).__name__}; it must be a machete.Linear or PackedWeight")
    weight = layer if isinstance(layer, PackedWeight) else layer.packed()
    if isinstance(layer, Linear) and activations is None:
        activations = layer.activations
    codes = activations_of(weight.weight_type, weight.activation_bits, activations) or None
    device = torch.device("cpu") if weight.device.type == "meta" else weight.device
    schedules = list_schedules(
        m,
        weight.n,
        weight.k,
        weight_type=weight.weight_type,
        group_size=weight.group_size,
        dtype=weight.dtype,
        device=device,
        overlap=overlap,
        batch_invariant=batch_invariant,
        swiglu=weight.swiglu,
        activations=codes,
        fast_accumulation=fast_accumulation,
    )
    if not schedules:
        raise NotImplementedError(
            f"nothing serves M={m}, N={weight.n}, K={weight.k} on {device} with these options; leave batch_invariant "
            "out, or split M"
        )
    return Explanation(m, weight, codes or NAMES[weight.dtype], tuple(schedules))
