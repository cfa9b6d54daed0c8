"""A sum or maximum over some axes, seen through what brings its shape back for broadcasting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node

MAX_STEPS = 8  # a reduction is never further away; bounds hostile graphs


@dataclass(frozen=True)
class RowStat:
    """One number for each row of ``source``, broadcast along ``axes``.

    Attributes:
        source: the value that is reduced.
        axes: the reduced axes of ``source``, ascending.
        nodes: the reduction, and what stands between it and the value that is read.
    """

    source: str
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]


def row_stat(value: str, op: str, view: GraphView, facts: Facts) -> RowStat | None:
    """Read ``value`` as a row statistic that broadcasts against what it was taken from.

    ``op`` is ``ReduceSum``, ``ReduceMax`` or ``ReduceLogSumExp``.
    Looks through Identity, Expand and, after a reduction that drops its axes (as JAX writes it),
    the Reshape or Unsqueeze that puts ones in their place; a maximum may be clamped at -inf.
    Returns None for anything else.
    """
    top = value
    passed: list[Node] = []
    inserted = ""  # the value whose ones a Reshape or Unsqueeze has put in
    for _ in range(MAX_STEPS):
        node = view.producer(value)
        if node is None:
            return None
        if node.op == op:
            return _reduction(node, top, inserted, passed, facts)
        if node.op in ("Reshape", "Unsqueeze"):
            inserted = inserted or value
        elif node.op == "Max" and op == "ReduceMax" and len(node.inputs) == 2:
            low = facts.scalar(node.inputs[0])
            if low is None or not math.isinf(low) or low > 0:
                return None
            value = node.inputs[1]
            passed.append(node)
            continue
        elif node.op != "Identity" and (node.op != "Expand" or inserted):
            return None
        passed.append(node)
        value = node.inputs[0]
    return None


def _reduction(
    node: Node, top: str, inserted: str, passed: list[Node], facts: Facts
) -> RowStat | None:
    axes = _reduced_axes(node, facts)
    if axes is None or bool(node.attrs.get("keepdims", 1)) == bool(inserted):
        return None
    if passed:
        source = facts.shape(node.inputs[0])
        if source is None:
            return None
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(source))
        if inserted and facts.shape(inserted) != kept:
            return None
        if facts.shape(top) not in (kept, source):
            return None
    return RowStat(node.inputs[0], axes, (node, *passed))


def _reduced_axes(node: Node, facts: Facts) -> tuple[int, ...] | None:
    rank = facts.rank(node.inputs[0])
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        content = facts.content(node.inputs[1])
        axes = None if content is None else content.reshape(-1).tolist()
    if axes is None or not rank:
        return None
    return tuple(sorted(int(axis) % rank for axis in axes))
