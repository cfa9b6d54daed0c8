"""Lower FlashAttention to the attention operators that onnxruntime has.

Each target comes as a pair: ``*_refuses`` says what it cannot express (a rule never applies then,
not even when asked for), ``*_build`` emits it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from omfuse.host import layout
from omfuse.host.nodes import NodeWriter
from omfuse.host.site import Site

MICROSOFT = "com.microsoft"


def mha_refuses(site: Site) -> str | None:
    """Say why com.microsoft.MultiHeadAttention cannot be this node, or None."""
    if site.positional:
        return f"has {', '.join(site.positional)}, which leaves its flash path"
    if site.attrs.num_heads != site.attrs.num_kv_heads:
        return "num_heads differs from num_kv_heads"
    if site.attrs.scale == 0:
        return "scale 0 means 1/sqrt(D) there"
    if site.has_lse:
        return "the log-sum-exp output is used"
    if site.elem_type == TensorProto.BFLOAT16:
        return "has no bfloat16"
    return None


def mha_build(site: Site, write: NodeWriter) -> list[str]:
    """Emit MultiHeadAttention with query, key and value in BSH: only there it is O(S)."""
    attrs = site.attrs
    inputs = [layout.to_bsh(write, name, attrs.layout) for name in ("query", "key", "value")]
    inputs = [write.float32(name, site.elem_type) for name in inputs]
    out = write.add(
        "MultiHeadAttention",
        *inputs,
        domain=MICROSOFT,
        num_heads=attrs.num_heads,
        scale=attrs.scale,
    )
    out = write.cast(out, TensorProto.FLOAT, site.elem_type)
    return [layout.from_bsh(write, out, attrs.out_layout, attrs.num_heads)]


def gqa_refuses(site: Site) -> str | None:
    """Say why com.microsoft.GroupQueryAttention cannot be this node, or None."""
    attrs = site.attrs
    others = [name for name in site.positional if name not in ("causal", "softcap")]
    if others:
        return f"has {', '.join(others)}"
    if attrs.causal == "none":
        return "is always causal"
    q_len, kv_len = site.length("query"), site.length("key")
    if q_len is None or q_len != kv_len:
        return "needs Sq = Skv, known when the model is loaded"
    if site.depth("query") is None or site.depth("query") != site.depth("value"):
        return "needs Dv = D"
    if (site.depth("query") or 0) % 8:
        return "needs D in multiples of 8"
    if attrs.scale == 0:
        return "scale 0 means 1/sqrt(D) there"
    if site.has_lse:
        return "the log-sum-exp output is used"
    if site.elem_type == TensorProto.BFLOAT16:
        return "has no bfloat16"
    return None


def gqa_build(site: Site, write: NodeWriter) -> list[str]:
    """Emit GroupQueryAttention as a first prompt: no past, every row of full length."""
    attrs = site.attrs
    inputs = [layout.to_bsh(write, name, attrs.layout) for name in ("query", "key", "value")]
    inputs = [write.float32(name, site.elem_type) for name in inputs]
    length = site.length("key") or 0
    batch = write.dim(inputs[0], 0, site.batch)
    last = write.add("Expand", write.constant([length - 1], np.int32), batch)
    out = write.add(
        "GroupQueryAttention",
        *inputs,
        "",
        "",
        last,
        write.constant(length, np.int32),
        domain=MICROSOFT,
        num_heads=attrs.num_heads,
        kv_num_heads=attrs.num_kv_heads,
        scale=attrs.scale,
        softcap=attrs.softcap,
    )
    write.nodes[-1].output.extend([write.fresh(), write.fresh()])
    out = write.cast(out, TensorProto.FLOAT, site.elem_type)
    return [layout.from_bsh(write, out, attrs.out_layout, attrs.num_heads)]


def attention_refuses(site: Site) -> str | None:
    """Say why ai.onnx Attention (opset 23 and later) cannot be this node, or None.

    Boolean masks and empty rows differ between its versions, and so does the place of the cap;
    only what all of them agree on is used.
    """
    attrs = site.attrs
    if site.opset < 23:
        return f"needs opset 23, the model has {site.opset}"
    others = [name for name in site.positional if name not in ("attn_bias", "causal")]
    if others:
        return f"has {', '.join(others)}"
    if attrs.causal != "none":
        if site.has("attn_bias"):
            return "has attn_bias beside causal"
        if site.length("query") is None or site.length("query") != site.length("key"):
            return "causal needs Sq = Skv, known when the model is loaded"
    if site.has("attn_bias") and site.value("attn_bias").elem_type != site.elem_type:
        return "needs attn_bias in the dtype of query"
    bias = site.value("attn_bias").dims
    if site.has("attn_bias") and (bias is None or bias[-1] in (None, 1)):
        return "needs attn_bias with all keys"
    if attrs.scale == 0:
        return "scale 0 is not kept by every version"
    if site.has_lse:
        return "the log-sum-exp output is used"
    if site.elem_type != TensorProto.FLOAT:
        return "in fp16 it is up to three times slower than plain ops"
    return None


def attention_build(site: Site, write: NodeWriter) -> list[str]:
    """Emit ai.onnx Attention on BNSD tensors."""
    attrs = site.attrs
    q = layout.to_bnsd(write, "query", attrs.layout, attrs.num_heads)
    k = layout.to_bnsd(write, "key", attrs.layout, attrs.num_kv_heads)
    v = layout.to_bnsd(write, "value", attrs.layout, attrs.num_kv_heads)
    inputs = [q, k, v] + (["attn_bias"] if site.has("attn_bias") else [])
    causal = int(attrs.causal != "none")
    out = write.add("Attention", *inputs, scale=attrs.scale, is_causal=causal)
    return [layout.from_bnsd(write, out, attrs.out_layout)]
