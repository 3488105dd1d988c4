"""The way past the dispatcher: taken where nothing else would see the call, and only there."""

import copy
import pickle
import sys

import pytest
import torch
import torch.nn.utils.parametrize
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import machete
from machete import ops, product
from machete._native import native
from machete.watch import is_unwatched


@pytest.fixture
def packed():
    return machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16))


def goes_directly(monkeypatch, run):
    """Whether a call was not for torch's dispatcher."""
    seen, dispatch = [], product.dispatch
    with monkeypatch.context() as patch:
        patch.setattr(product, "dispatch", lambda *arguments: seen.append(arguments) or dispatch(*arguments))
        run()
    return not seen


def test_plain_calls_go_directly(packed, monkeypatch):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    out = torch.empty(3, 48, dtype=torch.bfloat16)
    layer = machete.Linear.from_packed(packed)
    expected = torch.ops.machete.linear(x, packed.data, 48, 80, "u4b8", "bf16", 16)
    found = []
    calls = (
        lambda: found.append(machete.linear(x, packed)),
        lambda: found.append(machete.linear(x, packed, out=out)),
        lambda: found.append(layer(x)),
    )
    for call in calls:
        assert goes_directly(monkeypatch, call)
    with torch.no_grad():
        y = x.clone().requires_grad_()
        assert goes_directly(monkeypatch, lambda: found.append(machete.linear(y, packed)))
    with torch.inference_mode():
        assert goes_directly(monkeypatch, lambda: found.append(machete.linear(x, packed)))
    assert all(torch.equal(each, expected) for each in found)
    assert found[0]._base is None and found[0].storage_offset() == 0 and not found[0].requires_grad


def test_gradients_modes_and_profilers_see_the_operator(packed, monkeypatch):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    y = x.clone().requires_grad_()
    assert not goes_directly(monkeypatch, lambda: machete.linear(y, packed).sum().backward())
    assert y.grad is not None

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen = [*getattr(self, "seen", []), str(function)]
            return function(*args, **(kwargs or {}))

    with Log() as log:
        machete.linear(x, packed)
    assert "machete.linear.default" in log.seen

    class Functions(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.seen += "machete" in str(function)
            return function(*args, **(kwargs or {}))

    with Functions() as functions:
        machete.linear(x, packed)
    assert functions.seen

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        machete.linear(x, packed)
    assert "machete::linear" in {event.name for event in profile.events()}

    class Sub(torch.Tensor):
        pass

    assert type(machete.linear(x.as_subclass(Sub), packed)) is Sub
    with forward_ad.dual_level():
        assert not goes_directly(monkeypatch, lambda: machete.linear(x, packed))
    assert goes_directly(monkeypatch, lambda: machete.linear(x, packed))


def test_the_short_way_is_taken_where_nobody_watches_and_only_there(packed):
    x, call = torch.randn(3, 80, dtype=torch.bfloat16), packed._product.call
    expected = machete.linear(x, packed)
    assert torch.equal(call(x, packed.data), expected)
    out = torch.empty_like(expected)
    assert call(x, packed.data, out) is out and torch.equal(out, expected)
    y = x.clone().requires_grad_()
    assert call(y, packed.data) is None
    with torch.no_grad():
        assert torch.equal(call(y, packed.data), expected)
    with forward_ad.dual_level():
        assert call(x, packed.data) is None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert call(x, packed.data) is None
    with torch.device("cpu"):  # a mode
        assert call(x, packed.data) is None
    with TorchDispatchMode():
        assert call(x, packed.data) is None
    assert call(torch.nn.Parameter(x, requires_grad=False), packed.data) is None
    for unfit in (x.to("meta"), x.float(), x[:, 1:], x[0, 0], x.to_sparse()):
        assert call(unfit, packed.data) is None
    assert call(x, packed.data.to("meta")) is None and call(x, x) is None and call(x, packed.data, out[1:]) is None
    assert call(3, packed.data) is None
    assert torch.equal(call(x, packed.data), expected)
    bias = torch.nn.Parameter(torch.randn(48, dtype=torch.bfloat16))
    assert call(x, packed.data, None, bias) is None  # a gradient is asked for
    with torch.no_grad():
        assert torch.equal(call(x, packed.data, None, bias), machete.linear(x, packed, bias.detach()))
        assert call(x, packed.data, out, bias) is out
    for unfit in (bias.detach().float(), bias.detach()[1:], bias.detach().to("meta"), 3):
        assert call(x, packed.data, None, unfit) is None


def test_the_short_way_lets_go_of_what_it_takes(packed):
    x, call = torch.randn(3, 80, dtype=torch.bfloat16), packed._product.call
    bias = torch.randn(48, dtype=torch.bfloat16)
    call(x, packed.data, None, bias)
    objects = (x, packed.data, bias, torch.bfloat16, None, call, torch.Tensor)
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(1000):
        call(x, packed.data)
        call(x.float(), packed.data)
        call(x, packed.data.to("meta"))
        call(x, packed.data, None, bias)
    found = [sys.getrefcount(each) for each in objects]
    assert all(abs(a - b) < 100 for a, b in zip(before, found, strict=True))


def test_the_operator_itself_computes_at_once_too(packed, monkeypatch):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    arguments = (packed.data, 48, 80, "u4b8", "bf16", 16)
    expected = machete.linear(x, packed)
    kernel = []
    monkeypatch.setattr(ops, "_with_gradient", lambda *a, **k: kernel.append(a))
    assert torch.equal(torch.ops.machete.linear(x, *arguments), expected)
    assert torch.equal(torch.ops.machete.linear.default(x, *arguments, schedule="cpu"), expected)
    with pytest.raises(ValueError, match="schedule 'nonsense' does not exist"):
        torch.ops.machete.linear(x, *arguments, schedule="nonsense")
    assert not kernel


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 3), (2, 0), (1, 2, 3), (2, 1, 0, 3)])
def test_outputs_lie_as_torch_would_have_them(packed, shape):
    x = torch.randn(*shape, 80, dtype=torch.bfloat16)
    plain, out = torch.nn.functional.linear(x, packed.dequantize()), machete.linear(x, packed)
    assert (out.shape, out.stride(), out.dtype) == (plain.shape, plain.stride(), plain.dtype)
    assert out.is_contiguous()


