"""Random attention graphs: every choice that exporters make is drawn on its own.

A :class:`Block` collects ONNX text lines; ``draw`` functions append nodes and return value names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


@dataclass
class Block:
    """Nodes, inputs and constants of a graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def add(self, op: str, *inputs: str, **attrs: Any) -> str:
        """Append a node and return its output."""
        self.count += 1
        name = f"{op.lower()}{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def const(self, value: Any) -> str:
        """Add a constant (floats become fp32, ints int64)."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def input(self, name: str, array: np.ndarray) -> str:
        """Add a graph input together with the value it is run with."""
        self.inputs[name] = array
        return name

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        """Return the finished model; output shapes are left to shape inference."""
        ins = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in self.inputs.items()
        ]
        outs = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", ins, outs, self.constants)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        return onnx.shape_inference.infer_shapes(model)


@dataclass(frozen=True)
class Sizes:
    """Batch, heads, key heads, queries, keys, depth, value depth; no two alike by accident."""

    b: int
    n: int
    kv: int
    q: int
    k: int
    d: int
    e: int


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """Draw sizes; heads are a multiple of key heads."""
    kv = draw(st.sampled_from([1, 2, 3]))
    group = draw(st.sampled_from([1, 1, 2]))
    integers = st.integers(2, 7)
    return Sizes(
        draw(st.sampled_from([1, 2])), kv * group, kv,
        draw(integers), draw(integers), draw(st.integers(2, 6)), draw(st.integers(2, 6)),
    )  # fmt: skip


def noise(draw: st.DrawFn, block: Block, value: str, shape: tuple[int, ...]) -> str:
    """Put a node that changes nothing behind ``value``."""
    kind = draw(st.sampled_from(["none", "none", "none", "identity", "cast", "reshape", "axis"]))
    if kind == "identity":
        return block.add("Identity", value)
    if kind == "cast":
        return block.add("Cast", value, to=FLOAT)
    if kind == "reshape":
        flat = block.add("Reshape", value, block.const([int(np.prod(shape[:-1])), shape[-1]]))
        return block.add("Reshape", flat, block.const(list(shape)))
    if kind == "axis":
        wide = block.add("Unsqueeze", value, block.const([0]))
        return block.add("Squeeze", wide, block.const([0]))
    return value


def operand(
    draw: st.DrawFn, block: Block, name: str, s: Sizes, heads: int, length: int, depth: int
) -> str:
    """Return ``[b, heads, length, depth]`` from one of the layouts that projections leave."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    layout = draw(st.sampled_from(["bnsd", "bsnd", "bsh", "nbsd"]))

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    if layout == "bnsd":
        value = block.input(name, random(s.b, heads, length, depth))
    elif layout == "nbsd":
        value = block.input(name, random(heads, s.b, length, depth))
        value = block.add("Transpose", value, perm=[1, 0, 2, 3])
    else:
        if layout == "bsnd":
            value = block.input(name, random(s.b, length, heads, depth))
        else:
            value = block.input(name, random(s.b, length, heads * depth))
            value = block.add("Reshape", value, block.const([s.b, length, heads, depth]))
        value = block.add("Transpose", value, perm=[0, 2, 1, 3])
    return noise(draw, block, value, (s.b, heads, length, depth))


def repeated(block: Block, value: str, s: Sizes, length: int, depth: int) -> str:
    """Repeat key heads for grouped queries, as exporters of repeat_kv do."""
    if s.n == s.kv:
        return value
    wide = block.add("Unsqueeze", value, block.const([2]))
    shape = [s.b, s.kv, s.n // s.kv, length, depth]
    wide = block.add("Expand", wide, block.const(shape))
    return block.add("Reshape", wide, block.const([s.b, s.n, length, depth]))


def scaled(draw: st.DrawFn, block: Block, value: str) -> str:
    """Multiply or divide by a number, on either side, or not at all."""
    kind = draw(st.sampled_from(["none", "mul", "lum", "div"]))
    if kind == "none":
        return value
    # Never much above 1: a softmax without its maximum taken off would overflow.
    number = block.const(draw(st.sampled_from([2.0, 8.0] if kind == "div" else [0.125, 0.3, 1.5])))
    if kind == "mul":
        return block.add("Mul", value, number)
    if kind == "lum":
        return block.add("Mul", number, value)
    return block.add("Div", value, number)


def masked(draw: st.DrawFn, block: Block, scores: str, s: Sizes, index: int) -> str:
    """Add one mask or bias in one of its forms; the first key always stays."""
    shape = [
        draw(st.sampled_from([1, s.b])),
        draw(st.sampled_from([1, s.n])),
        draw(st.sampled_from([1, s.q])),
        s.k,
    ]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    keep = rng.uniform(size=shape) > 0.4
    keep[..., 0] = True
    kind = draw(st.sampled_from(["none", "add", "dda", "sub", "where", "not", "soft", "causal"]))
    if kind in ("add", "dda", "sub"):
        bias = block.input(f"bias{index}", rng.standard_normal(shape).astype(np.float32))
        if kind == "sub":
            return block.add("Sub", scores, bias)
        return block.add("Add", *((scores, bias) if kind == "add" else (bias, scores)))
    if kind == "where":
        mask = block.input(f"mask{index}", keep)
        low = block.const(draw(st.sampled_from([-np.inf, -3.4028235e38, -1e9])))
        return block.add("Where", mask, scores, low)
    if kind == "not":
        mask = block.add("Not", block.input(f"mask{index}", keep))
        return block.add("Where", mask, block.const(-3.4028235e38), scores)
    if kind == "soft":
        ones = block.input(f"ones{index}", keep.astype(np.int64))
        drop = block.add("Sub", block.const(1.0), block.add("Cast", ones, to=FLOAT))
        return block.add("Add", scores, block.add("Mul", drop, block.const(-1e4)))
    if kind == "causal":
        triangle = np.tril(np.ones((s.q, s.k), dtype=bool))
        return block.add("Where", block.const(triangle), scores, block.const(-np.inf))
    return scores


def softmax(draw: st.DrawFn, block: Block, scores: str) -> str:
    """Write the softmax natively or in parts."""
    kind = draw(st.sampled_from(["native", "native", "parts", "stable"]))
    if kind == "native":
        return block.add("Softmax", scores, axis=draw(st.sampled_from([-1, 3])))
    if kind == "stable":
        scores = block.add("Sub", scores, block.add("ReduceMax", scores, axes=[-1], keepdims=1))
    power = block.add("Exp", scores)
    total = block.add("ReduceSum", power, block.const([-1]), keepdims=1)
    return block.add("Div", power, total)


def merged(draw: st.DrawFn, block: Block, value: str, s: Sizes) -> str:
    """Leave the output as it is, or merge the heads."""
    kind = draw(st.sampled_from(["bnsd", "bsnd", "bsh"]))
    if kind == "bnsd":
        return value
    value = block.add("Transpose", value, perm=[0, 2, 1, 3])
    if kind == "bsnd":
        return value
    return block.add("Reshape", value, block.const([s.b, s.q, s.n * s.e]))
