"""Quantised and packed weights: round trips, what survives where, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import machete
from machete import PackedWeight
from reference import WEIGHT_TYPES, WITH_ZERO_POINTS, dequantize

SHAPES = [(1, 1), (64, 128), (67, 100), (192, 576), (5, 577)]
GROUP_SIZES = [-1, 16, 32, 48, 64, 128]
DTYPES = [torch.bfloat16, torch.float16]


def packed_weight(n=64, k=128, group_size=32, dtype=torch.bfloat16):
    return machete.prepack(machete.quantize(torch.randn(n, k), group_size=group_size, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_unpack_gives_the_canonical_form_bit_for_bit(shape, group_size, dtype):
    quantized = machete.quantize(torch.randn(shape), group_size=group_size, dtype=dtype)
    packed = machete.prepack(quantized)
    assert (packed.n, packed.k, packed.group_size, packed.dtype) == (*shape, group_size, dtype)
    assert packed.data.dtype == torch.uint8
    unpacked = packed.unpack()
    assert torch.equal(unpacked.qweight, quantized.qweight)
    assert torch.equal(unpacked.scales, quantized.scales)
    assert (unpacked.n, unpacked.k, unpacked.weight_type) == (*shape, "u4b8")


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_type_comes_back(shape, weight_type):
    quantized = machete.quantize(torch.randn(shape), weight_type, group_size=32)
    assert (quantized.zero_points is not None) == (weight_type in WITH_ZERO_POINTS)
    packed = machete.prepack(quantized)
    unpacked = packed.unpack()
    assert packed.weight_type == unpacked.weight_type == weight_type
    for part in ("qweight", "scales", "zero_points"):
        given, found = getattr(quantized, part), getattr(unpacked, part)
        assert found is None if given is None else torch.equal(given, found) and given.dtype == found.dtype
    assert torch.equal(packed.dequantize(), dequantize(quantized).to(torch.bfloat16))


def test_zero_points_of_floating_point():
    quantized = machete.quantize(torch.randn(64, 128), "u4", group_size=32)
    zeros = quantized.zero_points.to(torch.bfloat16) + 0.25  # as HQQ and GGUF's Q4_1 have them
    floating = machete.QuantizedWeight(**{**vars(quantized), "zero_points": zeros})
    packed = machete.prepack(floating)
    assert torch.equal(packed.unpack().zero_points, zeros)
    assert torch.equal(packed.dequantize(), dequantize(floating).to(torch.bfloat16))
    inexact = machete.QuantizedWeight(**{**vars(quantized), "zero_points": zeros.float() + 1e-4})
    with pytest.raises(ValueError, match=r"zero_points\[0, 0\]=.* has no exact bf16 value"):
        machete.prepack(inexact)
    assert machete.prepack(inexact, round_scales=True).n == 64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dequantize_rounds_once(shape, dtype):
    quantized = machete.quantize(torch.randn(shape), group_size=32, dtype=dtype)
    assert torch.equal(machete.prepack(quantized).dequantize(), dequantize(quantized).to(dtype))


def test_quantize_is_close_and_searching_is_closer():
    weight = torch.randn(64, 512)
    errors = [
        (dequantize(machete.quantize(weight, group_size=64, search=search)) - weight).norm() / weight.norm()
        for search in (True, False)
    ]
    assert errors[0] < errors[1] < 0.13
    assert errors[0] < 0.11


def test_quantize_takes_any_floating_layout():
    weight = torch.randn(128, 64)
    expected = machete.quantize(weight.T.contiguous(), group_size=32)
    for given in (weight.T, weight.T.double(), weight.T.clone().requires_grad_()):
        assert torch.equal(machete.quantize(given, group_size=32).qweight, expected.qweight)


def test_packed_file_round_trip(tmp_path):
    packed = packed_weight()
    path = tmp_path / "weight.bin"
    packed.save(path)
    assert path.stat().st_size == packed.data.numel()
    loaded = PackedWeight.load(path)
    assert torch.equal(loaded.data[128:], packed.data[128:])  # the header gained a checksum
    assert torch.equal(loaded.dequantize(), packed.dequantize())

    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="does not match its checksum; save it again"):
        PackedWeight.load(path)
    path.write_bytes(damaged[:300])
    with pytest.raises(ValueError, match="has 300 bytes but its header promises"):
        PackedWeight.load(path)
    with pytest.raises(OSError, match="cannot read .*nowhere: No such file"):
        PackedWeight.load(tmp_path / "nowhere")
    with pytest.raises(OSError, match="cannot write"):
        packed.save(tmp_path / "no" / "folder")


def test_copies_and_pickles():
    packed = packed_weight()
    for other in (copy.deepcopy(packed), copy.copy(packed), pickle.loads(pickle.dumps(packed)), packed.to("cpu")):
        assert torch.equal(other.data, packed.data)
        assert (other.n, other.k, other.weight_type, other.dtype) == (64, 128, "u4b8", torch.bfloat16)
    file = io.BytesIO()
    torch.save(packed.data, file)
    file.seek(0)
    assert torch.equal(PackedWeight.from_tensor(torch.load(file)).dequantize(), packed.dequantize())


def test_safetensors_at_any_alignment(tmp_path):
    packed = packed_weight()
    for pad in (1, 2, 3, 8, 64):
        save_file({"a": torch.zeros(pad, dtype=torch.uint8), "b": packed.data}, tmp_path / "w.safetensors")
        loaded = PackedWeight.from_tensor(load_file(tmp_path / "w.safetensors")["b"])
        assert torch.equal(loaded.dequantize(), packed.dequantize())


def test_to_another_dtype():
    packed = packed_weight(dtype=torch.bfloat16)
    half = packed.to(dtype=torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(half.unpack().qweight, packed.unpack().qweight)
    assert torch.equal(half.to(dtype=torch.bfloat16).data, packed.data)

    quantized = machete.quantize(torch.randn(16, 64) * 1e-9, group_size=-1)
    with pytest.raises(ValueError, match=r"scales\[0, 0\]=.* has no exact f16 value"):
        machete.prepack(quantized, dtype=torch.float16)
    assert machete.prepack(quantized, dtype=torch.float16, round_scales=True).dtype == torch.float16


def test_hostile_tensors_are_refused():
    data = packed_weight().data

    def changed(at, value):
        other = data.clone()
        other[at] = value
        return other

    for hostile, text in (
        (torch.zeros(0, dtype=torch.uint8), "packed has 0 bytes, fewer than a header of 128"),
        (torch.zeros(500, dtype=torch.uint8), "not a PackedWeight; make one with"),
        (data[:-1], r"packed has \d+ bytes, but u4b8 weights \[64, 128\] with group_size 32 take \d+"),
        (torch.cat((data, data)), "prepack it again"),
        (changed(8, 77), "layout version 77, this build reads version"),
        (changed(12, 99), "the weight's header is damaged"),
        (changed(16, 65), "the weight's header is damaged"),
        (data.view(torch.int8), "must be u8"),
        (data.reshape(2, -1), "must be contiguous with 1 dimensions"),
    ):
        with pytest.raises(ValueError, match=text):
            PackedWeight.from_tensor(hostile)


def test_bad_input_is_refused_with_value_rule_and_remedy():
    weight = torch.randn(64, 128)
    quantized = machete.quantize(weight, group_size=32)

    def but(**changes):
        return machete.QuantizedWeight(**{**vars(quantized), **changes})

    for call, error, text in (
        (lambda: machete.quantize(weight, group_size=17), ValueError, "group_size=17 must be -1 .* or a positive"),
        (lambda: machete.quantize(weight, "u3"), ValueError, "weight type 'u3' is not known; use"),
        (lambda: machete.quantize(weight.int()), ValueError, "must be floating point"),
        (lambda: machete.quantize(weight[0]), ValueError, r"torch.float32 \[128\] must be floating point"),
        (lambda: machete.quantize(weight / 0), ValueError, r"weight\[0, 0\]=-?inf must be finite"),
        (lambda: machete.quantize(weight, dtype=torch.float32), ValueError, "dtype=torch.float32 must be"),
        (lambda: machete.prepack(but(k=100)), ValueError, r"qweight of u8 \[64, 64\] must be \[64, 50\]"),
        (lambda: machete.prepack(but(group_size=64)), ValueError, r"scales of bf16 \[4, 64\] must be \[2, 64\]"),
        (lambda: machete.prepack(but(zero_points=quantized.scales)), ValueError, "zero_points must be null for u4b8"),
        (lambda: machete.prepack(but(scales=quantized.scales * float("nan"))), ValueError, "must be finite"),
        (lambda: machete.prepack(but(scales=quantized.scales.int())), ValueError, "must be"),
        (lambda: machete.prepack(but(k=-5)), ValueError, "K=-5 must be at least 1"),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize(("weight_type", "code"), [("e4m3", 0x7F), ("e4m3", 0xFF), ("e5m2", 0x7C), ("e5m2", 0xFE)])
def test_codes_that_are_no_numbers_are_refused_for_a_gpu(weight_type, code):
    quantized = machete.quantize(torch.randn(4, 32), weight_type, 16)
    quantized.check_codes()
    quantized.qweight[2, 5] = code
    with pytest.raises(ValueError, match=r"qweight\[2, 5\] is NaN or Inf"):
        machete.prepack(quantized, device="cuda")
    spoilt = machete.linear(torch.ones(1, 32, dtype=torch.bfloat16), machete.prepack(quantized))  # the CPU serves them
    assert spoilt.isfinite().tolist() == [[True, True, False, True]]