def test_signs_that_torch_has_yet_to_change_are_changed():
    packed = machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16, dtype=torch.float16))
    x = torch.randn(3, 80, dtype=torch.float16)
    lazily = torch.view_as_complex(torch.stack((x, -x), dim=-1)).conj().imag
    assert lazily.is_neg() and torch.equal(lazily, x)
    out = torch.empty(3, 48, dtype=torch.float16)
    expected = machete.linear(x, packed)
    assert torch.equal(machete.linear(lazily, packed), expected)
    assert torch.equal(machete.linear(lazily, packed, out=out), expected)
    assert torch.equal(torch.ops.machete.linear(lazily, packed.data, 48, 80, "u4b8", "f16", 16), expected)


def test_what_has_been_called_is_copied_and_pickled_as_what_has_not(packed):
    layer = machete.Linear.from_packed(packed)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    expected = machete.linear(x, packed)
    layer(x)
    for again in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(machete.linear(x, again), expected)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)


def test_a_layer_that_becomes_another_computes_as_that(packed):
    layer = machete.Linear.from_packed(packed)
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    layer(x)
    other = machete.prepack(machete.quantize(torch.randn(48, 80), "u8b128", group_size=80))
    layer.adopt(other)
    assert torch.equal(layer(x), machete.linear(x, other))
    half = machete.prepack(machete.quantize(torch.randn(48, 80).half(), group_size=16, dtype=torch.float16))
    layer = machete.Linear.from_packed(half)
    layer(x.half())
    ones = machete.prepack(machete.quantize(torch.ones(48, 80), group_size=16, dtype=torch.float16))
    layer.adopt(ones)
    layer.to(torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16


def test_meta_tensors_have_shapes_alone(packed):
    y = machete.linear(torch.empty(2, 3, 80, dtype=torch.bfloat16, device="meta"), on_meta(packed))
    assert y.is_meta and y.shape == (2, 3, 48)
    layer = machete.Linear(80, 48, device="meta")
    assert layer(torch.empty(3, 80, dtype=torch.bfloat16, device="meta")).shape == (3, 48)


LAYOUTS = {  # of x, and whether its rows are read as they lie
    "one row": (lambda x: x[0, 0], True),
    "contiguous": (lambda x: x, True),
    "the last of each sequence": (lambda x: x[:, -1:], True),
    "every other sequence": (lambda x: x[::2], False),
    "every other row": (lambda x: x[0, ::2], True),
    "sequences apart": (lambda x: x[:, :2], False),
    "transposed": (lambda x: x.transpose(0, 1), False),
    "repeated": (lambda x: x[:1, :1].expand(4, 3, 80), False),
    "no rows": (lambda x: x[:, :0], True),
    "every other column": (lambda x: x.repeat_interleave(2, dim=-1)[..., ::2], False),
    "columns first": (lambda x: x[0].T.contiguous().T, False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_copied_only_where_they_must_be(packed, layout):
    view, as_it_lies = LAYOUTS[layout]
    x = view(torch.randn(4, 3, 80, dtype=torch.bfloat16))
    expected = machete.linear(x.contiguous(), packed)
    assert torch.equal(machete.linear(x, packed), expected)
    plans = native.plans_of(48, 80, "u4b8", "bf16", 16, "", False, False, False, "", False, "")
    out = torch.empty_like(expected)
    assert native.linear(plans, x, packed.data, out, None, None, None) == as_it_lies
    assert (packed._product.call(x, packed.data) is not None) == as_it_lies
    assert not as_it_lies or torch.equal(out, expected)


def test_a_bias_may_be_in_other_hands(packed):
    layer = machete.Linear.from_packed(packed, torch.randn(48))
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    expected = layer(x)
    torch.nn.utils.parametrize.register_parametrization(layer, "bias", torch.nn.Identity())
    assert "bias" not in layer._parameters
    assert torch.equal(layer(x), expected)


def on_meta(packed):
    return machete.PackedWeight(packed.data.to("meta"), "u4b8", 48, 80, 16, torch.bfloat16)


def test_transforms_see_the_operator(packed):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    seen = []

    def loss(y):
        seen.append(is_unwatched(y, packed.data))
        return machete.linear(y, packed).float().sum()

    with pytest.raises(RuntimeError, match="functorch transforms"):  # of torch's: for operators that Python defines
        torch.func.grad(loss)(x)
    assert seen == [False]
    assert torch.equal(torch.vmap(lambda y: machete.linear(y, packed))(x), machete.linear(x, packed))
