"""Shapes and dtypes that a model states, or that onnx's own inference finds.

Sizes which that inference makes up are marked, so that they give way to those of the inputs.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from omfuse.graph.dims import Dim, Size, symbol, unknown

Shape = tuple[Size, ...]
Types = dict[str, tuple[int, Shape | None]]  # value -> element type (0: unknown), shape
SMALL = 64  # contents up to this many elements are followed through shape arithmetic


def elements(tensor: TensorProto) -> int:
    """Count the elements of a tensor."""
    return int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1


def value_infos(graph: onnx.GraphProto) -> Types:
    """Return what a graph states of its inputs, outputs and values."""
    found: Types = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        shape: Shape | None = None
        if tensor.HasField("shape"):
            shape = tuple(
                d.dim_value
                if d.HasField("dim_value") and d.dim_value >= 0
                else symbol(d.dim_param or f"?{value.name}.{axis}")
                for axis, d in enumerate(tensor.shape.dim)
            )
        found[value.name] = (tensor.elem_type, shape)
    return found


def declared_types(model: onnx.ModelProto) -> Types:
    """Run onnx's inference on a copy without large weights; {} from it is acceptable."""
    slim = onnx.ModelProto()
    slim.ir_version = model.ir_version
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    names = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if elements(tensor) <= SMALL and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in names:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    given = value_infos(model.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    except Exception:  # a model that onnx cannot infer is still matched by our own rules
        return given
    named = {
        size
        for value in graph.input
        for size in given.get(value.name, (0, None))[1] or ()
        if isinstance(size, Dim)
    }
    found = _marked(value_infos(inferred.graph), named, "")
    for name, (elem, shape) in _marked(given, named, "file.").items():
        if name not in found or found[name][1] is None:
            found[name] = (elem, shape)
    return found


def _marked(types: Types, named: set[Dim], origin: str) -> Types:
    """Mark sizes that onnx's inference made up or left open, unless inputs are named by them.

    Args:
        types: what is known of each value.
        named: sizes of the inputs.
        origin: tells apart what two runs made up, which both count from ``unk__0``.
    """

    def mark(size: Size) -> Size:
        if not isinstance(size, Dim) or size in named:
            return size
        text = repr(size)
        return unknown(origin + text) if text.startswith(("unk__", "?")) else size

    return {
        name: (elem, None if shape is None else tuple(map(mark, shape)))
        for name, (elem, shape) in types.items()
    }
