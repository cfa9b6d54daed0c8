"""The function body of FlashAttention in standard operators: one for each signature.

Any ONNX runtime runs the body and shape inference goes through it.  A function cannot branch on
its attributes or on absent inputs, so every distinct signature gets its own overload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from omfuse.fuse.contract import DOMAIN, INPUTS, OP_TYPE, FlashAttentionAttrs

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Signature:
    """What decides the text of a body.

    ``bias_dtype`` is 0 without a bias; dtypes are ``TensorProto.DataType`` values.
    """

    attrs: FlashAttentionAttrs
    dtype: int
    bias_dtype: int
    present: tuple[str, ...]
    opset: int

    @property
    def overload(self) -> str:
        """A readable, stable name."""
        text = repr((self.attrs, self.dtype, self.bias_dtype, self.present, self.opset))
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        extras = "_".join(x.removeprefix("attn_") for x in self.present[3:])
        return "_".join(x for x in (self.attrs.layout.lower(), extras, digest) if x)


class _Writer:
    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any) -> str:
        tensor = numpy_helper.from_array(np.array(value, dtype=dtype))
        return self.add("Constant", value=tensor)

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def ints(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def size(self, value: str, axis: int) -> str:
        """One-element vector with the size of an axis."""
        return self.add("Gather", self.add("Shape", value), self.ints(axis), axis=0)


def function_body(signature: Signature, overload: str) -> FunctionProto:
    """Return the function for one signature; see ``omfuse.fuse.contract`` for the order."""
    attrs, write = signature.attrs, _Writer(signature.opset)
    inputs = [name if name in signature.present else f"{name}_absent" for name in INPUTS]
    while inputs[-1].endswith("_absent"):
        inputs.pop()
    query, key, value = (
        _as_float(write, _to_bnsd(write, name, attrs.layout, heads), signature.dtype)
        for name, heads in (
            ("query", attrs.num_heads),
            ("key", attrs.num_kv_heads),
            ("value", attrs.num_kv_heads),
        )
    )
    group = attrs.num_heads // attrs.num_kv_heads
    if group > 1:
        key, value = (_repeat(write, x, attrs.num_heads, group) for x in (key, value))
    transposed = write.add("Transpose", key, perm=[0, 1, 3, 2])
    scores = write.add("MatMul", query, transposed)
    scores = write.add("Mul", scores, write.number(attrs.scale))
    if attrs.softcap > 0:
        cap = write.number(attrs.softcap)
        scores = write.add("Mul", write.add("Tanh", write.add("Div", scores, cap)), cap)
    if "attn_bias" in signature.present:
        bias = _as_float(write, "attn_bias", signature.bias_dtype)
        scores = write.add("Add", scores, bias)
    keep = _keep(write, signature, scores)
    if keep:
        fill = LOWEST if attrs.masked_rows == "uniform" else -np.inf
        scores = write.add("Where", keep, scores, write.number(fill))
    if "sink" in signature.present:
        weights = _with_sink(write, signature, scores)
    else:
        weights = write.add("Softmax", scores, axis=-1 if signature.opset >= 13 else 3)
    if attrs.masked_rows == "zero":
        guard = write.add("IsNaN", weights)
        weights = write.add("Where", guard, write.number(0.0), weights)
    result = write.add("MatMul", weights, value)
    result = _from_bnsd(write, result, attrs.out_layout)
    if signature.dtype != TensorProto.FLOAT:
        result = write.add("Cast", result, to=signature.dtype)
    write.nodes[-1].output[0] = "output"
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        inputs,
        ["output"],
        write.nodes,
        [helper.make_opsetid("", signature.opset)],
        attributes=list(attrs.as_dict()),
        overload=overload,
    )


def _as_float(write: _Writer, value: str, dtype: int) -> str:
    return value if dtype == TensorProto.FLOAT else write.add("Cast", value, to=TensorProto.FLOAT)


def _to_bnsd(write: _Writer, value: str, layout: str, heads: int) -> str:
    if layout == "BNSD":
        return value
    if layout == "BSH":
        value = write.add("Reshape", value, write.ints(0, 0, heads, -1))
    return write.add("Transpose", value, perm=[0, 2, 1, 3])


def _from_bnsd(write: _Writer, value: str, layout: str) -> str:
    if layout == "BNSD":
        return write.add("Identity", value)
    value = write.add("Transpose", value, perm=[0, 2, 1, 3])
    return write.add("Reshape", value, write.ints(0, 0, -1)) if layout == "BSH" else value


def _repeat(write: _Writer, value: str, heads: int, group: int) -> str:
    """Repeat each key/value head ``group`` times in a row: head h reads h // group."""
    index = [head // group for head in range(heads)]
    return write.add("Gather", value, write.ints(*index), axis=1)


def _keep(write: _Writer, signature: Signature, scores: str) -> str:
    """Return the boolean keep tensor of mask, causal, window and lengths; "" when all is kept."""
    attrs = signature.attrs
    parts = ["attn_mask"] if "attn_mask" in signature.present else []
    lengths = "kv_lengths" in signature.present
    if lengths or attrs.causal != "none" or attrs.window_left >= 0 or attrs.window_right >= 0:
        parts += _positions(write, signature, scores, lengths)
    result = ""
    for part in parts:
        result = write.add("And", result, part) if result else part
    return result


def _positions(write: _Writer, signature: Signature, scores: str, lengths: bool) -> list[str]:
    attrs = signature.attrs
    q_len, kv_len = write.size(scores, 2), write.size(scores, 3)
    zero, one = write.constant(0, np.int64), write.constant(1, np.int64)
    scalar = write.constant(0, np.int64)

    def iota(length: str, shape: tuple[int, ...]) -> str:
        limit = write.add("Gather", length, scalar, axis=0)
        return write.add("Reshape", write.add("Range", zero, limit, one), write.ints(*shape))

    query, key = iota(q_len, (1, 1, -1, 1)), iota(kv_len, (1, 1, 1, -1))
    valid = kv_len
    if lengths:
        wide = write.add("Cast", "kv_lengths", to=TensorProto.INT64)
        valid = write.add("Reshape", wide, write.ints(-1, 1, 1, 1))
    if attrs.causal == "bottom_right":
        query = write.add("Add", query, write.add("Sub", valid, q_len))
    parts = [write.add("Less", key, valid)] if lengths else []
    upper = [0] if attrs.causal != "none" else []
    upper += [attrs.window_right] if attrs.window_right >= 0 else []
    for reach in upper:
        limit = write.add("Add", query, write.ints(reach + 1))
        parts.append(write.add("Less", key, limit))
    if attrs.window_left >= 0:
        limit = write.add("Sub", query, write.ints(attrs.window_left + 1))
        parts.append(write.add("Greater", key, limit))
    return parts


def _with_sink(write: _Writer, signature: Signature, scores: str) -> str:
    sink = _as_float(write, "sink", signature.dtype)
    column = write.add("Reshape", sink, write.ints(1, -1, 1, 1))
    lead = write.add("Gather", write.add("Shape", scores), write.ints(0, 1, 2), axis=0)
    shape = write.add("Concat", lead, write.ints(1), axis=0)
    column = write.add("Expand", column, shape)
    logits = write.add("Concat", scores, column, axis=3)
    weights = write.add("Softmax", logits, axis=-1 if signature.opset >= 13 else 3)
    return write.add("Slice", weights, write.ints(0), write.size(scores, 3), write.ints(3))


def present_inputs(node_inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the contract's names of the inputs that a node has."""
    return tuple(name for name, value in zip(INPUTS, node_inputs, strict=False) if value)
