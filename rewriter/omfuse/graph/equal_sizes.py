"""Sizes that must be equal, or the node that joins their tensors would not run.

Models often name the batch of each input apart.  Where a product runs over two axes, or two axes
that are both longer than one meet in a broadcast, their sizes are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

from omfuse.graph.dims import Dim, Size, preferred

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Where", "And", "Or"}


def forced(facts: Facts, node: Node) -> Iterator[tuple[str, Size]]:
    """Yield each symbol that a node forces to be another size, and that size."""
    for a, b in _pairs(facts, node):
        solved = _solve(a, b)
        if solved is not None:
            yield solved


def _pairs(facts: Facts, node: Node) -> Iterator[tuple[Size, Size]]:
    if node.op not in _ELEMENTWISE and node.op != "MatMul":
        return
    shapes = [shape for name in node.inputs if name and (shape := facts.shape(name)) is not None]
    if len(shapes) < 2:
        return
    if node.op == "MatMul":
        a, b = shapes[:2]
        if len(a) > 1 and len(b) > 1:
            yield a[-1], b[-2]
        shapes = [a[:-2], b[:-2]]
    for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        long = [size for size in sizes if _longer_than_one(size)]
        for size in long[1:]:
            yield long[0], size


def _longer_than_one(size: Size) -> bool:
    if isinstance(size, Dim):
        return all(factor > 1 for factor in size.terms.values())  # no axis is empty
    return size > 1


def _solve(a: Size, b: Size) -> tuple[str, Size] | None:
    """Return the symbol to replace, and by what, from ``factor * x = factor * y``."""
    if a == b:
        return None
    left, right = _monomial(a), _monomial(b)
    if left is None or right is None or left[0] != right[0]:
        return None
    rest_left, rest_right = list(left[1]), list(right[1])
    for name in left[1]:
        if name in rest_right:
            rest_left.remove(name)
            rest_right.remove(name)
    if len(rest_left) != 1 or len(rest_right) != 1:
        return None
    x, y = Dim({(rest_left[0],): 1}), Dim({(rest_right[0],): 1})
    kept = preferred(x, y)
    return (rest_right[0], kept) if kept == x else (rest_left[0], kept)


def _monomial(size: Size) -> tuple[int, tuple[str, ...]] | None:
    if not isinstance(size, Dim) or len(size.terms) != 1:
        return None
    ((symbols, factor),) = size.terms.items()
    return factor, symbols


def replaced(size: Size, by: Mapping[str, Size]) -> Size:
    """Return a size with symbols replaced."""
    if not isinstance(size, Dim) or not any(name in by for s in size.terms for name in s):
        return size
    total: Size = 0
    for symbols, factor in size.terms.items():
        part: Size = factor
        for name in symbols:
            part = part * by.get(name, Dim({(name,): 1}))
        total = total + part
    return total
