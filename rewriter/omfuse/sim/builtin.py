"""CANN's built-in attention in an ATC form, as a FlashAttention node that can run here.

The inverse of ``omfuse.atc.form.builtin``.  What a chip computes there is CANN's own kernel; the
simulated device computes what its public documents say, and says that it stands in.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from omfuse.fuse.contract import DOMAIN, OP_TYPE, FlashAttentionAttrs
from omfuse.host import shapes

TYPES = {
    "NPUPromptFlashAttention": "PromptFlashAttention",
    "NPUFlashAttention": "FlashAttentionScore",
}
NOTE = "omfuse.builtin"  # metadata of a node that stands in
_CAUSAL = {2: "top_left", 3: "bottom_right"}  # sparse modes whose triangle is the operator's own
_HALF, _ROW_FIX = 1, 2  # bits of inner_precise


def own_builtin(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Replace built-in attention by our node, in place; return the new nodes."""
    made: list[onnx.NodeProto] = []
    for graph in shapes.graphs(model.graph):
        if not any(node.op_type in TYPES for node in graph.node):
            continue
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes += _convert(node) if node.op_type in TYPES else [node]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        made += [node for node in graph.node if builtin_of(node)]
    return made


def builtin_of(node: onnx.NodeProto) -> str:
    """Return the built-in operator that a node stands in for, empty when it is our own."""
    return next((entry.value for entry in node.metadata_props if entry.key == NOTE), "")


def _convert(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    prompt = node.op_type == "NPUPromptFlashAttention"
    inputs = [*node.input, *[""] * 6]
    bias, hidden = (inputs[3], inputs[4]) if prompt else ("", inputs[5])
    causal = _CAUSAL.get(int(found.get("sparse_mode", 0)), "none")
    nodes: list[onnx.NodeProto] = []
    keep = ""
    if hidden and causal == "none":
        keep = f"{node.name}/keep"
        nodes.append(helper.make_node("Not", [hidden], [keep], f"{node.name}/Not"))
    names = [*inputs[:3], bias, keep]
    while not names[-1]:
        names.pop()
    attrs = _attrs(found, prompt, causal)
    ours = helper.make_node(
        OP_TYPE, names, list(node.output), node.name, domain=DOMAIN, **attrs.as_dict()
    )
    ours.metadata_props.add(key=NOTE, value=TYPES[node.op_type])
    return [*nodes, ours]


def _attrs(found: dict[str, Any], prompt: bool, causal: str) -> FlashAttentionAttrs:
    layout = found["input_layout"].decode()
    heads = int(found["num_heads" if prompt else "head_num"])
    precise = int(found.get("inner_precise" if prompt else "inner_precision", 0))
    inside, _, outside = layout.partition("_")
    return FlashAttentionAttrs(
        num_heads=heads,
        num_kv_heads=int(found.get("num_key_value_heads", 0)) or heads,
        scale=float(found["scale_value" if prompt else "scale"]),
        layout=inside,
        out_layout=outside or inside,
        causal=causal,
        masked_rows="zero" if precise & _ROW_FIX else "uniform",
        inner_precision="fp16" if precise & _HALF else "fp32",
    )
