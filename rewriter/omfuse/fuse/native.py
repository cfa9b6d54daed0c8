"""Lower the standard Attention operator (ai.onnx 23 to 25) to the FlashAttention node.

Source of the rules: the operator's text in the ONNX standard, versions 23, 24 and 25, and, where
it was open, what onnxruntime 1.32 computes: causal is aligned top left without a cache, and a row
that a boolean mask empties is zero.
"""

from __future__ import annotations

import math
from typing import Any

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

OPERATOR = "Attention"
_NUMPY: dict[int, type[np.floating[Any]]] = {
    int(TensorProto.FLOAT): np.float32,
    int(TensorProto.FLOAT16): np.float16,
}
_KNOWN = {
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
}


def lower_native(node: Node, view: GraphView, facts: Facts, name: str) -> Fusion:
    """Lower one Attention node.

    Raises:
        Declined: ``native-cache``, ``native-scores``, ``native-softcap``, ``unknown-shape``,
            ``unread-attribute`` or ``dtype``.
    """
    unknown = sorted(set(node.attrs) - _KNOWN)
    if unknown:
        raise Declined("unread-attribute", f"attributes {unknown} are not known")
    names = [*node.inputs, *[""] * 7][:7]
    outputs = [*node.outputs, *[""] * 4][:4]
    if outputs[3] and (view.is_output(outputs[3]) or view.consumers(outputs[3])):
        raise Declined("native-scores", "the scores of the Attention node are read")
    if names[6]:
        raise Declined("native-cache", "the node has a nonpad_kv_seqlen input")
    causal = bool(node.attrs.get("is_causal", 0))
    if causal and names[4]:
        raise Declined("native-cache", "causal with a cache is ambiguous in the standard")
    softcap = float(node.attrs.get("softcap", 0.0))
    if softcap and names[3]:
        raise Declined("native-softcap", "soft cap and mask: their order differs by version")
    shape = facts.shape(names[0])
    if shape is None:
        raise Declined("unknown-shape", "the shape of the query is unknown")
    emitter = Emitter(name, Letters())
    heads, kv_heads, depth, layout = _geometry(node, shape, facts.shape(names[1]))
    scale = node.attrs.get("scale")
    if scale is None:
        if not isinstance(depth, int):
            raise Declined("unknown-shape", "the default scale needs a known head size")
        scale = 1.0 / math.sqrt(depth)
    key, value = names[1], names[2]
    if layout == "BSH" and (names[4] or any(outputs[1:3])):
        raise Declined("native-cache", "a cache with 3-D inputs is not supported")
    key = _cached(emitter, key, names[4], outputs[1])
    value = _cached(emitter, value, names[5], outputs[2])
    bias, mask = _mask(names[3], view, facts, emitter)
    dtype = facts.dtype(names[0]) or facts.dtype(outputs[0]) or int(TensorProto.FLOAT)
    if dtype not in FLOAT_TYPES or facts.dtype(names[2]) not in (0, dtype):
        raise Declined("dtype", "query, key and value are not of one float type")
    attrs = FlashAttentionAttrs(
        num_heads=heads,
        num_kv_heads=kv_heads,
        scale=float(np.float32(scale)),
        layout=layout,
        out_layout=layout,
        softcap=softcap,
        causal="top_left" if causal else "none",
        masked_rows="zero",
    )
    inputs = [names[0], key, value, bias, mask]
    return ready_fusion(node, name, attrs, inputs, emitter, facts, dtype)


def _geometry(
    node: Node, query: tuple[object, ...], key: tuple[object, ...] | None
) -> tuple[int, int, object, str]:
    """Return query heads, key heads, head size and layout."""
    if len(query) == 3:
        heads = int(node.attrs.get("q_num_heads", 0))
        kv_heads = int(node.attrs.get("kv_num_heads", 0))
        hidden = query[2]
        depth = hidden // heads if isinstance(hidden, int) and heads else hidden
        layout = "BSH"
    else:
        heads = query[1] if isinstance(query[1], int) else 0
        kv = key[1] if key is not None and len(key) == 4 else 0
        kv_heads = kv if isinstance(kv, int) else 0
        depth, layout = query[3], "BNSD"
    if heads < 1 or kv_heads < 1:
        raise Declined("unknown-shape", "the number of heads is unknown")
    return heads, kv_heads, depth, layout


def _cached(emitter: Emitter, value: str, past: str, present: str) -> str:
    """Append to the cache along the sequence, as the node does inside."""
    if not past and not present:
        return value
    inputs, op, attributes = ([past, value], "Concat", {"axis": 2})
    if not past:
        inputs, op, attributes = [value], "Identity", {}
    result = emitter.add(op, inputs, "present", **attributes)
    if present:
        emitter.nodes[-1].output[0] = present
        result = present
    return result


def _mask(name: str, view: GraphView, facts: Facts, emitter: Emitter) -> tuple[str, str]:
    """Return (bias, mask).

    onnxruntime counts a key as masked when the float mask holds the lowest number of its dtype (or
    -inf), which shows where that is so for a whole row: the row is zero.
    """
    if not name:
        return "", ""
    shape = facts.shape(name)
    if shape is None or len(shape) > 4:
        raise Declined("unknown-shape", "the shape of the attention mask is unknown")
    dtype = facts.dtype(name)
    if dtype == TensorProto.BOOL:
        return "", name
    kind = _NUMPY.get(dtype)
    if kind is None:
        raise Declined("dtype", "the attention mask is neither bool nor fp32 nor fp16")
    lowest = float(np.finfo(kind).min)
    maker = view.producer(name)
    if maker is not None and maker.op == "Where":
        first, second = facts.scalar(maker.inputs[1]), facts.scalar(maker.inputs[2])
        if first == 0.0 and second is not None and second <= lowest:
            return "", maker.inputs[0]
        if second == 0.0 and first is not None and first <= lowest:
            return "", emitter.add("Not", [maker.inputs[0]], "keep")
    bound = emitter.constant(np.array(lowest, dtype=kind), "lowest")
    return name, emitter.add("Greater", [name, bound], "keep")
