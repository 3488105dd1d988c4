#!/usr/bin/env python3
"""A language model from end to end: tokens a second with Machete's linears, and with torch's bf16 ones.

usage: e2e.py [--batch 1,16,64] [--tiny] [--json FILE]      (PYTHONPATH=build/cuda/python, or the installed package)

The model has the shape of Llama-3.1-8B and random weights, made in place; its 32 x 7 linears are quantised to u4b8 in
groups of 128, queries, keys and values fused, gate and up with SwiGLU. The rest, lm_head and embedding among it, is the
same for both. Decoding is one CUDA graph of a step that torch.compile has made, with a static cache, replayed in turn
for the two behind a prompt of 128 tokens; prefill is one eager call. Attention is torch's, given the queries that share
a key as rows of one problem: transformers would copy keys and values four times, longer than the linears take.
Without a GPU only --tiny makes sense, which shows that the script runs.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.masking_utils import sdpa_mask

import machete
from machete.fuse import fuse_empty

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
PROMPT = 128  # tokens before the first that is decoded
PREFILL = 2048
STEPS, ROUNDS = 64, 5  # a round is so many steps of the one model, then of the other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,16,64", help="sequences at a time; default 1,16,64")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers")
    parser.add_argument("--no-compile", action="store_true", help="steps as transformers computes them")
    parser.add_argument("--attention", default="grouped", help="or sdpa, as transformers calls it; default grouped")
    parser.add_argument("--json", help="write the results here")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU here; --tiny runs on the CPU")

    torch.manual_seed(0)
    AttentionInterface.register("grouped", grouped_attention)
    AttentionMaskInterface.register("grouped", sdpa_mask)
    shape = TINY if options.tiny else LLAMA_8B
    config = LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        dtype=torch.bfloat16,
        attn_implementation=options.attention,
    )
    models = {"bf16": make_model(config, device), "u4b8": with_machete(make_model(config, device), device)}
    rows = []
    with torch.inference_mode():
        for batch in (int(part) for part in options.batch.split(",")):
            rounds = {name: decode_round(model, batch, not options.no_compile) for name, model in models.items()}
            rows.append(row("decode", batch, batch, compare(rounds, STEPS)))
        tokens = torch.randint(config.vocab_size, (1, 64 if options.tiny else PREFILL), device=device)
        calls = {name: lambda model=model: model(tokens, logits_to_keep=1) for name, model in models.items()}
        rows.append(row("prefill", 1, tokens.numel(), compare(calls)))
    if options.json:
        result = {
            "machine": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "date": datetime.date.today().isoformat(),
            "model": shape | {"dtype": "bf16"},
            "prompt": PROMPT,
            "attention": options.attention,
            "rows": rows,
        }
        with open(options.json, "w") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


def make_model(config: LlamaConfig, device: torch.device) -> LlamaForCausalLM:
    """With random weights, made where they shall lie."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def with_machete(model: LlamaForCausalLM, device: torch.device, group_size: int = 128) -> LlamaForCausalLM:
    """The model with Machete's linears in place of torch's, fused, of random codes: copies of one weight a shape."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child is not head:
                empty = machete.Linear(
                    child.in_features, child.out_features, False, group_size=group_size, device="meta"
                )
                setattr(parent, name, empty)
    blocks = [f"model.layers.{i}.{part}" for i in range(len(model.model.layers)) for part in ("self_attn", "mlp")]
    fuse_empty(model, [f"{b}.{'qkv' if b.endswith('attn') else 'gate_up'}_proj.packed_weight" for b in blocks])
    made: dict[tuple[int, int, bool], Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, machete.Linear):
            shape = (layer.out_features * (2 if layer.swiglu else 1), layer.in_features, layer.swiglu)
            if shape not in made:
                made[shape] = random_weight(*shape, group_size, device)
            layer.packed_weight = made[shape].clone()
    return model


def random_weight(n: int, k: int, swiglu: bool, group_size: int, device: torch.device) -> Tensor:
    codes = torch.randint(256, (n, k // 2), dtype=torch.uint8)
    scales = torch.full((k // group_size, n), 0.004, dtype=torch.bfloat16)  # std 0.02, as torch's weights have
    weight = machete.QuantizedWeight(codes, scales, None, "u4b8", k, group_size)
    return machete.prepack(weight, device=device, swiglu=swiglu).data


def grouped_attention(
    module: nn.Module,
    query: Tensor,  # [batch, heads, tokens, head_dim]
    key: Tensor,  # [batch, key_heads, length, head_dim]
    value: Tensor,  # [batch, key_heads, length, head_dim]
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """One token a sequence: the heads that share a key are the rows of its problem. More: as torch shares keys."""
    attend = nn.functional.scaled_dot_product_attention
    batch, heads, tokens, head_dim = query.shape
    if tokens > 1:
        causal = attention_mask is None
        if not causal:  # a masked problem with shared keys has no fast path in torch
            key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
        out = attend(query, key, value, attention_mask, is_causal=causal, scale=scaling, enable_gqa=causal)
        return out.transpose(1, 2), None
    rows = query.view(batch, key.shape[1], -1, head_dim)
    if attention_mask is not None:
        attention_mask = attention_mask.expand(-1, -1, rows.shape[2], -1)
    out = attend(rows, key, value, attention_mask, scale=scaling)
    return out.view(batch, 1, heads, head_dim), None


def decode_round(model: LlamaForCausalLM, batch: int, compiled: bool) -> Callable[[], object]:
    """STEPS steps of decoding behind a prompt: each sequence's next token, from the one before."""
    device = model.device
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + STEPS)
    prompt = torch.randint(model.config.vocab_size, (batch, PROMPT), device=device)
    tokens = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)  # [batch, 1]
    call = torch.compile(model.forward, dynamic=False) if compiled and device.type == "cuda" else model.forward

    def step() -> None:
        tokens.copy_(call(tokens, past_key_values=cache).logits.argmax(-1))

    def rewind() -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(PROMPT)

    for _ in range(3):
        step()
    decode = step
    if device.type == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        decode = graph.replay

    def round_of_steps(_keep: object = step) -> None:  # the graph holds no reference to the tokens it writes
        rewind()
        for _ in range(STEPS):
            decode()

    return round_of_steps


def compare(calls: dict[str, Callable[[], object]], steps: int = 1) -> dict[str, float]:
    """Seconds a step of calls of so many, the median of calls in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def row(what: str, batch: int, tokens: int, seconds: dict[str, float]) -> dict[str, object]:
    speed = {name: tokens / value for name, value in seconds.items()}
    ratio = speed["u4b8"] / speed["bf16"]
    print(
        f"{what:8} batch {batch:3}: bf16 {speed['bf16']:9.1f} tokens/s ({seconds['bf16'] * 1e3:7.2f} ms), "
        f"u4b8 {speed['u4b8']:9.1f} ({seconds['u4b8'] * 1e3:7.2f} ms), {ratio:.2f} times as many",
        flush=True,
    )
    return {
        "what": what,
        "batch": batch,
        "tokens_per_second": speed,
        "milliseconds": {n: s * 1e3 for n, s in seconds.items()},
        "ratio": ratio,
    }


if __name__ == "__main__":
    main()
