"""Whether anyone watches a call: then it has to go through torch's dispatcher."""

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

dispatch_modes = torch._C._len_torch_dispatch_stack
function_modes = torch._C._len_torch_function_stack
traces = torch._C._is_tracing
_transforms = torch._C._functorch.peek_interpreter_stack


def is_unwatched(x: Tensor, packed: Tensor) -> bool:
    """Whether neither gradients nor tracing, modes, transforms or a profiler have to know of what happens to x."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and type(packed) is Tensor
        and _is_itself(x)
        and not dispatch_modes()
        and not function_modes()
        and _transforms() is None
        and not traces()
        and forward_ad._current_level < 0
        and not profiler._is_profiler_enabled
    )


def is_unwatched_bias(bias: Tensor) -> bool:
    """The same of a bias beside an x of which that is known."""
    return type(bias) in (Tensor, torch.nn.Parameter) and _is_itself(bias)


def _is_itself(tensor: Tensor) -> bool:
    return not tensor.is_meta and not tensor.is_neg() and not (tensor.requires_grad and torch.is_grad_enabled())
