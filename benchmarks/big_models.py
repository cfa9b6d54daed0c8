"""Large models with random weights, written as PyTorch's TorchScript exporter writes them.

Shapes stay symbolic, each view reads the sizes it needs (Shape, Gather, Unsqueeze, Concat), and
constants are nodes; that is where the thousands of nodes of real exports come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

FLOAT = TensorProto.FLOAT


@dataclass
class Writer:
    """Appends nodes; names follow the layer."""

    width: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    layer: str = ""

    def add(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"{self.layer}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_output_0"], name=name, **attrs))
        return f"{name}_output_0"

    def const(self, value: Any, dtype: Any = None) -> str:
        array = np.asarray(value, dtype)
        return self.add("Constant", value=numpy_helper.from_array(array))

    def number(self, value: float) -> str:
        return self.const(value, np.float32)

    def weight(self, *shape: int) -> str:
        name = f"{self.layer}.weight_{len(self.weights)}"
        rng = np.random.default_rng(len(self.weights))
        array = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def size(self, value: str, axis: int) -> str:
        return self.add("Gather", self.add("Shape", value), self.const(axis, np.int64), axis=0)

    def view(self, value: str, *dims: int | str) -> str:
        """Reshape; a string is a scalar size read from the graph."""
        parts = []
        for dim in dims:
            scalar = dim if isinstance(dim, str) else self.const(dim, np.int64)
            parts.append(self.add("Unsqueeze", scalar, self.const([0], np.int64)))
        return self.add("Reshape", value, self.add("Concat", *parts, axis=0))

    def linear(self, value: str, inner: int, outer: int) -> str:
        return self.add("MatMul", value, self.weight(inner, outer))


def _rms_norm(w: Writer, x: str) -> str:
    square = w.add("Pow", x, w.number(2.0))
    mean = w.add("ReduceMean", square, axes=[-1], keepdims=1)
    root = w.add("Sqrt", w.add("Add", mean, w.number(1e-6)))
    scale = w.add("Div", w.number(1.0), root)
    return w.add("Mul", w.add("Mul", x, scale), w.weight(w.width))


def _layer_norm(w: Writer, x: str) -> str:
    centred = w.add("Sub", x, w.add("ReduceMean", x, axes=[-1], keepdims=1))
    square = w.add("Pow", centred, w.number(2.0))
    variance = w.add("ReduceMean", square, axes=[-1], keepdims=1)
    root = w.add("Sqrt", w.add("Add", variance, w.number(1e-5)))
    normal = w.add("Div", centred, root)
    return w.add("Add", w.add("Mul", normal, w.weight(w.width)), w.weight(w.width))


def _heads(w: Writer, x: str, heads: int, depth: int) -> str:
    split = w.view(x, w.size(x, 0), w.size(x, 1), heads, depth)
    return w.add("Transpose", split, perm=[0, 2, 1, 3])


def _rotary(w: Writer, x: str, cos: str, sin: str) -> str:
    half = w.add("Div", w.size(x, 3), w.const(2, np.int64))
    half = w.add("Unsqueeze", half, w.const([0], np.int64))
    zero, axis, one = w.const([0], np.int64), w.const([3], np.int64), w.const([1], np.int64)
    first = w.add("Slice", x, zero, half, axis, one)
    end = w.const([2**63 - 1], np.int64)
    second = w.add("Neg", w.add("Slice", x, half, end, axis, one))
    turned = w.add("Concat", second, first, axis=-1)
    return w.add("Add", w.add("Mul", x, cos), w.add("Mul", turned, sin))


def _repeat(w: Writer, x: str, heads: int, group: int, depth: int) -> str:
    """Repeat key heads with the Where chain that torch.expand exports to."""
    batch, length = w.size(x, 0), w.size(x, 2)
    wide = w.add("Unsqueeze", x, w.const([2], np.int64))
    wanted = [batch, w.const(heads, np.int64), w.const(group, np.int64), length]
    parts = [w.add("Unsqueeze", p, w.const([0], np.int64)) for p in wanted]
    shape = w.add("Concat", *parts, w.const([depth], np.int64), axis=0)
    ones = w.add("ConstantOfShape", w.const([5], np.int64), value=numpy_helper.from_array(
        np.ones(1, np.int64)))  # fmt: skip
    same = w.add("Equal", shape, w.add("Mul", ones, w.const(-1, np.int64)))
    shape = w.add("Where", same, ones, shape)
    wide = w.add("Expand", wide, shape)
    return w.view(wide, batch, heads * group, length, depth)


def _attend(w: Writer, q: str, k: str, v: str, mask: str, depth: int, rows: str) -> str:
    scores = w.add("MatMul", q, w.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = w.add("Div", scores, w.number(float(np.sqrt(depth))))
    weights = w.add("Softmax", w.add("Add", scores, mask), axis=-1)
    out = w.add("Transpose", w.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return w.view(out, w.size(rows, 0), w.size(rows, 1), w.width)


def decoder(layers: int, width: int = 128, heads: int = 8, group: int = 2) -> onnx.ModelProto:
    """A decoder with rotary positions and grouped queries, about 230 nodes a layer."""
    w = Writer(width)
    depth = width // heads
    x, cos, sin, mask = "hidden", "cos", "sin", "mask"
    for index in range(layers):
        w.layer = f"/layers.{index}"
        y = _rms_norm(w, x)
        q = _rotary(w, _heads(w, w.linear(y, width, width), heads, depth), cos, sin)
        few = width // group
        k = _rotary(w, _heads(w, w.linear(y, width, few), heads // group, depth), cos, sin)
        v = _heads(w, w.linear(y, width, few), heads // group, depth)
        k = _repeat(w, k, heads // group, group, depth)
        v = _repeat(w, v, heads // group, group, depth)
        x = w.add("Add", x, w.linear(_attend(w, q, k, v, mask, depth, y), width, width))
        y = _rms_norm(w, x)
        gate = w.linear(y, width, 2 * width)
        gate = w.add("Mul", gate, w.add("Sigmoid", gate))
        up = w.add("Mul", gate, w.linear(y, width, 2 * width))
        x = w.add("Add", x, w.linear(up, 2 * width, width))
    inputs = {
        "hidden": ["batch", "length", width], "cos": ["length", depth], "sin": ["length", depth],
        "mask": ["batch", 1, "length", "length"],
    }  # fmt: skip
    return _model(w, inputs, x)


def encoder(layers: int, width: int = 256, heads: int = 8) -> onnx.ModelProto:
    """A BERT-like encoder with a padding mask."""
    w = Writer(width)
    depth = width // heads
    w.layer = "/embeddings"
    ones = w.add("Cast", "attention_mask", to=FLOAT)
    ones = w.add("Unsqueeze", ones, w.const([1, 2], np.int64))
    mask = w.add("Mul", w.add("Sub", w.number(1.0), ones), w.number(-3.4028235e38))
    x = "hidden"
    for index in range(layers):
        w.layer = f"/encoder.{index}"
        q, k, v = (_heads(w, _dense(w, x, width, width), heads, depth) for _ in range(3))
        out = _dense(w, _attend(w, q, k, v, mask, depth, x), width, width)
        x = _layer_norm(w, w.add("Add", out, x))
        inner = _dense(w, x, width, 4 * width)
        error = w.add("Erf", w.add("Div", inner, w.number(float(np.sqrt(2)))))
        inner = w.add("Mul", inner, w.add("Add", error, w.number(1.0)))
        inner = w.add("Mul", inner, w.number(0.5))
        x = _layer_norm(w, w.add("Add", _dense(w, inner, 4 * width, width), x))
    return _model(w, {"hidden": ["batch", "length", width], "attention_mask": None}, x)


def _dense(w: Writer, x: str, inner: int, outer: int) -> str:
    return w.add("Add", w.linear(x, inner, outer), w.weight(outer))


def _model(w: Writer, inputs: dict[str, Any], output: str) -> onnx.ModelProto:
    made = [
        helper.make_tensor_value_info(name, FLOAT, shape)
        if shape
        else helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name, shape in inputs.items()
    ]
    out = [helper.make_tensor_value_info(output, FLOAT, ["batch", "length", w.width])]
    graph = helper.make_graph(w.nodes, "big", made, out, w.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> None:
    """Write the model, its weights beside it when asked."""
    if external:
        external_data_helper.convert_model_to_external_data(
            model, location=f"{path.stem}.data", size_threshold=1024
        )
    onnx.save(model, path)
