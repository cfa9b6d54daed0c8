"""Join attention whose keys stand in several parts, scored apart, before the matcher reads it.

Before: ``Concat(q.K1, q.K2)``, softmax, the weights cut at the same places, ``P1.V1 + P2.V2``.
After: ``q.Concat(K1, K2)``, softmax, ``P.Concat(V1, V2)``; equal by the definition of the product.
Key and value caches that are kept apart from the new tokens are exported this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import NodeProto, helper

from omfuse.fuse.contract import DOMAIN
from omfuse.graph.dims import Size
from omfuse.graph.facts import Facts, model_facts
from omfuse.graph.view import GraphView, Node, graph_views, reads

MAX_CHAIN = 12  # nodes between the joined scores and the cut weights
LARGE = 1 << 30  # an end of a Slice at or beyond this means "to the end"


@dataclass(frozen=True)
class Part:
    """Scores against one range of keys: ``query . key``, times or by the scalar of ``scale``."""

    product: Node
    scale: Node | None


@dataclass(frozen=True)
class Join:
    """One softmax over parts of keys, and the nodes that make and use the parts."""

    softmax: str
    concat: Node
    parts: tuple[Part, ...]
    weights: str
    values: tuple[str, ...] = ()
    cuts: tuple[Node, ...] = ()
    products: tuple[Node, ...] = ()
    sums: tuple[Node, ...] = ()


def join_keys(
    model: onnx.ModelProto, without: Sequence[str] = ()
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of ``model`` with joined keys, and the softmaxes it was done for.

    Where there is nothing to join, ``model`` itself is returned.

    Args:
        model: the model; it is not changed.
        without: names of softmaxes to leave as they are.
    """
    if not any(_may_join(view) for view in graph_views(model, (DOMAIN,))):
        return model, []
    result = onnx.ModelProto()
    result.CopyFrom(model)
    views = list(graph_views(result, (DOMAIN,)))
    facts = model_facts(result, views)
    names: list[str] = []
    # Inner graphs first: an edit copies the nodes that it keeps.
    for view in reversed(views):
        found = [j for j in _find(view, facts[id(view)]) if j.softmax not in without]
        if found:
            _apply(view, found)
            names += [join.softmax for join in found]
    return (result, names) if names else (model, [])


def _may_join(view: GraphView) -> bool:
    return any(
        node.op == "Concat"
        and len(node.inputs) > 1
        and all(_part(view.producer(value), view) for value in node.inputs)
        for node in view.nodes
    )


def _part(node: Node | None, view: GraphView) -> Part | None:
    if node is not None and node.op == "MatMul":
        return Part(node, None)
    if node is not None and node.op in ("Mul", "Div"):
        product = view.producer(node.inputs[0])
        if product is not None and product.op == "MatMul":
            return Part(product, node)
    return None


def _find(view: GraphView, facts: Facts) -> list[Join]:
    found = []
    for node in view.nodes:
        if node.op == "Concat" and len(node.inputs) > 1:
            join = _read(node, view, facts)
            if join is not None:
                found.append(join)
    return found


def _read(concat: Node, view: GraphView, facts: Facts) -> Join | None:
    parts: list[Part] = []
    for value in concat.inputs:
        part = _part(view.producer(value), view)
        if part is None:
            return None
        parts.append(part)
    rank = facts.rank(concat.outputs[0])
    if rank is None or concat.attrs.get("axis", 0) not in (-1, rank - 1):
        return None
    queries = {part.product.inputs[0] for part in parts}
    if len(queries) > 1 or len({_scale(part, facts) for part in parts}) > 1:
        return None
    keys = [facts.shape(part.product.inputs[1]) for part in parts]
    if any(shape is None or len(shape) != rank for shape in keys):
        return None
    softmax = _softmax_below(concat, view)
    if softmax is None:
        return None
    sizes: list[Size] = [shape[-1] for shape in keys if shape is not None]
    join = Join(softmax.name, concat, tuple(parts), softmax.outputs[0])
    return _read_values(join, sizes, view, facts)


def _scale(part: Part, facts: Facts) -> tuple[str, float | str]:
    if part.scale is None:
        return "", 1.0
    number = facts.scalar(part.scale.inputs[1])
    return part.scale.op, part.scale.inputs[1] if number is None else number


def _softmax_below(node: Node, view: GraphView) -> Node | None:
    """Follow the only reader of each value down to a softmax."""
    for _ in range(MAX_CHAIN):
        readers = [n for n in view.consumers(node.outputs[0]) if n.op != "Shape"]
        if len(readers) != 1:
            return None
        node = readers[0]
        if node.op == "Softmax":
            return node
    return None


