"""What the same precision does to the unfused model, found on any CPU.

Every float value of the graph is wrapped in ``Cast(fp16 or bf16) -> Cast(float)``: each operator
computes in fp32 and its result is rounded to the narrow dtype, which is what an unfused kernel
with fp32 accumulation does.  onnxruntime keeps the pairs at every optimisation level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff import weights
from omfuse.host import shapes

ELEM = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_WIDE = TensorProto.FLOAT
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Half of fp16's largest value: two such mask fills still add up to a finite number.
_CLAMP = {"fp16": 65504.0 / 2, "bf16": 3.0e38}
_PREFIX = "omfuse.rounded."


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an independent copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with local functions inlined."""
    if not model.functions:
        return copy_of(model)
    from onnx import inliner

    inlined: onnx.ModelProto = inliner.inline_local_functions(copy_of(model))
    return inlined


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in fp32 where the model computes in fp16 or bf16.

    Inputs become float: feed the same values, converted exactly.
    """
    wide = flat(model)
    for graph in shapes.graphs(wide.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _HALVES:
                value.type.tensor_type.elem_type = _WIDE
        casts = []
        for tensor in graph.initializer:
            if _is_large_half(tensor):
                casts.append(_widen_large(tensor))
            else:
                _widen_tensor(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype", "stash_type") and attribute.i in _HALVES:
                    attribute.i = _WIDE
                if attribute.HasField("t"):
                    _widen_tensor(attribute.t)
        if casts:
            _put_first(graph, casts)
    return wide


def _put_first(graph: onnx.GraphProto, casts: Sequence[onnx.NodeProto]) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    made = {name for cast in casts for name in cast.output}
    for value in [v for v in graph.input if v.name in made]:  # weights listed as inputs
        graph.input.remove(value)


def _is_large_half(tensor: TensorProto) -> bool:
    size = 2 * math.prod(tensor.dims)
    return tensor.data_type in _HALVES and (size > weights.SMALL or weights.is_external(tensor))


def _widen_large(tensor: TensorProto) -> onnx.NodeProto:
    """Rename a tensor and return the cast that makes it float under its old name."""
    name, tensor.name = tensor.name, f"{_PREFIX}half.{tensor.name}"
    return helper.make_node("Cast", [tensor.name], [name], f"{tensor.name}.up", to=_WIDE)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in _HALVES:
        return
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def rounded(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a copy of an fp32 model in which every float value is rounded to a narrow dtype.

    Args:
        model: an fp32 model without local functions (see :func:`widen`).
        precision: ``fp16`` or ``bf16``.
    """
    result = copy_of(model)
    del result.graph.value_info[:]
    types = _float_names(model)
    narrow, clamp = ELEM[precision], _CLAMP[precision]
    for graph, floats in zip(shapes.graphs(result.graph), types, strict=True):
        _round_graph(graph, floats, narrow, clamp)
    return result


def _float_names(model: onnx.ModelProto) -> list[set[str]]:
    known = shapes.infer(model, {})
    return [{name for name, value in found.items() if value.elem_type == _WIDE} for found in known]


def _round_graph(graph: onnx.GraphProto, floats: set[str], narrow: int, clamp: float) -> None:
    before: list[onnx.NodeProto] = []
    rename: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.data_type == _WIDE:
            _clamp_tensor(tensor, clamp)
            rename[tensor.name] = _PREFIX + tensor.name
            before.extend(_pair(tensor.name, rename[tensor.name], narrow))
    for value in graph.input:
        if value.type.tensor_type.elem_type == _WIDE and value.name not in rename:
            rename[value.name] = _PREFIX + value.name
            before.extend(_pair(value.name, rename[value.name], narrow))
    nodes = list(before)
    for node in graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for position, name in enumerate(kept.input):
            kept.input[position] = rename.get(name, name)
        _rename_inside(kept, rename)
        for attribute in kept.attribute:
            if attribute.HasField("t") and attribute.t.data_type == _WIDE:
                _clamp_tensor(attribute.t, clamp)
        after: list[onnx.NodeProto] = []
        for position, name in enumerate(node.output):
            if name in floats:
                raw = f"{_PREFIX}raw.{name}"
                kept.output[position] = raw
                after.extend(_pair(raw, name, narrow))
        nodes.append(kept)
        nodes.extend(after)
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_inside(node: onnx.NodeProto, rename: dict[str, str]) -> None:
    for inner in shapes.subgraphs(node):
        own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
        own |= {name for n in inner.node for name in n.output}
        visible = {old: new for old, new in rename.items() if old not in own}
        for child in inner.node:
            for position, name in enumerate(child.input):
                child.input[position] = visible.get(name, name)
            _rename_inside(child, visible)


def _pair(source: str, target: str, narrow: int) -> list[onnx.NodeProto]:
    middle = f"{target}.{'fp16' if narrow == TensorProto.FLOAT16 else 'bf16'}"
    return [
        helper.make_node("Cast", [source], [middle], f"{middle}.down", to=narrow),
        helper.make_node("Cast", [middle], [target], f"{middle}.up", to=_WIDE),
    ]


def _clamp_tensor(tensor: TensorProto, limit: float) -> None:
    """Bring finite constants (mask fills) into the narrow range; weights are far inside it."""
    if weights.is_external(tensor):
        return
    array = numpy_helper.to_array(tensor)
    outside = np.isfinite(array) & (np.abs(array) > limit)
    if outside.any():
        array = np.where(outside, np.sign(array) * np.float32(limit), array).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def row_maxima(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Add the largest score of every softmax row as outputs: small tensors that tell dead rows.

    Returns:
        The changed copy and the names of the new outputs, ``[..., Sq]`` each.
    """
    copy = copy_of(model)
    opset = max((o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), default=17)
    names = []
    extra: list[onnx.NodeProto] = []
    for number, node in enumerate(list(copy.graph.node)):
        if node.op_type != "Softmax":
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
        name = f"omfuse.rowmax.{number}"
        inputs = [node.input[0]]
        if opset >= 18:
            copy.graph.initializer.append(
                numpy_helper.from_array(np.array([axis], np.int64), f"{name}.axes")
            )
            inputs.append(f"{name}.axes")
            extra.append(helper.make_node("ReduceMax", inputs, [name], name, keepdims=0))
        else:
            extra.append(
                helper.make_node("ReduceMax", inputs, [name], name, axes=[axis], keepdims=0)
            )
        names.append(name)
    copy.graph.node.extend(extra)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy, names


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are ``names`` alone."""
    copy = copy_of(model)
    known = {value.name: value for value in (*copy.graph.output, *copy.graph.value_info)}
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(known.get(name) or helper.make_empty_tensor_value_info(name))
    return copy
