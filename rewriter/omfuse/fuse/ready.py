"""Wrap the lowering of an operator that is one attention already."""

from __future__ import annotations

from omfuse.fuse.contract import FlashAttentionAttrs, make_flash_attention
from omfuse.fuse.emit import Emitter
from omfuse.fuse.lower import Fusion
from omfuse.graph.facts import Facts
from omfuse.graph.view import Node


def ready_fusion(
    node: Node,
    name: str,
    attrs: FlashAttentionAttrs,
    inputs: list[str],
    emitter: Emitter,
    facts: Facts,
    dtype: int,
) -> Fusion:
    """Return the fusion that replaces ``node`` by what ``emitter`` holds and one node of ours."""
    bias = inputs[3] if len(inputs) > 3 else ""
    made = make_flash_attention(attrs, inputs, node.outputs[0], name, node.name, node.outputs[0])
    heads = f"{attrs.num_heads}/{attrs.num_kv_heads} heads"
    return Fusion(
        anchor=node,
        position=node.index,
        attrs=attrs,
        node=made,
        nodes=[*emitter.nodes, made],
        initializers=emitter.initializers,
        removed=(node,),
        shape_nodes=[],
        dtype=dtype,
        bias_dtype=facts.dtype(bias) or dtype if bias else 0,
        output=node.outputs[0],
        normal_form=f"{node.op}({attrs.layout}, {heads}, scale {attrs.scale:.6g})",
        exactness="exact",
    )
