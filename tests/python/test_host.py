"""The way past the dispatcher: taken where nothing else would see the call, and only there."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import machete
from machete import ops


@pytest.fixture
def packed():
    return machete.prepack(machete.quantize(torch.randn(48, 80), group_size=16))


def dispatched(monkeypatch, run):
    """How many of the calls went through torch's dispatcher."""
    direct, all_of_them = [], ops._is_unwatched

    def watched(*tensors):
        direct.append(all_of_them(*tensors))
        return direct[-1]

    monkeypatch.setattr(ops, "_is_unwatched", watched)
    run()
    return direct


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
        assert dispatched(monkeypatch, call) == [True]
    with torch.no_grad():
        y = x.clone().requires_grad_()
        assert dispatched(monkeypatch, lambda: found.append(machete.linear(y, packed))) == [True]
    with torch.inference_mode():
        assert dispatched(monkeypatch, lambda: found.append(machete.linear(x, packed))) == [True]
    assert all(torch.equal(each, expected) for each in found)
    assert found[0]._base is None and found[0].storage_offset() == 0 and not found[0].requires_grad


def test_gradients_modes_and_profilers_see_the_operator(packed, monkeypatch):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    y = x.clone().requires_grad_()
    assert dispatched(monkeypatch, lambda: machete.linear(y, packed).sum().backward()) == [False]
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
        assert not ops._is_unwatched(x, packed.data)
    assert dispatched(monkeypatch, lambda: machete.linear(x, packed)) == [True]


def test_transforms_see_the_operator(packed):
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    seen = []

    def loss(y):
        seen.append(ops._is_unwatched(y, packed.data))
        return machete.linear(y, packed).float().sum()

    with pytest.raises(RuntimeError, match="functorch transforms"):  # of torch's: for operators that Python defines
        torch.func.grad(loss)(x)
    assert seen == [False]
