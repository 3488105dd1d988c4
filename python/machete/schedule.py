"""What could run, and what will: the planner's view."""

from dataclasses import dataclass

import torch
import tvm_ffi

from machete._native import name_of, native


@dataclass(frozen=True)
class Schedule:
    """One way to run a linear, as the planner sees it."""

    name: str  # as the option `schedule` of `linear` takes it
    estimate_us: float  # by the cost model; 0 on the CPU
    workspace_size: int  # bytes
    reason: str  # what bounds it


def list_schedules(
    m: int,
    n: int,
    k: int,
    *,
    weight_type: str = "u4b8",
    group_size: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    overlap: bool = False,
    batch_invariant: bool = False,
    swiglu: bool = False,
    activations: str | None = None,
    fast_accumulation: bool = False,
) -> list[Schedule]:
    """Every schedule that serves M tokens, N output and K input features; the one that `linear` chooses comes first.

    `dtype`: of activations and output. `activations`: what those are quantised to, "e4m3" or "s8".
    """
    where = torch.device(device)
    choices = native.list_schedules(
        m,
        tvm_ffi.device(where.type, where.index or 0),
        n,
        k,
        weight_type,
        name_of("dtype", dtype),
        group_size,
        overlap,
        batch_invariant,
        swiglu,
        activations or "",
        fast_accumulation,
    )
    return [Schedule(str(name), estimate, size, str(reason)) for name, estimate, size, reason in choices]
