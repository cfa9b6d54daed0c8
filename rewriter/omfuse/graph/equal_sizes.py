"""Sizes that must be equal, or the node that joins their tensors would not run.

Models often name the batch of each input apart.  Where a product runs over two axes, or two axes
that are both longer than one meet in a broadcast, their sizes are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from omfuse.graph.dims import Dim, Size, preferred, symbol

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Where", "And", "Or"}


def forced(facts: Facts, node: Node) -> Iterator[tuple[Size, Size]]:
    """Yield pairs of sizes that are equal wherever the node runs."""
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


def solve(a: Size, b: Size) -> tuple[str, Size] | None:
    """Return the symbol to replace, and by what: ``f*x*z = f*y*z`` or ``f*x = n``."""
    left, right = _monomial(a), _monomial(b)
    if a == b or left is None or right is None:
        return None
    rest_left, rest_right = list(left[1]), list(right[1])
    for name in left[1]:
        if name in rest_right:
            rest_left.remove(name)
            rest_right.remove(name)
    if len(rest_left) == len(rest_right) == 1 and left[0] == right[0]:
        (x,), (y,) = rest_left, rest_right
        kept = preferred(symbol(x), symbol(y))
        return (y, kept) if kept == symbol(x) else (x, kept)
    for names, others, (factor, _), (number, _) in (
        (rest_left, rest_right, left, right),
        (rest_right, rest_left, right, left),
    ):
        if len(names) == 1 and not others and number % factor == 0:
            return names[0], number // factor
    return None


def _monomial(size: Size) -> tuple[int, tuple[str, ...]] | None:
    if not isinstance(size, Dim):
        return size, ()
    if len(size.terms) != 1:
        return None
    ((symbols, factor),) = size.terms.items()
    return factor, symbols


def replaced(size: Any, by: Mapping[str, Size]) -> Any:
    """Return a size with symbols replaced; anything else as it is."""
    if not isinstance(size, Dim) or not any(name in by for s in size.terms for name in s):
        return size
    total: Size = 0
    for symbols, factor in size.terms.items():
        part: Size = factor
        for name in symbols:
            part = part * by.get(name, symbol(name))
        total = total + part
    return total
