"""Find dtypes and shapes of every value without touching the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper, shape_inference

from omfuse.host.site import Value

SMALL = 4096  # elements up to which an initializer may steer shapes (Reshape, Expand, Slice)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in the attributes of a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def _value(proto: onnx.ValueInfoProto) -> Value:
    tensor = proto.type.tensor_type
    if not tensor.HasField("shape"):
        return Value(tensor.elem_type, None)
    dims = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Value(tensor.elem_type, tuple(dims))


def skeleton(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int | str]]
) -> onnx.ModelProto:
    """Copy a model without its weights: large initializers become inputs."""
    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name or "graph"
    bare.graph.node.extend(model.graph.node)
    bare.graph.output.extend(model.graph.output)
    bare.graph.value_info.extend(model.graph.value_info)
    names = set()
    for value in model.graph.input:
        copy = bare.graph.input.add()
        copy.CopyFrom(value)
        names.add(value.name)
        if value.name in input_shapes:
            elem_type = value.type.tensor_type.elem_type
            shape = list(input_shapes[value.name])
            copy.CopyFrom(helper.make_tensor_value_info(value.name, elem_type, shape))
    for tensor in model.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not external and math.prod(tensor.dims) <= SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in names:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(info)
    return bare


def infer(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int | str]]
) -> list[dict[str, Value]]:
    """Return what is known of the values of each graph, in the order of :func:`graphs`.

    Inner graphs also see the values of the graphs around them.  A model that onnx cannot infer
    gives only what it declares itself.

    Args:
        model: the model; its weights are not read.
        input_shapes: sizes that replace the declared shapes of inputs.
    """
    bare = skeleton(model, input_shapes)
    try:
        bare = shape_inference.infer_shapes(bare, check_type=False, data_prop=True)
    except Exception:  # onnx raises several unrelated types; declared shapes still help
        bare = skeleton(model, input_shapes)
    found: list[dict[str, Value]] = []

    def visit(graph: onnx.GraphProto, outer: dict[str, Value]) -> None:
        known = dict(outer)
        for tensor in graph.initializer:
            known[tensor.name] = Value(tensor.data_type, tuple(tensor.dims))
        for value in (*graph.value_info, *graph.output, *graph.input):
            known[value.name] = _value(value)
        found.append(known)
        for node in graph.node:
            for inner in subgraphs(node):
                visit(inner, known)

    visit(bare.graph, {})
    return found
