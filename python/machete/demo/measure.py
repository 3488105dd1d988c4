"""What the demo measures of a model: what it says, how fast, and the memory it takes."""

import ctypes
import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import machete
from machete.demo.perplexity import perplexity

PROMPTS = ("The capital of France is", "Water boils when", "It is a truth universally acknowledged, that")
ANSWER = "Paris"  # what every model must say to the first
NEW_TOKENS = 24


@dataclass
class Row:
    """What was measured of a way."""

    name: str
    bytes: int  # of the linear layers' weights
    perplexity: float
    tokens_per_second: float
    memory: int | None  # bytes while running, the model's own included; None: the system does not tell
    continuations: list[str]

    def loss(self, reference: "Row") -> float:
        return self.perplexity / reference.perplexity - 1

    def is_sensible(self) -> bool:
        return math.isfinite(self.perplexity) and ANSWER in self.continuations[0]


class Memory:
    """The most that is held between `running` and `most`, beyond what was held when this was made."""

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        gc.collect()
        if not self._cuda:
            _give_back()
        self._before = torch.cuda.memory_allocated() if self._cuda else _status("VmRSS")

    def running(self) -> None:
        """What loading took is past."""
        gc.collect()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
        except OSError:
            self._before = None

    def most(self) -> int | None:
        peak = torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM")
        return None if peak is None or self._before is None else peak - self._before


def _status(name: str) -> int | None:
    """A line of what Linux says of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), None)


def _give_back() -> None:
    """What malloc keeps of freed memory, where it can be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def measured(
    name: str, model: Any, tokenizer: Any, batches: list[Tensor], head: Tensor, device: str, memory: Memory
) -> Row:
    memory.running()
    continuations, speed = _continue(model, tokenizer, device)
    lost = perplexity(model, batches, head)
    return Row(name, weight_bytes(model), lost, speed, memory.most(), continuations)


def _continue(model: Any, tokenizer: Any, device: str) -> tuple[list[str], float]:
    """What the model goes on with after each prompt, greedily, and the tokens a second after the first token."""

    def generate(prompt: Any, count: int) -> tuple[Tensor, float]:
        if device != "cpu":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        ids = model.generate(**prompt, min_new_tokens=count, max_new_tokens=count, do_sample=False)
        if device != "cpu":
            torch.cuda.synchronize()
        return ids, time.perf_counter() - begin

    texts, tokens, seconds = [], 0, 0.0
    for at, text in enumerate(PROMPTS):
        prompt = tokenizer(text, return_tensors="pt").to(device)
        if at == 0:
            generate(prompt, 1)  # what is made on the first call
        _, first = generate(prompt, 1)
        ids, total = generate(prompt, NEW_TOKENS)
        texts.append(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
        tokens += NEW_TOKENS - 1
        seconds += total - first
    return texts, tokens / max(seconds, 1e-9)


def weight_bytes(model: nn.Module) -> int:
    """Of the decoder layers' linear layers, as they lie in memory."""
    decoder: Any = model
    layers = list(decoder.model.layers.modules())
    plain = sum(m.weight.numel() * m.weight.element_size() for m in layers if isinstance(m, nn.Linear))
    return plain + sum(m.packed_weight.numel() for m in layers if isinstance(m, machete.Linear))
