"""What a zoo case is, and how small random configurations are drawn."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Spec = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """A torch module and the description of what to feed it."""

    module: Any
    spec: Spec
    num_heads: int | None = None
    hidden_size: int | None = None


@dataclass(frozen=True)
class Case:
    """One architecture. `build(dice)` draws a small configuration and makes the module.

    `expected` overrides the count taken from the forward pass where data flow cannot see it
    (scores summed with a sink, exponentials written out). `minimum` and `maximum` widen the range
    for blocks where either answer is right, for instance attention between channels.
    """

    family: str
    build: Callable[[Dice], Built]
    source: str
    notes: str = ""
    expected: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    negative: bool = False
    variants: int = 2
    exporters: tuple[str, ...] = ("ts", "dy")
    opsets: tuple[int, ...] = ()
    dynamic: bool | None = None
    attn: tuple[str, ...] = ("eager", "sdpa")


class Dice(random.Random):
    """Random choices that depend on the case's name only, with the draws every family needs."""

    def __init__(self, name: str, attn: str = "eager") -> None:
        super().__init__(zlib.crc32(name.encode()))
        self.attn = attn
        self.heads = self.choice([2, 4])
        self.kv_heads = self.choice([1, 2])
        self.depth = self.choice([8, 12, 16])
        self.hidden = self.heads * self.depth
        self.layers = self.choice([1, 2])
        self.batch, self.length = 2, self.choice([9, 10, 12])


@dataclass
class Registry:
    """Cases by family; the order of registration is the order of generation."""

    cases: dict[str, Case] = field(default_factory=dict)

    def add(self, family: str, source: str, build: Callable[[Dice], Built], **options: Any) -> None:
        if family in self.cases:
            raise ValueError(f"two cases are called {family}")
        self.cases[family] = Case(family, build, source, **options)


def tensor(name: str, dtype: str, shape: list[int | str], gen: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "gen": gen}


def spec(inputs: list[dict[str, Any]], alt: dict[str, int] | None = None, **dims: int) -> Spec:
    return {"inputs": inputs, "dims": dims, "alt": alt or {}}


def image(dice: Dice, size: int, channels: int = 3, name: str = "pixel_values") -> Spec:
    return spec([tensor(name, "f", ["B", channels, size, size], "normal")], {"B": 3}, B=2)


def tokens(dice: Dice, vocabulary: int = 99, mask: str | None = "rightpad") -> Spec:
    inputs = [tensor("input_ids", "i64", ["B", "S"], f"randint:3:{vocabulary}")]
    if mask:
        inputs.append(tensor("attention_mask", "i64", ["B", "S"], mask))
    return spec(inputs, {"B": 3, "S": 7}, B=dice.batch, S=dice.length)
