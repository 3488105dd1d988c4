"""Machete: linear layers with quantised weights, for NVIDIA Hopper and any CPU."""

from machete import _hook
from machete._native import native
from machete.bench import bench
from machete.calibrate import calibrate, quantize_calibrated
from machete.explain import Explanation, explain
from machete.fuse import fuse_model
from machete.linear import Linear, linear
from machete.model import quantize_model
from machete.schedule import Schedule, list_schedules
from machete.tokens import quantize_tokens
from machete.weight import PackedWeight, QuantizedWeight, prepack, quantize

__all__ = [
    "Config",
    "Explanation",
    "Linear",
    "PackedWeight",
    "QuantizedWeight",
    "Schedule",
    "bench",
    "calibrate",
    "explain",
    "fuse_model",
    "linear",
    "list_schedules",
    "prepack",
    "quantize",
    "quantize_calibrated",
    "quantize_model",
    "quantize_tokens",
]
__version__: str = native.version()

_hook.install()


def __getattr__(name: str) -> object:
    if name == "Config":  # needs transformers, which the rest does not
        from machete.transformers import Config

        return Config
    raise AttributeError(f"module 'machete' has no attribute '{name}'")
