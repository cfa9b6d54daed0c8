"""Ways to damage a model file or its graph; used by tests/hardening and by fault_matrix.py."""

from __future__ import annotations

import copy
from collections.abc import Callable

import onnx
from onnx import AttributeProto

BYTES = ("flip", "cut", "drop", "repeat")


def damage_bytes(data: bytes, damages: list[tuple[str, int, int]]) -> bytes:
    """Apply (kind, position, size) one after the other."""
    result = bytearray(data)
    for kind, at, size in damages:
        at %= max(len(result), 1)
        if kind == "flip" and result:
            result[at] ^= 1 << (size % 8)
        elif kind == "cut":
            del result[at:]
        elif kind == "drop":
            del result[at : at + size]
        else:
            result[at:at] = result[at : at + size]
    return bytes(result)


def retarget(model: onnx.ModelProto, a: int, b: int) -> None:
    """Let a node read another value."""
    nodes = model.graph.node
    names = [value.name for value in model.graph.input]
    names += [name for node in nodes for name in node.output]
    node = nodes[a % len(nodes)]
    if node.input:
        node.input[b % len(node.input)] = names[(a * 7 + b) % len(names)]


def drop_input(model: onnx.ModelProto, a: int, b: int) -> None:
    node = model.graph.node[a % len(model.graph.node)]
    if node.input:
        del node.input[b % len(node.input)]


def other_op(model: onnx.ModelProto, a: int, b: int) -> None:
    ops = ("Add", "Mul", "MatMul", "Softmax", "Where", "Transpose", "Concat", "Sub", "Einsum")
    model.graph.node[a % len(model.graph.node)].op_type = ops[b % len(ops)]


def other_attribute(model: onnx.ModelProto, a: int, b: int) -> None:
    node = model.graph.node[a % len(model.graph.node)]
    for attribute in node.attribute:
        if attribute.type == AttributeProto.INT:
            attribute.i = b - 50
        elif attribute.type == AttributeProto.INTS and attribute.ints:
            attribute.ints[b % len(attribute.ints)] = b - 50
        elif attribute.type == AttributeProto.FLOAT:
            attribute.f = float(b - 50)


def other_dim(model: onnx.ModelProto, a: int, b: int) -> None:
    value = model.graph.input[a % len(model.graph.input)]
    dims = value.type.tensor_type.shape.dim
    if dims:
        dims[b % len(dims)].dim_value = (0, 1, 3, 2**62, -5)[b % 5]


def remove_node(model: onnx.ModelProto, a: int, _: int) -> None:
    del model.graph.node[a % len(model.graph.node)]


def no_type(model: onnx.ModelProto, a: int, _: int) -> None:
    model.graph.input[a % len(model.graph.input)].ClearField("type")


def twice(model: onnx.ModelProto, a: int, b: int) -> None:
    """Let a node write a value twice and the graph return one twice."""
    node = model.graph.node[a % len(model.graph.node)]
    if node.output:
        node.output.append(node.output[0])
    model.graph.output.append(copy.deepcopy(model.graph.output[0]))


Damage = Callable[[onnx.ModelProto, int, int], None]
GRAPH: tuple[Damage, ...] = (
    retarget, drop_input, other_op, other_attribute, other_dim, remove_node, no_type, twice,
)  # fmt: skip
