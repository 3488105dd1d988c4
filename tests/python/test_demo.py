"""The demo, on a file of a tiny model of random weights; on a real one it is `make demo-llm`."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import machete
from machete.demo import __main__ as demo
from machete.demo.gguf import _NAMES, q4_1_weights
from machete.demo.measure import PROMPTS, Memory, Row
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


def write_file(path, kind=None, whole=False):
    """A file of one layer, and its tensors as the gguf package has them: blocks made and undone by its own code.

    With `whole` it is a model with a tokenizer of bytes, which says "Paris" in one token.
    """
    kind = kind or gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(path, "llama")
    if whole:
        add_model(writer)
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


def add_model(writer):
    """What transformers needs beside the layers; the output layer is the embedding."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(printable))]
    words = [*map(chr, printable + others), "Pa", "Par", "Pari", "Paris", "<|end|>"]
    writer.add_block_count(1)
    writer.add_context_length(2 * WINDOW)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 1) + [3])
    writer.add_token_merges(["P a", "Pa r", "Par i", "Pari s"])
    writer.add_bos_token_id(len(words) - 1)
    writer.add_eos_token_id(len(words) - 1)
    embedding = 0.02 * np.random.default_rng(7).standard_normal((len(words), HIDDEN)).astype(np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(HIDDEN, dtype=np.float32))


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


@pytest.fixture
def small(monkeypatch):
    """A text of two windows to measure, one to calibrate; few tokens to generate."""
    monkeypatch.setattr(demo, "MEASURED", WINDOW + 300)
    monkeypatch.setattr(demo, "CALIBRATION_TOKENS", 500)
    monkeypatch.setattr("machete.demo.measure.NEW_TOKENS", 3)


def test_the_whole_demo(tmp_path, small, capsys):
    write_file(tmp_path / "tiny.gguf", whole=True)
    given = [str(tmp_path / "tiny.gguf"), "--device", "cpu"]
    assert demo.main([*given, "--json", str(tmp_path / "found.json")]) == 1
    printed = capsys.readouterr()
    assert "float32 does not say Paris" in printed.err  # random weights do not
    found = json.loads((tmp_path / "found.json").read_text())
    names = ["float32", *(way.name for way in demo.WAYS)]
    assert [row["name"] for row in found["rows"]] == names
    sizes = {row["name"]: row["bytes"] for row in found["rows"]}
    numbers = sum(n * k for n, k in SIZES.values())
    assert sizes["float32"] == 4 * numbers
    assert numbers < sizes["u8b128-64"] < 1.5 * numbers
    assert numbers / 2 < sizes["u4b8-128"] < sizes["u4b8-64"] < sizes["u4b8-32"] == sizes["u4b8-32-gptq"] < numbers
    for row in found["rows"]:
        assert len(row["continuations"]) == len(PROMPTS)
        assert row["perplexity"] > 1 and row["tokens_per_second"] > 0
        assert row["name"] in printed.out
    bars = {row["name"]: row["bar"] for row in found["rows"]}
    assert bars["float32"] is None and bars["u8b128-64"] == 0.01
    assert bars["u4b8-32-gptq"] == pytest.approx(found["rows"][names.index("u4b8-32")]["loss"] / 2)

    capsys.readouterr()
    demo.main([*given, "--ways", "u4b8-64", "--against", str(tmp_path / "found.json")])
    assert "Perplexities agree with those of found.json" in capsys.readouterr().out
    found["rows"][names.index("u4b8-64")]["perplexity"] *= 1.003
    (tmp_path / "found.json").write_text(json.dumps(found))
    demo.main([*given, "--ways", "u4b8-64", "--against", str(tmp_path / "found.json")])
    assert "found.json: u4b8-64: perplexity" in capsys.readouterr().err


def test_a_bar_taken_from_another_way_brings_it_along():
    assert [way.name for way in demo.chosen("u4b8-32-gptq")] == ["u4b8-32", "u4b8-32-gptq"]
    assert [way.name for way in demo.chosen("u4-32-own,u4b8-64")] == ["u4b8-64", "u4-32-own"]
    with pytest.raises(ValueError, match="--ways u3 is none of u8b128-64,"):
        demo.chosen("u3,u4b8-64")


def test_the_measured_text_ends_with_a_chapter():
    assert demo.TEXT.read_text()[demo.MEASURED :].startswith("Chapter 6\n")
    assert len(demo.TEXT.read_text()[: demo.MEASURED]) > 20000


def test_files_of_other_models_and_ways_are_no_comparison():
    rows = [Row(name, 0, 20.0, 1.0, None, ["Paris"]) for name in ("float32", "u4b8-64")]
    other = {"model": "a.gguf", "rows": [{"name": "float32", "perplexity": 20.0}]}
    assert demo.disagreements(rows, "b.gguf", other) == ["it measured a.gguf, not b.gguf"]
    assert demo.disagreements(rows, "a.gguf", other) == ["it measured none of the ways measured here; choose by --ways"]
    other["rows"].append({"name": "u4b8-64", "perplexity": float("nan")})
    assert "u4b8-64: perplexity 20.0000 here, nan there" in demo.disagreements(rows, "a.gguf", other)[0]


def test_calibrated_codes_are_each_devices_own():
    rows = [Row(name, 0, 20.0, 1.0, None, ["Paris"]) for name in ("float32", "u4b8-32", "u4b8-32-gptq")]
    other = {"model": "a.gguf", "rows": [{"name": row.name, "perplexity": 20.0} for row in rows]}
    other["rows"][2]["perplexity"] = 21.0
    assert demo.disagreements(rows, "a.gguf", other) == []
    other["rows"][1]["perplexity"] = 21.0
    assert len(demo.disagreements(rows, "a.gguf", other)) == 1


def test_memory_is_what_is_held_beyond_what_was():
    before = torch.ones(2**26, dtype=torch.uint8)
    memory = Memory("cpu")
    transient = torch.ones(2**27, dtype=torch.uint8)
    del transient
    memory.running()
    held = torch.ones(2**26, dtype=torch.uint8)
    most = memory.most()
    if most is not None:  # the system tells
        assert 0.9 * 2**26 < most < 1.5 * 2**26
    del before, held
