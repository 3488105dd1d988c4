"""What the demo is made of; the whole of it is `make demo-llm`."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import machete
from machete.demo.gguf import _NAMES, q4_1_weights
from machete.demo.perplexity import WINDOW, perplexity, windows
from reference import dequantize

gguf = pytest.importorskip("gguf")
HEADS, KV_HEADS, HIDDEN, INTERMEDIATE = 4, 2, 64, 96
SIZES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN // 2, HIDDEN),
    "attn_v": (HIDDEN // 2, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INTERMEDIATE, HIDDEN),
    "ffn_up": (INTERMEDIATE, HIDDEN),
    "ffn_down": (HIDDEN, INTERMEDIATE),
}


def write_file(path, kind=None):
    """A file of one layer, and its tensors as the gguf package has them: blocks made and undone by its own code."""
    kind = kind or gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(path, "llama")
    tensors = {}
    for name, shape in SIZES.items():
        values = np.random.default_rng(len(tensors)).standard_normal(shape).astype(np.float32)
        values[0, :32] = 0.25  # a block whose scale is zero
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"blk.0.{name}.weight", blocks, raw_dtype=kind)
        tensors[name] = gguf.quants.dequantize(blocks, kind)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def halves_together(values, heads):
    """Rows of a head from (0, 0', 1, 1', ...) to (0, 1, ..., 0', 1', ...)."""
    rows = [row for head in np.split(values, heads) for row in (*head[0::2], *head[1::2])]
    return np.stack(rows)


def test_codes_of_q4_1_are_carried_over(tmp_path):
    tensors = write_file(tmp_path / "model.gguf")
    found = q4_1_weights(tmp_path / "model.gguf", HEADS, KV_HEADS)
    assert sorted(found) == sorted(f"model.layers.0.{name}" for name in _NAMES.values())
    for name, values in tensors.items():
        if name == "attn_q":
            values = halves_together(values, HEADS)
        if name == "attn_k":
            values = halves_together(values, KV_HEADS)
        weight = found[f"model.layers.0.{_NAMES[name]}"]
        # The zero point -m / d is rounded to fp16: an error of 2⁻¹¹ of m, and m is at most a few.
        torch.testing.assert_close(dequantize(weight), torch.from_numpy(values).double(), rtol=1e-6, atol=4 * 2**-11)
        assert torch.equal(machete.prepack(weight).unpack().qweight, weight.qweight)


def test_other_blocks_are_refused(tmp_path):
    write_file(tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q4_0)
    with pytest.raises(ValueError, match="attn_q.weight in .* is in blocks of Q4_0; Q4_1 is read here"):
        q4_1_weights(tmp_path / "model.gguf", HEADS, KV_HEADS)


def test_windows():
    tokens = torch.arange(2 * WINDOW + 5)
    assert [tuple(w.shape) for w in windows(tokens)] == [(1, WINDOW), (1, WINDOW), (1, 5)]
    assert [w.numel() for w in windows(tokens, WINDOW + 1)] == [WINDOW]  # one token alone foretells nothing
    assert torch.equal(torch.cat(windows(tokens), dim=1)[0], tokens)


def test_perplexity_is_that_of_the_models_own_loss():
    sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    tokens = torch.randint(50, (300,))
    with torch.no_grad():
        loss = model(tokens[None], labels=tokens[None]).loss.item()
    assert perplexity(model, windows(tokens), model.lm_head.weight) == pytest.approx(math.exp(loss), rel=1e-5)
