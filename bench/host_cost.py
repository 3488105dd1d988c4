#!/usr/bin/env python3
"""What a call costs the host: each layer of one 16x16 linear, from the Python module down to the library's own call.

usage: host_cost.py [--device DEVICE] [--json FILE]      (PYTHONPATH=build/cpu/python, or the installed package)

Calls take turns in short batches, and of each the fastest and the median batch are given, so that what else the machine
does falls on all alike. On the CPU a call with 16 tokens computes as well; one without tokens does all but that. On a
GPU work is queued and not waited for; what queueing alone takes is that of a kernel which does nothing.
`machete bench --host-cost` measures plan and run of C++.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

import machete
from machete._native import native

SIZE = 16
BATCH, BATCHES = 200, 200


def cases(device: torch.device) -> dict[str, Callable[[], object]]:
    weight = machete.prepack(machete.quantize(torch.randn(SIZE, SIZE), group_size=SIZE), device=device)
    layer = machete.Linear.from_packed(weight)
    biased = machete.Linear.from_packed(weight, torch.zeros(SIZE))
    biased.requires_grad_(False)
    narrow = machete.prepack(machete.quantize(torch.randn(SIZE, SIZE), group_size=-1), device=device, activation_bits=8)
    quantising = machete.Linear.from_packed(narrow, activations="s8")
    x = torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=device)
    out, none = torch.empty_like(x), x[:0]
    types = ("u4b8", "bf16", SIZE)
    options = ("", False, False, False, "", False, "")
    op, plans = torch.ops.machete.linear, native.plans_of(SIZE, SIZE, *types, *options)
    call, empty = weight._product.call, getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}")
    idle = torch.nn.Identity()
    calls = {
        "Linear(x)": lambda: layer(x),
        "Linear(x), a bias": lambda: biased(x),
        "Linear of no tokens": lambda: layer(none),
        "Linear(x), activations to s8": lambda: quantising(x),
        "linear(x, weight)": lambda: machete.linear(x, weight),
        "linear(x, weight, out=out)": lambda: machete.linear(x, weight, out=out),
        "linear of no tokens": lambda: machete.linear(none, weight),
        "torch.ops.machete.linear": lambda: op(x, weight.data, SIZE, SIZE, *types),
        "torch.ops.machete.linear of no tokens": lambda: op(none, weight.data, SIZE, SIZE, *types),
        "the short way": lambda: call(x, weight.data),
        "the short way, out given": lambda: call(x, weight.data, out),
        "the short way, out given, of no tokens": lambda: call(none, weight.data, none),
        "the library by tvm-ffi": lambda: native.linear(plans, x, weight.data, out, None, None, None),
        "... of which: the output's allocation": lambda: empty((SIZE, SIZE), (SIZE, 1), torch.bfloat16),
        "... of which: the module's call": lambda: idle(x),
    }
    if device.type == "cuda":
        calls["... of which: a kernel's launch"] = lambda: torch._C._cuda_sleep(0)
    return calls | {"torch.nn.functional.linear": lambda: torch.nn.functional.linear(x, x)}


def measure(calls: dict[str, Callable[[], object]], device: torch.device) -> dict[str, dict[str, float]]:
    """Microseconds a call: fastest and median batch."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BATCHES):
        for name, call in calls.items():
            for _ in range(5):
                call()
            start = time.perf_counter()
            for _ in range(BATCH):
                call()
            samples[name].append((time.perf_counter() - start) / BATCH * 1e6)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    return {name: {"fastest_us": min(times), "median_us": statistics.median(times)} for name, times in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        results = measure(cases(arguments.device), arguments.device)
    print(f"{'us a call':40} fastest  median")
    for name, times in results.items():
        print(f"{name:40} {times['fastest_us']:7.2f} {times['median_us']:7.2f}")
    if arguments.json:
        machine = {"device": str(arguments.device), "torch": torch.__version__, "machete": machete.__version__}
        with open(arguments.json, "w") as file:
            json.dump({**machine, "size": SIZE, "calls": results}, file, indent=2)


if __name__ == "__main__":
    main()