def _read_values(join: Join, sizes: list[Size], view: GraphView, facts: Facts) -> Join | None:
    """Find the cut of the weights, the products with the values, and their sum."""
    weights = join.weights
    readers = [n for n in view.consumers(weights) if n.op != "Shape"]
    while len(readers) == 1 and readers[0].op in ("Cast", "Identity", "Dropout"):
        weights = readers[0].outputs[0]
        readers = [n for n in view.consumers(weights) if n.op != "Shape"]
    pieces = _pieces(readers, sizes, facts)
    if pieces is None:
        return None
    products = []
    for piece in pieces:
        users = view.consumers(piece)
        if len(users) != 1 or users[0].op != "MatMul" or users[0].inputs[0] != piece:
            return None
        products.append(users[0])
    values = [product.inputs[1] for product in products]
    ranks = {facts.rank(value) for value in values}
    if len(ranks) > 1 or None in ranks or values[0] in pieces:
        return None
    sums = _sums([product.outputs[0] for product in products], view)
    if sums is None:
        return None
    return replace(
        join,
        weights=weights,
        values=tuple(values),
        cuts=tuple(readers),
        products=tuple(products),
        sums=tuple(sums),
    )


def _pieces(readers: list[Node], sizes: list[Size], facts: Facts) -> list[str] | None:
    """Return the cut weights in the order of the keys, if the cuts fall between the parts."""
    if len(readers) == 1 and readers[0].op == "Split":
        split = readers[0]
        rank = facts.rank(split.inputs[0])
        if rank is None or split.attrs.get("axis", 0) not in (-1, rank - 1):
            return None
        shapes = [facts.shape(value) for value in split.outputs]
        if [None if shape is None else shape[-1] for shape in shapes] != sizes:
            return None
        return list(split.outputs)
    if len(readers) != len(sizes) or any(node.op != "Slice" for node in readers):
        return None
    spans = {_span(node, facts): node.outputs[0] for node in readers}
    result = []
    start: Size = 0
    for index, size in enumerate(sizes):
        end = start + size
        last = index == len(sizes) - 1
        piece = spans.get((start, end)) or (spans.get((start, LARGE)) if last else None)
        if piece is None:
            return None
        result.append(piece)
        start = end
    return result


def _span(node: Node, facts: Facts) -> tuple[Size, Size] | None:
    """Return start and end of a Slice along the last axis."""
    bounds: list[list[Size]] = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        if len(node.inputs) <= index or not node.inputs[index]:
            bounds.append(list(node.attrs.get(name, ())))
            continue
        content = facts.content(node.inputs[index])
        if content is None:
            return None
        bounds.append(content.reshape(-1).tolist())
    starts, ends, axes, steps = bounds
    rank = facts.rank(node.inputs[0])
    if rank is None or {len(starts), len(ends), len(axes)} != {1}:
        return None
    if axes[0] not in (-1, rank - 1) or steps not in ([], [1]):
        return None
    end = ends[0]
    return starts[0], LARGE if isinstance(end, int) and end >= LARGE else end


def _sums(values: list[str], view: GraphView) -> list[Node] | None:
    """Return the Adds that sum up ``values`` to one, in their order; the last is the result."""
    waiting, found = set(values), []
    while len(waiting) > 1:
        for value in sorted(waiting):
            users = view.consumers(value)
            if len(users) != 1 or users[0].op != "Add" or view.is_output(value):
                return None
            add = users[0]
            if set(add.inputs) <= waiting and len(set(add.inputs)) == 2:
                waiting = (waiting - set(add.inputs)) | {add.outputs[0]}
                found.append(add)
                break
        else:
            return None
    return found


def _apply(view: GraphView, joins: list[Join]) -> None:
    """Edit the graph of ``view``: products over all keys in the places of Concat and last Add."""
    replaced: dict[int, list[NodeProto]] = {}
    candidates: set[int] = set()
    for join in joins:
        replaced[join.concat.index] = _scores(join)
        replaced[join.sums[-1].index] = _result(join)
        parts = [node for part in join.parts for node in (part.product, part.scale) if node]
        candidates |= {n.index for n in (*parts, *join.cuts, *join.products, *join.sums[:-1])}
    nodes: list[NodeProto] = []
    for node in view.nodes:
        nodes += replaced.get(node.index, [node.proto])
    loose = {id(view.nodes[index].proto) for index in candidates}
    # From the bottom up, so that a node whose only reader has gone goes too.
    used = set(view.outputs)
    kept: list[NodeProto] = []
    for proto in reversed(nodes):
        if id(proto) in loose and not used & set(proto.output):
            continue
        used |= reads(proto)
        kept.append(proto)
    copies = [NodeProto.FromString(proto.SerializeToString()) for proto in reversed(kept)]
    assert view.proto is not None
    del view.proto.node[:]
    view.proto.node.extend(copies)


def _scores(join: Join) -> list[NodeProto]:
    output = join.concat.outputs[0]
    keys, first = f"{output}/keys", join.parts[0]
    ranges = [part.product.inputs[1] for part in join.parts]
    made = [helper.make_node("Concat", ranges, [keys], keys, axis=-1)]
    product = f"{output}/product" if first.scale is not None else output
    made.append(helper.make_node("MatMul", [first.product.inputs[0], keys], [product], product))
    if first.scale is not None:
        inputs = [product, first.scale.inputs[1]]
        made.append(helper.make_node(first.scale.op, inputs, [output], output))
    return made


def _result(join: Join) -> list[NodeProto]:
    output = join.sums[-1].outputs[0]
    values = f"{output}/values"
    return [
        helper.make_node("Concat", join.values, [values], values, axis=-2),
        helper.make_node("MatMul", [join.weights, values], [output], output),
    ]
