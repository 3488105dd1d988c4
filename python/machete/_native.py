"""The shared library behind the package, and the names of its types in torch."""

import ctypes
from pathlib import Path
from typing import Any

import torch
import tvm_ffi

for _error in (NotImplementedError, OSError):
    tvm_ffi.error.register_error(_error)


_path = Path(__file__).with_name("libmachete_python.so")
if not _path.is_file():
    raise ImportError(f"machete: there is no {_path}; install the package (pip install .), or see python/README.md")
native: Any = tvm_ffi.load_module(str(_path))

# The one function that takes and returns objects of Python: (plans, dtype, what it asks of torch) -> function.
call_of: Any = ctypes.PyDLL(str(_path)).machete_call_of
call_of.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
call_of.restype = ctypes.py_object

# The library's names of the types that activations, scales and outputs have,
NAMES = {torch.bfloat16: "bf16", torch.float16: "f16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
# of those that activations are quantised to,
CODES = {torch.int8: "s8", torch.float8_e4m3fn: "e4m3"}
CODE_DTYPES = {name: dtype for dtype, name in CODES.items()}
# that outputs may have,
OUTPUTS = DTYPES | {"f32": torch.float32, "e4m3": torch.float8_e4m3fn}
# and pairs of a weight type and such activations that it meets.
MEETS = [(str(weight_type), str(activations)) for weight_type, activations in native.activations()]


def name_of(what: str, dtype: torch.dtype) -> str:
    """The library's name of an activation type."""
    if dtype in NAMES:
        return NAMES[dtype]
    raise ValueError(f"{what}={dtype} must be torch.bfloat16 or torch.float16; convert the model or tensor")
