"""Names and edges that ATC's parser trips over."""

from __future__ import annotations

import onnx

from omfuse.atc.constants import all_graphs


def settle_names(model: onnx.ModelProto) -> int:
    """Give every node of the model its own name; returns how many were renamed.

    ATC names an unnamed node ``<op_type>_<n>`` and refuses duplicates (E13009); names of the
    subgraphs of ``If`` share the space of the root.
    """
    taken: set[str] = set()
    renamed = 0
    for graph in all_graphs(model.graph):
        for node in graph.node:
            wanted = node.name or (next((o for o in node.output if o), "") or node.op_type)
            name, count = wanted, 1
            while name in taken:
                name, count = f"{wanted}_{count}", count + 1
            renamed += name != node.name
            node.name = name
            taken.add(name)
    return renamed


def settle_outputs(model: onnx.ModelProto) -> int:
    """Strip trailing empty outputs and name inner ones; returns how many were touched.

    An output named ``""`` would feed every empty optional input of other nodes, because the parser
    keeps outputs in a map by name.
    """
    touched = 0
    for graph in all_graphs(model.graph):
        for node in graph.node:
            while len(node.output) > 1 and not node.output[-1]:
                node.output.pop()
                touched += 1
            for index, output in enumerate(node.output):
                if not output:
                    node.output[index] = f"{node.name}/unused_{index}"
                    touched += 1
    return touched


def drop_initializer_inputs(model: onnx.ModelProto) -> int:
    """Remove initializers from the graph inputs, as the parser does (IR 3 style files)."""
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    dropped = len(model.graph.input) - len(kept)
    if dropped:
        copies = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)
    return dropped


def drop_dead(model: onnx.ModelProto) -> int:
    """Remove nodes and initializers of the root graph that nothing reads."""
    graph = model.graph
    used = {o.name for o in graph.output}
    for inner in all_graphs(graph):
        used.update(o.name for o in inner.output)
        if inner is not graph:
            used.update(i for n in inner.node for i in n.input)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(o in used for o in node.output):
            used.update(node.input)
            kept.append(node)
    dropped = len(graph.node) - len(kept)
    if dropped:
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
        del graph.node[:]
        graph.node.extend(copies)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
            dropped += 1
    return dropped
