"""Where a search starts: every softmax of a graph, whatever operators it is written with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.declined import Declined


@dataclass(frozen=True)
class Anchor:
    """One softmax: where its scores come from, its axes, and where its weights go."""

    node: Node
    scores: str
    weights: str
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]
    normaliser: Node | None = None  # the row sum, when it divides the product with the value


def find_anchors(view: GraphView, facts: Facts) -> Iterator[Anchor | tuple[Node, Declined]]:
    """Yield the anchors of a graph in node order, or the reason why one is not usable."""
    for node in view.nodes:
        try:
            if node.op == "Softmax":
                yield _native(node, facts)
            elif node.op in ("Div", "Mul"):
                anchor = _decomposed(node, view, facts) or _late(node, view, facts)
                if anchor is not None:
                    yield anchor
            elif node.op == "Exp":
                anchor = _exp_of_log(node, view, facts)
                if anchor is not None:
                    yield anchor
        except Declined as declined:
            yield node, declined


def softmax_axes(node: Node, facts: Facts) -> tuple[int, ...]:
    """Return the axes a Softmax or LogSoftmax normalises over.

    Before opset 13 the operator flattens its input at ``axis`` (default 1) and normalises over
    everything behind it; from opset 13 on it is one axis (default -1).
    """
    rank = facts.rank(node.inputs[0])
    if rank is None:
        raise Declined("unknown-shape", "the rank of the softmax input is unknown")
    if rank == 0:
        raise Declined("softmax-axis", "the softmax runs over a single number", attention=False)
    if facts.opset < 13:
        axis = int(node.attrs.get("axis", 1)) % rank
        return tuple(range(axis, rank))
    return (int(node.attrs.get("axis", -1)) % rank,)


def _native(node: Node, facts: Facts) -> Anchor:
    return Anchor(node, node.inputs[0], node.outputs[0], softmax_axes(node, facts), (node,))


def _reduced_axes(node: Node, facts: Facts) -> tuple[int, ...] | None:
    rank = facts.rank(node.inputs[0])
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        content = facts.content(node.inputs[1])
        axes = None if content is None else content.reshape(-1).tolist()
    if axes is None or not rank or not node.attrs.get("keepdims", 1):
        return None
    return tuple(sorted(int(axis) % rank for axis in axes))


def _decomposed(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``Exp(x) / ReduceSum(Exp(x))`` and ``Exp(x) * Reciprocal(ReduceSum(Exp(x)))``."""
    for top, bottom in ((0, 1), (1, 0)) if node.op == "Mul" else ((0, 1),):
        exp = view.producer(node.inputs[top])
        total = view.producer(node.inputs[bottom])
        nodes = [node]
        if node.op == "Mul":
            if total is None or total.op != "Reciprocal":
                continue
            nodes.append(total)
            total = view.producer(total.inputs[0])
        if exp is None or exp.op != "Exp" or total is None or total.op != "ReduceSum":
            continue
        if total.inputs[0] != exp.outputs[0]:
            continue
        axes = _reduced_axes(total, facts)
        if axes is None:
            continue
        nodes += [exp, total]
        scores = _without_maximum(exp.inputs[0], axes, view, facts, nodes)
        return Anchor(node, scores, node.outputs[0], axes, tuple(nodes))
    return None


def _late(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``(Exp(x) . V) / ReduceSum(Exp(x))``, where the row sum divides the product."""
    total = view.producer(node.inputs[1])
    if node.op != "Div" or total is None or total.op != "ReduceSum":
        return None
    exp = view.producer(total.inputs[0])
    axes = _reduced_axes(total, facts)
    if exp is None or exp.op != "Exp" or axes is None:
        return None
    nodes = [node, exp, total]
    scores = _without_maximum(exp.inputs[0], axes, view, facts, nodes)
    return Anchor(node, scores, exp.outputs[0], axes, tuple(nodes), total)


def _without_maximum(
    value: str, axes: tuple[int, ...], view: GraphView, facts: Facts, nodes: list[Node]
) -> str:
    """Skip the subtraction of the row maximum, which softmax does not see."""
    minus = view.producer(value)
    if minus is None or minus.op != "Sub":
        return value
    top = view.producer(minus.inputs[1])
    if top is None or top.op != "ReduceMax" or top.inputs[0] != minus.inputs[0]:
        return value
    if _reduced_axes(top, facts) != axes:
        return value
    nodes += [minus, top]
    return minus.inputs[0]


def _exp_of_log(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``Exp(LogSoftmax(x))`` and ``Exp(x - ReduceLogSumExp(x))``."""
    source = view.producer(node.inputs[0])
    if source is None:
        return None
    if source.op == "LogSoftmax":
        axes = softmax_axes(source, facts)
        return Anchor(node, source.inputs[0], node.outputs[0], axes, (node, source))
    if source.op == "Sub":
        total = view.producer(source.inputs[1])
        if total is not None and total.op == "ReduceLogSumExp":
            axes_found = _reduced_axes(total, facts)
            if total.inputs[0] == source.inputs[0] and axes_found is not None:
                nodes = (node, source, total)
                return Anchor(node, source.inputs[0], node.outputs[0], axes_found, nodes)
    return None
