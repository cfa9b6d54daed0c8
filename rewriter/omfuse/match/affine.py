"""Index arithmetic: integer tensors that are an affine function of their own indices.

``Range`` counts along its axis, ``Unsqueeze`` moves the axis, ``Add`` and ``Sub`` combine; a
comparison of two such tensors is a band ``low <= k - q <= high``.  Nothing here looks for a
particular chain of nodes: what cannot be evaluated stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfuse.graph.dims import Size
from omfuse.graph.facts import Facts
from omfuse.graph.view import Node

MAX_DEPTH = 40


@dataclass(frozen=True)
class Affine:
    """``constant + sum(factor * index(axis))``; axes count from the right, from 0."""

    factors: tuple[tuple[int, int], ...]
    constant: Size

    def factor(self, axis: int) -> int:
        """Return the factor of an axis."""
        return dict(self.factors).get(axis, 0)


def _affine(factors: dict[int, int], constant: Size) -> Affine:
    return Affine(tuple(sorted((a, f) for a, f in factors.items() if f)), constant)


def combine(a: Affine, b: Affine, sign: int) -> Affine:
    """Return ``a + sign * b``."""
    factors = dict(a.factors)
    for axis, factor in b.factors:
        factors[axis] = factors.get(axis, 0) + sign * factor
    constant = a.constant + b.constant if sign > 0 else a.constant - b.constant
    return _affine(factors, constant)


def evaluate(value: str, facts: Facts, depth: int = 0) -> Affine | None:
    """Return the affine form of an integer value, or None."""
    if depth > MAX_DEPTH:
        return None
    content = facts.content(value)
    if content is not None and content.size:
        flat = content.reshape(-1).tolist()
        if all(x == flat[0] for x in flat) and not isinstance(flat[0], float):
            return Affine((), int(flat[0]) if isinstance(flat[0], bool) else flat[0])
    constant = facts.const(value)
    if constant is not None:
        return _from_array(constant)
    node = facts.view.producer(value)
    if node is None:
        if not facts.view.knows(value) and facts.outer is not None:
            return evaluate(value, facts.outer, depth + 1)
        return None
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, facts, depth + 1)


def _from_array(array: np.ndarray[Any, Any]) -> Affine | None:
    if array.dtype.kind not in "iu" or not array.size:
        return None
    factors = {}
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            step = np.diff(array, axis=axis)
            if not (step == step.reshape(-1)[0]).all():
                return None
            factors[array.ndim - 1 - axis] = int(step.reshape(-1)[0])
    return _affine(factors, int(array.reshape(-1)[0]))


def _range(node: Node, facts: Facts, _depth: int) -> Affine | None:
    start, step = facts.content(node.inputs[0]), facts.content(node.inputs[2])
    if start is None or step is None or step.item() != 1:
        return None
    return Affine(((0, 1),), start.item())


def _same(node: Node, facts: Facts, depth: int) -> Affine | None:
    return evaluate(node.inputs[0], facts, depth)


def _relabel(node: Node, facts: Facts, depth: int) -> Affine | None:
    """Follow axes through operators that only insert or remove axes of size one."""
    inner = evaluate(node.inputs[0], facts, depth)
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if inner is None or before is None or after is None:
        return None
    kept_before = [axis for axis, size in enumerate(reversed(before)) if size != 1]
    kept_after = [axis for axis, size in enumerate(reversed(after)) if size != 1]
    sizes = [
        [list(reversed(s))[axis] for axis in kept]
        for s, kept in ((before, kept_before), (after, kept_after))
    ]
    if sizes[0] != sizes[1]:
        return None
    place = dict(zip(kept_before, kept_after, strict=True))
    if any(axis not in place for axis, _ in inner.factors):
        return None
    return _affine({place[axis]: f for axis, f in inner.factors}, inner.constant)


def _transpose(node: Node, facts: Facts, depth: int) -> Affine | None:
    inner = evaluate(node.inputs[0], facts, depth)
    rank = facts.rank(node.inputs[0])
    if inner is None or rank is None:
        return None
    perm = node.attrs.get("perm", list(range(rank))[::-1])
    place = {rank - 1 - source: rank - 1 - target for target, source in enumerate(perm)}
    return _affine({place[axis]: f for axis, f in inner.factors}, inner.constant)


def _sum(sign: int) -> Callable[[Node, Facts, int], Affine | None]:
    def rule(node: Node, facts: Facts, depth: int) -> Affine | None:
        a, b = (evaluate(x, facts, depth) for x in node.inputs[:2])
        return None if a is None or b is None else combine(a, b, sign)

    return rule


def _slice(node: Node, facts: Facts, depth: int) -> Affine | None:
    inner = evaluate(node.inputs[0], facts, depth)
    shift = slice_starts(node, facts)
    if inner is None or shift is None:
        return None
    constant = inner.constant
    for axis, start in shift.items():
        constant = constant + start * inner.factor(axis)
    return Affine(inner.factors, constant)


def slice_starts(node: Node, facts: Facts) -> dict[int, Size] | None:
    """Return the first index that a Slice keeps of each axis (from the right), steps being 1."""
    shape = facts.shape(node.inputs[0])
    parts = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        if name in node.attrs:
            parts.append(list(node.attrs[name]))
        elif index < len(node.inputs) and node.inputs[index]:
            content = facts.content(node.inputs[index])
            if content is None:
                return None
            parts.append(list(content.reshape(-1).tolist()))
        else:
            parts.append([])
    starts, _, axes, steps = parts
    if shape is None or any(step != 1 for step in steps):
        return None
    result: dict[int, Size] = {}
    for axis, start in zip(axes or range(len(starts)), starts, strict=True):
        position = int(axis) % len(shape)
        if isinstance(start, int) and start < 0:
            start = shape[position] + start
        result[len(shape) - 1 - position] = start
    return result


_RULES: dict[str, Callable[[Node, Facts, int], Affine | None]] = {
    "Range": _range,
    "Identity": _same,
    "Cast": _same,
    "Expand": _same,
    "Unsqueeze": _relabel,
    "Squeeze": _relabel,
    "Reshape": _relabel,
    "Transpose": _transpose,
    "Add": _sum(1),
    "Sub": _sum(-1),
    "Slice": _slice,
}
