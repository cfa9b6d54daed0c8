"""Apply fusions to the protobuf: drop the old nodes, insert the new ones, touch nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto

from omfuse.fuse.lower import Fusion
from omfuse.graph.view import GraphView, reads


def apply(view: GraphView, fusions: Sequence[Fusion]) -> list[list[NodeProto]]:
    """Edit the graph (or function body) of ``view`` in place; return the nodes each fusion freed.

    New nodes stand where the product with the value stood, so that all their inputs are already
    computed.  Nodes that fed only removed nodes go too; everything else keeps its order and name.
    """
    removed: set[int] = set()
    inserted: dict[int, list[NodeProto]] = {}
    initializers: list[TensorProto] = []
    replaced: dict[int, list[NodeProto]] = {}
    for fusion in fusions:
        removed.update(node.index for node in fusion.removed)
        inserted[fusion.position] = fusion.nodes
        initializers.extend(fusion.initializers)
        for reader, nodes in fusion.shape_nodes:
            replaced[reader.index] = nodes
    made = {name for fusion in fusions for node in fusion.nodes for name in node.output}
    for node in view.nodes:
        if any(output in made for output in node.outputs):
            removed.add(node.index)
    constants = isinstance(view.proto, onnx.FunctionProto)
    result: list[NodeProto] = []
    if constants:
        result.extend(_as_node(tensor) for tensor in initializers)
    for node in view.nodes:
        if node.index in replaced:
            result.extend(replaced[node.index])
        elif node.index not in removed:
            result.append(node.proto)
        result.extend(inserted.get(node.index, []))
    dropped = {output: view.nodes[i].proto for i in removed for output in view.nodes[i].outputs}
    starts = [_dropped_by(fusion, dropped) for fusion in fusions]
    result, freed_by = _sweep(result, starts, view)
    proto = view.proto
    assert proto is not None
    kept = {id(node) for node in result}
    copies = [_copy(node) for node in result]
    del proto.node[:]
    proto.node.extend(copies)
    if isinstance(proto, onnx.GraphProto):
        proto.initializer.extend(initializers)
        freed = {name for node in view.nodes if id(node.proto) not in kept for name in node.inputs}
        _drop_unused_initializers(proto, freed)
    return freed_by


def _copy(node: NodeProto) -> NodeProto:
    clone = NodeProto()
    clone.CopyFrom(node)
    return clone


def _as_node(tensor: TensorProto) -> NodeProto:
    name = tensor.name
    return onnx.helper.make_node("Constant", [], [name], name=name, value=tensor)


def _dropped_by(fusion: Fusion, dropped: dict[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes a fusion replaces: those whose outputs its own nodes now make."""
    found = {id(node.proto): node.proto for node in fusion.removed}
    for made in fusion.nodes:
        for name in made.output:
            if name in dropped:
                found[id(dropped[name])] = dropped[name]
    return list(found.values())


def _sweep(
    nodes: list[NodeProto], starts: list[list[NodeProto]], view: GraphView
) -> tuple[list[NodeProto], list[list[NodeProto]]]:
    """Remove nodes that only the dropped ones read, going upward from each fusion's own.

    Returns the nodes that stay, and for each fusion the ones that it freed, its own among them; a
    node that two fusions shared counts for the later one.
    """
    uses: dict[str, int] = {}
    for node in nodes:
        for name in reads(node):
            uses[name] = uses.get(name, 0) + 1
    makers = {name: node for node in nodes for name in node.output if name}
    gone: set[int] = set()
    freed_by: list[list[NodeProto]] = []
    for dropped in starts:
        freed = list(dropped)
        waiting = [name for node in dropped for name in node.input if name]
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is None or id(maker) in gone:
                continue
            if any(uses.get(out, 0) or view.is_output(out) for out in maker.output if out):
                continue
            gone.add(id(maker))
            freed.append(maker)
            for read in reads(maker):
                uses[read] -= 1
                waiting.append(read)
        freed_by.append(freed)
    return [node for node in nodes if id(node) not in gone], freed_by


def _drop_unused_initializers(graph: onnx.GraphProto, freed: set[str]) -> None:
    """Remove the initializers that only removed nodes read."""
    used = {value.name for value in graph.output} | {value.name for value in graph.input}
    for node in graph.node:
        used |= reads(node)
    for index in reversed(range(len(graph.initializer))):
        name = graph.initializer[index].name
        if name not in used and name in freed:
            del graph.initializer[index]
    alive = {name for node in graph.node for name in node.output}
    alive |= used | {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name not in alive:
            del graph.value_info[index]
