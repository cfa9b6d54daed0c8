"""Values known before the run: initializers, Constant nodes, and short chains over known shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_ARITHMETIC = ("Add", "Cast", "Div", "Mul", "Neg", "Range", "Sub")
_LAYOUT = ("Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")
_CHAIN = frozenset((*_ARITHMETIC, *_LAYOUT, "Constant", "Shape", "Size"))
_MAX_CHAIN = 24
_MAX_ELEMENTS = 4096
Array = NDArray[Any]


class Constants:
    """Look up small constant values of one graph.

    Args:
        graph: the graph; values of outer graphs are found through ``outer``.
        shapes: tensor name -> static shape, for ``Shape`` chains.
        opset: opset of the default domain, for evaluating chains.
        outer: constants of the enclosing graph.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        shapes: Mapping[str, Sequence[int | None]],
        opset: int,
        outer: Constants | None = None,
    ) -> None:
        self._tensors: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self._producers = {o: n for n in graph.node for o in n.output if o}
        self._shapes, self._opset, self._outer = shapes, opset, outer

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """Return the stored tensor behind a name, also when its data is external."""
        known: onnx.TensorProto | None = self._tensors.get(name)
        if known is not None:
            return known
        node = self._producers.get(name)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    stored: onnx.TensorProto = attribute.t
                    return stored
            return None
        return self._outer.tensor(name) if node is None and self._outer else None

    def value(self, name: str) -> Array | None:
        """Return the value of a tensor, None when it is not constant, external or large."""
        if not name:
            return None
        try:
            return self._value(name, [_MAX_CHAIN])
        except (ValueError, TypeError, IndexError, RuntimeError, KeyError, ZeroDivisionError):
            return None

    def _value(self, name: str, budget: list[int]) -> Array | None:
        stored = self._tensors.get(name)
        if stored is not None:
            small = int(np.prod(stored.dims, dtype=np.int64)) <= _MAX_ELEMENTS
            external = stored.data_location == onnx.TensorProto.EXTERNAL
            return None if external or not small else numpy_helper.to_array(stored)
        node = self._producers.get(name)
        if node is None:
            return self._outer.value(name) if self._outer else None
        budget[0] -= 1
        if budget[0] < 0 or node.op_type not in _CHAIN or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in ("Shape", "Size"):
            return self._shape_value(node)
        if node.op_type == "Constant":
            return _constant_value(node)
        feeds: dict[str, Array] = {}
        for source in node.input:
            found = self._value(source, budget) if source else None
            if source and found is None:
                return None
            if found is not None:
                feeds[source] = found
        return _evaluate(node, feeds, name, self._opset)

    def _shape_value(self, node: onnx.NodeProto) -> Array | None:
        shape = self._shapes.get(node.input[0])
        if shape is None or any(d is None for d in shape):
            return None
        dims = [int(d or 0) for d in shape]
        if node.op_type == "Size":
            return np.array(int(np.prod(dims, dtype=np.int64)), np.int64)
        start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(dims))
        return np.array(dims[start:end], np.int64)


def stored_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Read the external data of a tensor; also through links, which onnx itself refuses.

    Raises:
        OSError: when the file is not there.
        ValueError: when it is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries.get("location", "")).open("rb") as stream:
        stream.seek(int(entries.get("offset", 0)))
        length = int(entries.get("length", 0))
        data: bytes = stream.read(length) if length else stream.read()
    if len(data) < length:
        raise ValueError(f"the external data of {tensor.name} ends early")
    return data


def embedded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """Return a copy of a tensor that holds its external data; see :func:`stored_bytes`."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.raw_data = stored_bytes(tensor, folder)
    copy.data_location = onnx.TensorProto.DEFAULT
    del copy.external_data[:]
    return copy


def _constant_value(node: onnx.NodeProto) -> Array | None:
    attribute = node.attribute[0]
    value: Any = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        external = value.data_location == onnx.TensorProto.EXTERNAL
        return None if external else numpy_helper.to_array(value)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    return None


def _evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, Array], name: str, opset: int
) -> Array | None:
    from onnx.reference import ReferenceEvaluator

    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in feeds.items()
    ]
    output = helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "chain", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    results: Any = ReferenceEvaluator(model).run([name], dict(feeds))
    return np.asarray(results[0])


def int_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Read an int attribute."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute, replacing an older value."""
    drop_attribute(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def drop_attribute(node: onnx.NodeProto, name: str) -> None:
    """Remove an attribute if it is there."""
    kept = [a for a in node.attribute if a.name != name]
    if len(kept) != len(node.attribute):
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes written in a model (inputs, outputs, value infos, initializers)."""
    found: dict[str, tuple[int | None, ...]] = {}
    for graph in all_graphs(model.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            tensor = info.type.tensor_type
            if tensor.HasField("shape"):
                found[info.name] = tuple(
                    d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
                    for d in tensor.shape.dim
                )
        found.update({t.name: tuple(t.dims) for t in graph.initializer})
    return found


def known_dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types written in a model, as ONNX numbers."""
    found: dict[str, int] = {}
    for graph in all_graphs(model.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.HasField("tensor_type"):
                found[info.name] = info.type.tensor_type.elem_type
        found.update({t.name: t.data_type for t in graph.initializer})
    return found
