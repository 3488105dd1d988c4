"""How calibration goes through a model: block after block where its blocks are a chain, else all at once."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout, and no cache, which would grow with every run of a block; as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    caches = getattr(config, "use_cache", None)
    try:
        model.eval()
        if caches:
            config.use_cache = False
        yield
    finally:
        for module in training:
            module.training = True
        if caches:
            config.use_cache = caches


class Whole:
    """A model that is calibrated in one go."""

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self._batches = batches
        self.blocks = [model]

    def run(self, block: nn.Module) -> None:
        for batch in self._batches:
            block(batch)

    def advance(self, block: nn.Module) -> None:
        pass


@dataclass
class _Call:
    """Of a block: what it is given beside the hidden states, which may differ from block to block."""

    arguments: list[Any]
    named: dict[str, Any]
    place: int | str | None = None  # of the hidden states

    def find(self, value: Any) -> bool:
        """Whether this is an argument; it is not kept, there or elsewhere."""
        places: list[tuple[int | str, Any]] = [*enumerate(self.arguments), *self.named.items()]
        for place, given in places:
            if given is value and isinstance(value, Tensor):
                self.place = place
                self._put(None)
                return True
        return False

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        self._put(hidden)
        result = _hidden(block(*self.arguments, **self.named))
        self._put(None)
        return result

    def _put(self, value: Tensor | None) -> None:
        if isinstance(self.place, int):
            self.arguments[self.place] = value
        elif self.place is not None:
            self.named[self.place] = value

    def take(self, place: int | str | None) -> Any:
        """The argument that lies there, which is not kept."""
        self.place = place
        if isinstance(place, int):
            value = self.arguments[place] if place < len(self.arguments) else None
        else:
            value = self.named.get(place or "")
        self._put(None)
        return value


class Chain:
    """A model's blocks, each of which takes what the one before has made of the inputs."""

    def __init__(self, blocks: nn.ModuleList, hidden: list[Tensor], calls: list[list[_Call]]) -> None:
        self.blocks = list(blocks)
        self._hidden = hidden  # of a batch each: what the block at hand is given
        self._calls = dict(zip(self.blocks, zip(*calls, strict=True), strict=True))  # of a block: a batch each

    def run(self, block: nn.Module) -> None:
        for call, hidden in zip(self._calls[block], self._hidden, strict=True):
            call.run(block, hidden)

    def advance(self, block: nn.Module) -> None:
        for i, call in enumerate(self._calls.pop(block)):
            self._hidden[i] = call.run(block, self._hidden[i])


def course_of(model: nn.Module, layers: Iterable[nn.Module], batches: Sequence[Any]) -> Chain | Whole:
    """Block after block, where one list of blocks holds all the layers and the blocks turn out to be a chain."""
    layers = set(layers)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 and layers <= set(m.modules())]
    for blocks in sorted(lists, key=len, reverse=True)[:1]:
        watched = [_watch(model, blocks, batch) for batch in batches]
        if all(seen is not None for seen in watched):
            return Chain(blocks, [seen[0] for seen in watched if seen], [seen[1] for seen in watched if seen])
    return Whole(model, batches)


def _watch(model: nn.Module, blocks: nn.ModuleList, batch: Any) -> tuple[Tensor, list[_Call]] | None:
    """What the first block is given as hidden states, and how each is called; None where the blocks are no chain."""
    calls: list[_Call] = []
    order = list(blocks)
    chained = len(set(order)) == len(order)
    last: Any = None  # what the block before returned
    versions: list[int] = []  # of the tensors that a block is given: one that writes to them cannot be run again

    def before(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal chained, last, versions
        at = len(calls)
        call = _Call(list(arguments), dict(named))
        chained = chained and at < len(order) and block is order[at] and (at == 0 or call.find(last))
        last = None
        versions = _versions(arguments, named)
        if chained:
            calls.append(call)

    def after(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        nonlocal chained, last
        last = _hidden(result)
        chained = chained and versions == _versions(arguments, named)

    with ExitStack() as hooks:
        for block in set(order):
            hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(after, with_kwargs=True).remove)
        model(batch)
    if not chained or len(calls) != len(order):
        return None
    hidden = calls[0].take(calls[1].place)
    return (hidden, calls) if isinstance(hidden, Tensor) and _same(hidden, last) else None


def _same(hidden: Tensor, last: Any) -> bool:
    return isinstance(last, Tensor) and hidden.shape == last.shape and hidden.dtype == last.dtype


def _versions(arguments: tuple[Any, ...], named: dict[str, Any]) -> list[int]:
    tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
    return [value._version for value in tensors if not value.is_inference()]


def _hidden(result: Any) -> Any:
    return result[0] if isinstance(result, tuple | list) else result
