"""Lower onnxruntime's own attention operators (com.microsoft) to the FlashAttention node.

Source of the rules: the operator texts in onnxruntime's ContribOperators.md.  Caches, packed
inputs, key padding masks and grouped queries with sequence lengths are declined by name.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from onnx import TensorProto

from omfuse.fuse.contract import FlashAttentionAttrs
from omfuse.fuse.emit import Emitter
from omfuse.fuse.lower import FLOAT_TYPES, Fusion
from omfuse.fuse.ready import ready_fusion
from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.declined import Declined
from omfuse.match.letters import Letters

MULTI_HEAD = "com.microsoft::MultiHeadAttention"
PACKED = "com.microsoft::Attention"
GROUPED = "com.microsoft::GroupQueryAttention"
_ALLOWED = {
    MULTI_HEAD: {"num_heads", "scale", "unidirectional", "mask_filter_value"},
    PACKED: {"num_heads", "scale", "unidirectional", "mask_filter_value", "qkv_hidden_sizes"},
}


def lower_contrib(node: Node, view: GraphView, facts: Facts, name: str) -> Fusion:
    """Lower one MultiHeadAttention or Attention node of onnxruntime.

    Raises:
        Declined: ``contrib-input`` for an optional input that is not supported,
            ``contrib-operator``, ``unread-attribute``, ``unknown-shape`` or ``dtype``.
    """
    if node.op not in _ALLOWED:
        raise Declined("contrib-operator", f"{node.op} is not lowered: it carries a cache")
    unknown = sorted(set(node.attrs) - _ALLOWED[node.op])
    if unknown:
        raise Declined("unread-attribute", f"attributes {unknown} are not known")
    if any(node.outputs[1:]):
        raise Declined("contrib-output", "the node also writes a cache or its scores")
    emitter = Emitter(name, Letters())
    heads = int(node.attrs["num_heads"])
    if node.op == MULTI_HEAD:
        query, key, value, bias = _multi_head(node, facts)
        width = _width(facts, query)
    else:
        query, key, value, bias, width = _packed(node, facts, emitter)
    dtype = facts.dtype(node.inputs[0]) or int(TensorProto.FLOAT)
    if dtype not in FLOAT_TYPES:
        raise Declined("dtype", "query, key and value are not fp32, fp16 or bf16")
    scale = float(node.attrs.get("scale", 0.0)) or 1.0 / math.sqrt(width // heads)
    attrs = FlashAttentionAttrs(
        num_heads=heads,
        num_kv_heads=heads,
        scale=float(np.float32(scale)),
        layout="BSH",
        out_layout="BSH",
        causal="top_left" if node.attrs.get("unidirectional", 0) else "none",
        masked_rows="zero",
    )
    return ready_fusion(node, name, attrs, [query, key, value, bias], emitter, facts, dtype)


def _need_absent(node: Node, *names: str) -> None:
    """Refuse optional inputs; ``names`` lists all inputs, "" for one that is understood."""
    for value, name in zip(node.inputs, names, strict=False):
        if value and name:
            raise Declined("contrib-input", f"the input {name} is not supported")


def _multi_head(node: Node, facts: Facts) -> tuple[str, str, str, str]:
    _need_absent(
        node, "", "", "", "bias", "key_padding_mask", "", "past_key", "past_value", "past_length"
    )
    if len(node.inputs) < 3 or not node.inputs[1] or not node.inputs[2]:
        raise Declined("contrib-input", "query, key and value are packed in one input")
    for value in node.inputs[:3]:
        if facts.rank(value) != 3:
            raise Declined("contrib-input", "query, key or value is not [batch, length, hidden]")
    query, key, value = node.inputs[:3]
    return query, key, value, node.inputs[5] if len(node.inputs) > 5 else ""


def _width(facts: Facts, value: str) -> int:
    shape = facts.shape(value)
    if shape is None or not isinstance(shape[-1], int):
        raise Declined("unknown-shape", "the hidden size is unknown")
    return shape[-1]


def _packed(node: Node, facts: Facts, emitter: Emitter) -> tuple[str, str, str, str, int]:
    """Project the input with the packed weight and split the result in three."""
    _need_absent(node, "", "", "", "mask_index", "past", "", "past_sequence_length")
    width = _width(facts, node.inputs[1])
    sizes = [int(x) for x in node.attrs.get("qkv_hidden_sizes", [width // 3] * 3)]
    if sum(sizes) != width or sizes[0] != sizes[1]:
        raise Declined("contrib-input", "the packed weight has another width than its parts")
    projected = emitter.add("MatMul", node.inputs[:2], "projected")
    if len(node.inputs) > 2 and node.inputs[2]:
        projected = emitter.add("Add", [projected, node.inputs[2]], "projected")
    bounds = [0, sizes[0], sizes[0] + sizes[1], width]
    axis = emitter.constant(np.array([2]), "axis")
    parts = []
    for start, end in pairwise(bounds):
        ends = [emitter.constant(np.array([x]), "bound") for x in (start, end)]
        parts.append(emitter.add("Slice", [projected, *ends, axis], "part"))
    bias = node.inputs[5] if len(node.inputs) > 5 else ""
    return parts[0], parts[1], parts[2], bias, sizes[0]
