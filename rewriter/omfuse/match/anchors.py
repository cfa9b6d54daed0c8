"""Where a search starts: every softmax of a graph, whatever operators it is written with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.declined import Declined
from omfuse.match.row_stats import row_stat


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


def _decomposed(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``Exp(x) / ReduceSum(Exp(x))`` and ``Exp(x) * Reciprocal(ReduceSum(Exp(x)))``."""
    for top, bottom in ((0, 1), (1, 0)) if node.op == "Mul" else ((0, 1),):
        exp = view.producer(node.inputs[top])
        below = node.inputs[bottom]
        nodes = [node]
        if node.op == "Mul":
            inverse = view.producer(below)
            if inverse is None or inverse.op != "Reciprocal":
                continue
            nodes.append(inverse)
            below = inverse.inputs[0]
        if exp is None or exp.op != "Exp":
            continue
        total = row_stat(below, "ReduceSum", view, facts)
        if total is None or total.source != exp.outputs[0]:
            continue
        nodes += [exp, *total.nodes]
        scores = _without_maximum(exp.inputs[0], total.axes, view, facts, nodes)
        return Anchor(node, scores, node.outputs[0], total.axes, tuple(nodes))
    return None


def _late(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``(Exp(x) . V) / ReduceSum(Exp(x))``, where the row sum divides the product."""
    total = row_stat(node.inputs[1], "ReduceSum", view, facts) if node.op == "Div" else None
    exp = view.producer(total.source) if total is not None else None
    if total is None or exp is None or exp.op != "Exp":
        return None
    nodes = [node, exp, *total.nodes]
    scores = _without_maximum(exp.inputs[0], total.axes, view, facts, nodes)
    return Anchor(node, scores, exp.outputs[0], total.axes, tuple(nodes), total.nodes[0])


def _without_maximum(
    value: str, axes: tuple[int, ...], view: GraphView, facts: Facts, nodes: list[Node]
) -> str:
    """Skip the subtraction of the row maximum, which softmax does not see."""
    minus = view.producer(value)
    if minus is None or minus.op != "Sub":
        return value
    top = row_stat(minus.inputs[1], "ReduceMax", view, facts)
    if top is None or top.source != minus.inputs[0] or top.axes != axes:
        return value
    nodes += [minus, *top.nodes]
    return minus.inputs[0]


def _exp_of_log(node: Node, view: GraphView, facts: Facts) -> Anchor | None:
    """Read ``Exp(LogSoftmax(x))`` and ``Exp(x - log(sum(exp(x))))``, decomposed or not."""
    source = view.producer(node.inputs[0])
    if source is None:
        return None
    if source.op == "LogSoftmax":
        axes = softmax_axes(source, facts)
        return Anchor(node, source.inputs[0], node.outputs[0], axes, (node, source))
    if source.op != "Sub":
        return None
    total = row_stat(source.inputs[1], "ReduceLogSumExp", view, facts)
    if total is not None and total.source == source.inputs[0]:
        nodes = [node, source, *total.nodes]
        return Anchor(node, source.inputs[0], node.outputs[0], total.axes, tuple(nodes))
    log = view.producer(source.inputs[1])
    total = row_stat(log.inputs[0], "ReduceSum", view, facts) if log and log.op == "Log" else None
    exp = view.producer(total.source) if total is not None else None
    if log is None or total is None or exp is None or exp.op != "Exp":
        return None
    if exp.inputs[0] != source.inputs[0]:
        return None
    nodes = [node, source, log, exp, *total.nodes]
    scores = _without_maximum(source.inputs[0], total.axes, view, facts, nodes)
    return Anchor(node, scores, node.outputs[0], total.axes, tuple(nodes))
