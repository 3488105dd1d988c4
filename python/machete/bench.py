"""Linears on a GPU, timed as torch calls them: beside cuBLAS, and beside reading alone."""

import datetime
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from machete._native import NAMES, native
from machete.linear import linear
from machete.schedule import list_schedules
from machete.weight import HEADER_BYTES, PackedWeight, prepack, quantize

SUITES = {  # N, K
    "llama8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)},
    "llama70b": {"qkv": (10240, 8192), "o": (8192, 8192), "gate_up": (57344, 8192), "down": (8192, 28672)},
}
TOKENS = tuple(2**i for i in range(14))
GRAPH_US = 4000.0  # of launches in one graph, so that its own start does not show
REPLAYS_US = 40000.0
FEWEST_REPLAYS = 5
CHECKED = 64  # rows of the output, at most
WRONG = 0.02  # relative error; rounding of bf16 costs 0.002, a group left out 0.1 and more

Call = Callable[[int], object]  # with its number, by which it takes its weight


def bench(
    shapes: str | Mapping[str, tuple[int, int]] = "llama8b",
    ms: Sequence[int] = TOKENS,
    *,
    dtypes: Sequence[torch.dtype] = (torch.bfloat16, torch.float16),
    weight_type: str = "u4b8",
    group_size: int = 128,
    overlap: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Times linears of M tokens on the current GPU: what `machete bench --json` of C++ records, with the same fields.

    `shapes` is a suite (llama8b, llama70b), or (N, K) by names of your own; with more than one there is also the chain
    of all in turn. CUDA graphs of launches back to back, weights rotated past L2, Machete and cuBLAS (torch.mm) in
    turn, median replays; every result is checked first. NotImplementedError: there is no GPU, or no kernel for this;
    ValueError: sizes that break a rule; RuntimeError: a result is wrong.
    """
    if isinstance(shapes, str) and shapes not in SUITES:
        raise ValueError(f"suite {shapes} is none of {', '.join(SUITES)}")
    if not shapes or min(ms, default=0) < 1:
        raise ValueError("there must be shapes, and numbers of tokens of at least 1")
    if not torch.cuda.is_available():
        raise NotImplementedError("torch sees no CUDA device here, and bench times CUDA kernels; run it on a GPU")
    suite = shapes if isinstance(shapes, str) else "shapes"
    sizes = SUITES[shapes] if isinstance(shapes, str) else dict(shapes)
    rate = _read_rate()
    rows: list[dict[str, Any]] = []
    chains: list[dict[str, Any]] = []
    with torch.inference_mode(), tqdm(total=len(dtypes) * len(ms) * len(sizes), disable=not progress) as bar:
        for dtype in dtypes:
            what = {"suite": suite, "a_type": NAMES.get(dtype, str(dtype)), "w_type": weight_type}
            linears = {name: _Linear(n, k, weight_type, group_size, dtype, overlap) for name, (n, k) in sizes.items()}
            for m in ms:
                for name, each in linears.items():
                    each.take(m)
                    error = each.error()
                    if not error < WRONG:
                        raise RuntimeError(f"{name} of {m} tokens in {dtype} is wrong: a relative error of {error:.2g}")
                    us, cublas_us = _in_turn(each.ours, each.cublas)
                    flops = 2 * m * each.n * each.k
                    rows.append(
                        {**what, "name": name, "m": m, "n": each.n, "k": each.k, "group_size": group_size}
                        | {"schedule": each.schedule(), "us": us, "cublas_us": cublas_us}
                        | {"read_floor_us": each.bytes() / rate / 1e6, "tflops": flops / us / 1e6}
                        | {"gb_s": each.bytes() / us / 1e3, "rel_error": error}
                    )
                    bar.update()
                if len(linears) > 1:
                    calls = [(each.ours, each.cublas) for each in linears.values()]
                    us, cublas_us = _in_turn(_chain([ours for ours, _ in calls]), _chain([other for _, other in calls]))
                    floor = sum(each.bytes() for each in linears.values()) / rate / 1e6
                    chains.append({**what, "m": m, "us": us, "cublas_us": cublas_us, "read_floor_us": floor})
    return {
        "machine": _machine(),
        "commit": "",
        "machete": native.version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "read_tb_s": rate,
        "overlap": overlap,
        "epilogue": "none",
        "rows": rows,
        "chains": chains,
    }


class _Linear:
    """One linear of ours and of torch's, with as many copies of its weights as it takes to leave L2 behind."""

    def __init__(self, n: int, k: int, weight_type: str, group_size: int, dtype: torch.dtype, overlap: bool) -> None:
        self.n, self.k, self._overlap = n, k, overlap
        values = torch.randn(n, k, dtype=dtype) / math.sqrt(k)
        packed = prepack(quantize(values, weight_type, group_size, dtype=dtype, search=False), device="cuda")
        dense = packed.dequantize()
        self._packed = [PackedWeight.from_tensor(data) for data in _copies(packed.data)]
        self._dense = _copies(dense)

    def take(self, m: int) -> None:
        """Activations and outputs, which in a model lie in L2: two of each, in turn."""
        dtype = self._dense[0].dtype
        self._x = [torch.randn(m, self.k, dtype=dtype, device="cuda") for _ in range(2)]
        self._out = [torch.full((m, self.n), math.nan, dtype=dtype, device="cuda") for _ in range(2)]

    def ours(self, i: int) -> None:
        linear(self._x[i % 2], self._packed[i % len(self._packed)], out=self._out[i % 2], overlap=self._overlap)

    def cublas(self, i: int) -> None:
        torch.mm(self._x[i % 2], self._dense[i % len(self._dense)].T, out=self._out[i % 2])

    def error(self) -> float:
        """||D - reference|| / ||reference|| in fp64, over rows spread evenly, both ends among them."""
        self.ours(0)
        m = self._x[0].shape[0]
        at = torch.linspace(0, m - 1, min(m, CHECKED), device="cuda").round().long()
        x, exact = self._x[0][at].double(), []
        for rows in self._dense[0].split(4096):
            exact.append(x @ rows.double().T)
        reference = torch.cat(exact, dim=1)
        return ((self._out[0][at].double() - reference).norm() / reference.norm()).item()

    def bytes(self) -> int:
        """That must move at least once."""
        return self._packed[0].data.numel() - HEADER_BYTES + 2 * self._x[0].numel() + 2 * self._out[0].numel()

    def schedule(self) -> str:
        packed = self._packed[0]
        return list_schedules(
            self._x[0].shape[0],
            self.n,
            self.k,
            weight_type=packed.weight_type,
            group_size=packed.group_size,
            dtype=packed.dtype,
            device=packed.device,
            overlap=self._overlap,
        )[0].name


def _copies(weight: Tensor) -> list[Tensor]:
    """Of a weight, together more than four times L2; at least two."""
    l2 = torch.cuda.get_device_properties().L2_cache_size
    count = max(2, math.ceil(4 * l2 / (weight.numel() * weight.element_size())))
    return [weight] + [weight.clone() for _ in range(count - 1)]


def _chain(calls: Sequence[Call]) -> Call:
    def run(i: int) -> None:
        for call in calls:
            call(i)

    return run


class _Graph:
    """Calls back to back, as many as take a while."""

    def __init__(self, call: Call) -> None:
        self._record(call, 20)
        self.replay()
        us = min(self.replay() for _ in range(3)) / 20
        self.count = max(20, math.ceil(GRAPH_US / us))
        self._record(call, self.count)
        self.replay()

    def _record(self, call: Call, count: int) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for i in range(count):
                call(i)

    def replay(self) -> float:
        """Microseconds."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3


def _in_turn(*calls: Call) -> list[float]:
    """Microseconds a call: medians of replays in turn, so that all meet the same clocks."""
    for call in calls:
        call(0)  # whatever is made at first use is made before a graph is recorded
    graphs = [_Graph(call) for call in calls]
    samples: list[list[float]] = [[] for _ in graphs]
    while len(samples[-1]) < FEWEST_REPLAYS or sum(samples[-1]) < REPLAYS_US:
        for graph, taken in zip(graphs, samples, strict=True):
            taken.append(graph.replay())
    return [statistics.median(taken) / graph.count for graph, taken in zip(graphs, samples, strict=True)]


def _read_rate() -> float:
    """TB/s of the read-only stream of `machete bench`, the best of a few: clocks settle meanwhile."""
    free, _ = torch.cuda.mem_get_info()
    memory = torch.empty(min(2**32, free // 4), dtype=torch.uint8, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):  # it records graphs, which the default stream does not allow
        return max(native.read_rate(memory) for _ in range(3))


def _machine() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties()
    version = Path("/sys/module/nvidia/version")
    driver = version.read_text().strip() if version.is_file() else "unknown"
    return {
        "gpu": properties.name,
        "sms": properties.multi_processor_count,
        "driver": driver,
        "cuda": torch.version.cuda,
    }
