"""Reads instances/manifest.txt, which says what its lines mean."""

from __future__ import annotations

import dataclasses
import pathlib

FILE = pathlib.Path(__file__).resolve().parent.parent / "instances" / "manifest.txt"


@dataclasses.dataclass
class WeightType:
    name: str
    meets: list[str]  # of 8-bit activations
    runs_as: str
    like: str | None


def _lines() -> list[list[str]]:
    return [words for line in FILE.read_text().splitlines() if (words := line.split("#")[0].split())]


def weight_types() -> dict[str, WeightType]:
    types = {}
    for kind, name, *rest in _lines():
        if kind == "type":
            options = dict(zip(rest[2::2], rest[3::2], strict=True))
            meets = options.get("meets", "").split(",")
            types[name] = WeightType(name, meets, options.get("as", name), options.get("like"))
    return types


def kernels() -> list[tuple[str, ...]]:
    """Set, family, weight type, activation type (s8/f16 with scales of f16), tile and number.

    With those of types that are like others.
    """
    lines = [tuple(words) for words in _lines() if words[0] != "type"]
    for known in weight_types().values():
        lines += [("all", family, known.name, a_type, *tile) for _, family, w_type, a_type, *tile in lines
                  if w_type == known.like and a_type in ("bf16", "f16")]  # fmt: skip
    return lines
