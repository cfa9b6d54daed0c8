"""A read-only view of one graph: who produces and who reads each value.

The view never changes the protobuf.  A subgraph (body of If, Loop or Scan) has a view of its own
whose ``outer`` is the enclosing graph; names that a subgraph reads from outside count as readers
in the outer view, with the control-flow node as the reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

STANDARD_DOMAINS = ("", "ai.onnx")


class Node:
    """One node: protobuf, position, and attributes decoded on demand."""

    __slots__ = ("_attrs", "domain", "index", "inputs", "op", "outputs", "proto")

    def __init__(self, proto: NodeProto, index: int) -> None:
        self.proto = proto
        self.index = index
        self.domain = "" if proto.domain in STANDARD_DOMAINS else proto.domain
        self.op = proto.op_type if not self.domain else f"{self.domain}::{proto.op_type}"
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self._attrs: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Node name, or its first output where the node has none."""
        return self.proto.name or (self.outputs[0] if self.outputs else "")

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes by name; strings decoded, tensors and graphs as protobufs."""
        if self._attrs is None:
            self._attrs = {}
            for attribute in self.proto.attribute:
                value = helper.get_attribute_value(attribute)
                self._attrs[attribute.name] = (
                    value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                )
        return self._attrs

    def subgraphs(self) -> Iterator[GraphProto]:
        """Yield the bodies of a control-flow node."""
        for attribute in self.proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            elif attribute.type == AttributeProto.GRAPHS:
                yield from attribute.graphs

    def __repr__(self) -> str:
        return f"{self.op}({self.name})"


class GraphView:
    """Producers, readers, constants and boundary of one graph or function body."""

    def __init__(
        self,
        nodes: Sequence[NodeProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        initializers: Sequence[TensorProto] = (),
        outer: GraphView | None = None,
        proto: GraphProto | onnx.FunctionProto | None = None,
        name: str = "",
    ) -> None:
        self.proto = proto
        self.name = name
        self.outer = outer
        self.nodes = [Node(node, index) for index, node in enumerate(nodes)]
        self.inputs = list(inputs)
        self.outputs = set(outputs)
        self.initializers = {tensor.name: tensor for tensor in initializers}
        # An initializer that is also an input may be overridden by the caller: not a constant.
        overridable = set(self.inputs) & set(self.initializers)
        self.constants = {k: v for k, v in self.initializers.items() if k not in overridable}
        self.producers: dict[str, Node] = {}
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for output in node.outputs:
                if output:
                    self.producers[output] = node
            for value in node.inputs:
                if value:
                    self.readers.setdefault(value, []).append(node)
            for body in node.subgraphs():
                for value in captured(body):
                    self.readers.setdefault(value, []).append(node)

    def producer(self, value: str) -> Node | None:
        """Return the node of this graph that writes ``value``; None across a graph boundary."""
        return self.producers.get(value)

    def consumers(self, value: str) -> list[Node]:
        """Return the nodes that read ``value``; a node appears once for each reading input."""
        return self.readers.get(value, [])

    def is_output(self, value: str) -> bool:
        """Tell whether the caller of the graph sees ``value``."""
        return value in self.outputs

    def knows(self, value: str) -> bool:
        """Tell whether ``value`` is defined in this graph itself."""
        return value in self.producers or value in self.initializers or value in self.inputs


def reads(node: NodeProto) -> set[str]:
    """Return the values a node reads, those that its subgraphs capture included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            names |= captured(attribute.g)
        elif attribute.type == AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                names |= captured(graph)
    return names


def captured(body: GraphProto) -> set[str]:
    """Return the values that a subgraph takes from the graphs around it."""
    local = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    used: set[str] = {value.name for value in body.output}
    for node in body.node:
        used |= reads(node)
        local.update(node.output)
    return used - local


def graph_views(model: onnx.ModelProto, skip_domains: Sequence[str] = ()) -> Iterator[GraphView]:
    """Yield a view of the main graph, of every nested body, and of every local function.

    Outer graphs come before inner ones; functions of ``skip_domains`` are left out.
    """
    yield from _with_bodies(model.graph, None, "")
    for function in model.functions:
        if function.domain in skip_domains:
            continue
        view = GraphView(
            function.node,
            list(function.input),
            list(function.output),
            proto=function,
            name=function.name,
        )
        yield view
        for node in view.nodes:
            for body in node.subgraphs():
                yield from _with_bodies(body, view, function.name)


def _with_bodies(graph: GraphProto, outer: GraphView | None, name: str) -> Iterator[GraphView]:
    view = GraphView(
        graph.node,
        [value.name for value in graph.input],
        [value.name for value in graph.output],
        graph.initializer,
        outer,
        graph,
        name,
    )
    yield view
    for node in view.nodes:
        for body in node.subgraphs():
            yield from _with_bodies(body, view, node.name)
