"""Write operators that are newer than the target opset in older ones.

Gelu, RMSNormalization, Swish and Mish get short hand-made forms that ATC's fusion knows; everything
else takes the function body that onnx itself defines for the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, inliner, numpy_helper

from omfuse.atc.constants import all_graphs, int_attribute, known_dtypes, known_shapes

_DEFAULT_DOMAIN = ("", "ai.onnx")


class _Builder:
    """Collects the nodes that replace one node; names derive from its first output."""

    def __init__(self, node: onnx.NodeProto, dtype: int, rank: int | None, target: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.dtype, self.rank, self.target = dtype, rank, target
        self._base = node.output[0]

    def const(self, value: float | list[int], dtype: int | None = None) -> str:
        wanted = dtype or self.dtype
        array = np.array(value, helper.tensor_dtype_to_np_dtype(wanted))
        return self.op("Constant", value=numpy_helper.from_array(array))

    def op(self, op_type: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        mark = f"{self._base}/{op_type}_{len(self.nodes)}"
        output = to or mark
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], mark, **attributes))
        return output

    def cast(self, x: str, dtype: int) -> str:
        output = self.op("Cast", x)
        self.nodes[-1].attribute.append(helper.make_attribute("to", dtype))
        return output


def _gelu(node: onnx.NodeProto, b: _Builder) -> bool:
    x, out = node.input[0], node.output[0]
    if any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute):
        cube = b.op("Mul", b.op("Mul", x, x), x)
        inner = b.op("Add", x, b.op("Mul", cube, b.const(0.044715)))
        part = b.op("Tanh", b.op("Mul", inner, b.const((2 / np.pi) ** 0.5)))
    else:
        part = b.op("Erf", b.op("Div", x, b.const(2**0.5)))
    scaled = b.op("Mul", x, b.op("Add", part, b.const(1.0)))
    b.op("Mul", scaled, b.const(0.5), to=out)
    return True


def _rms_norm(node: onnx.NodeProto, b: _Builder) -> bool:
    axis = int_attribute(node, "axis", -1)
    if b.rank is None and axis != -1:
        return False
    axes = [-1] if axis == -1 else list(range(axis % (b.rank or 1), b.rank or 1))
    stash = int_attribute(node, "stash_type", TensorProto.FLOAT)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    narrow = b.dtype != stash
    x = b.cast(node.input[0], stash) if narrow else node.input[0]
    square = b.op("Mul", x, x)
    if b.target < 18:
        mean = b.op("ReduceMean", square, axes=axes, keepdims=1)
    else:
        mean = b.op("ReduceMean", square, b.const(axes, TensorProto.INT64), keepdims=1)
    normal = b.op("Div", x, b.op("Sqrt", b.op("Add", mean, b.const(epsilon, stash))))
    if narrow:
        normal = b.cast(normal, b.dtype)
    b.op("Mul", normal, node.input[1], to=node.output[0])
    return True


def _swish(node: onnx.NodeProto, b: _Builder) -> bool:
    alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
    x = node.input[0]
    inner = x if alpha == 1.0 else b.op("Mul", x, b.const(alpha))
    b.op("Mul", x, b.op("Sigmoid", inner), to=node.output[0])
    return True


def _mish(node: onnx.NodeProto, b: _Builder) -> bool:
    x = node.input[0]
    b.op("Mul", x, b.op("Tanh", b.op("Softplus", x)), to=node.output[0])
    return True


_HAND: dict[str, Callable[[onnx.NodeProto, _Builder], bool]] = {
    "Gelu": _gelu,
    "RMSNormalization": _rms_norm,
    "Swish": _swish,
    "Mish": _mish,
}


def expand_newer(
    model: onnx.ModelProto, source: int, target: int
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Return a copy of the model without operators that ``target`` lacks, and what was expanded.

    Operators that nothing can expand stay; lowering reports them.
    """
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    done: dict[str, int] = {}
    shapes, dtypes = known_shapes(trial), known_dtypes(trial)
    for graph in all_graphs(trial.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            replaced = _by_hand(node, shapes, dtypes, target)
            if replaced:
                done[node.op_type] = done.get(node.op_type, 0) + 1
            nodes.extend(replaced or [node])
        if len(nodes) != len(graph.node):
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
            del graph.node[:]
            graph.node.extend(copies)
    left = sorted(
        {
            n.op_type
            for g in all_graphs(trial.graph)
            for n in g.node
            if n.domain in _DEFAULT_DOMAIN and _has_newer_body(n.op_type, source, target)
        }
    )
    if left:
        for graph in all_graphs(trial.graph):
            for node in graph.node:
                if node.op_type in left:
                    done[node.op_type] = done.get(node.op_type, 0) + 1
        _type_initializers(trial)
        trial = inliner.inline_selected_functions(
            trial, [("", name) for name in left], inline_schema_functions=True
        )
        trial = onnx.shape_inference.infer_shapes(trial, data_prop=True)
    _settle_cast_like(trial)
    return trial, done


def _type_initializers(model: onnx.ModelProto) -> None:
    """Write down the types of initializers, which the inliner asks for."""
    for graph in all_graphs(model.graph):
        known = {i.name for i in (*graph.value_info, *graph.input)}
        graph.value_info.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            for t in graph.initializer
            if t.name not in known
        )


def _by_hand(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int | None, ...]],
    dtypes: dict[str, int],
    target: int,
) -> list[onnx.NodeProto]:
    rule = _HAND.get(node.op_type)
    if rule is None or node.domain not in _DEFAULT_DOMAIN or not _missing(node.op_type, target):
        return []
    dtype = dtypes.get(node.input[0]) or dtypes.get(node.output[0])
    if not dtype:
        return []
    shape = shapes.get(node.input[0])
    builder = _Builder(node, dtype, None if shape is None else len(shape), target)
    return builder.nodes if rule(node, builder) else []


def _missing(op_type: str, target: int) -> bool:
    try:
        defs.get_schema(op_type, target, "")
    except defs.SchemaError:
        return True
    return False


def _has_newer_body(op_type: str, source: int, target: int) -> bool:
    """Tell whether an operator must and can be written by onnx's own function body."""
    try:
        schema: Any = defs.get_schema(op_type, source, "")
    except defs.SchemaError:
        return False
    has_body = schema.has_function or schema.has_context_dependent_function
    changed = op_type == "GroupNormalization" and schema.since_version > target
    return has_body and (_missing(op_type, target) or changed)


def _settle_cast_like(model: onnx.ModelProto) -> None:
    """Write CastLike as Cast where the wanted type is known; plug-ins rarely list CastLike."""
    dtypes = known_dtypes(model)
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.op_type == "CastLike" and node.domain in _DEFAULT_DOMAIN:
                dtype = dtypes.get(node.input[1])
                if dtype:
                    node.op_type = "Cast"
                    del node.input[1:]
                    del node.attribute[:]
                    node.attribute.append(helper.make_attribute("to", dtype))
