"""Lower FlashAttention to matmul, softmax, matmul: always possible, materialises the scores.

Follows the order of ``omfuse.fuse.contract``.  Two liberties, both below fp32 rounding: the scale
multiplies the query instead of the scores (Sq*D products instead of Sq*Skv), and fp16 and bf16
nodes compute in fp32 throughout, as the CPU has no faster way.
"""

from __future__ import annotations

import numpy as np

from omfuse.host import layout
from omfuse.host.nodes import NodeWriter
from omfuse.host.site import Site

NEGATIVE_INFINITY = -np.inf


def build(site: Site, write: NodeWriter) -> list[str]:
    """Emit the nodes; return the names of ``output`` and, when wanted, ``lse``."""
    attrs, dtype = site.attrs, site.elem_type
    q = write.float32(layout.to_bnsd(write, "query", attrs.layout, attrs.num_heads), dtype)
    k_t = write.float32(layout.to_bnds(write, "key", attrs.layout, attrs.num_kv_heads), dtype)
    v = write.float32(layout.to_bnsd(write, "value", attrs.layout, attrs.num_kv_heads), dtype)
    q = write.add("Mul", q, write.constant(attrs.scale, np.float32))
    scores_shape, packed_shape = _group_shapes(site, write, q, k_t)
    if packed_shape is not None:
        q = write.add("Reshape", q, packed_shape[0])
    scores = write.add("MatMul", q, k_t)
    if scores_shape is not None:
        scores = write.add("Reshape", scores, scores_shape)
    if attrs.softcap > 0:
        cap = write.constant(attrs.softcap, np.float32)
        scores = write.add("Mul", write.add("Tanh", write.add("Div", scores, cap)), cap)
    if site.has("attn_bias"):
        bias = write.float32("attn_bias", site.value("attn_bias").elem_type or dtype)
        scores = write.add("Add", scores, bias)
    keep = _keep(site, write)
    if keep is not None:
        infinity = write.constant(NEGATIVE_INFINITY, np.float32)
        scores = write.add("Where", keep, scores, infinity)
    logits = scores
    if site.has("sink"):
        logits = _append_sink(site, write, scores)
    weights = write.add("Softmax", logits, axis=-1)
    if site.has("sink"):
        weights = write.add(
            "Slice", weights, write.ints(0), write.dim(scores, 3), write.ints(3), write.ints(1)
        )
    if packed_shape is not None:
        weights = write.add("Reshape", weights, packed_shape[1])
    out = write.add("MatMul", weights, v)
    if packed_shape is not None:
        shape = write.add("Concat", write.add("Shape", scores), write.ints(-1), axis=0)
        cut = write.add("Gather", shape, write.ints(0, 1, 2, 4), axis=0)
        out = write.add("Reshape", out, cut)
    empty = _empty_rows(write, keep) if keep is not None and not site.has("sink") else None
    if empty is not None and attrs.masked_rows != "nan":
        out = write.add("Where", empty, _fill(site, write, v), out)
    outputs = [write.cast(layout.from_bnsd(write, out, attrs.out_layout), 1, dtype)]
    if site.has_lse:
        outputs.append(_lse(write, logits, empty))
    return outputs


def _group_shapes(
    site: Site, write: NodeWriter, q: str, k_t: str
) -> tuple[str | None, tuple[str, str] | None]:
    """Return shapes that stack the G query heads of one kv head: none when there is no GQA.

    ``[B, Nkv, G*Sq, D]`` makes one large product a kv head and never repeats K or V.
    """
    attrs = site.attrs
    if attrs.num_heads == attrs.num_kv_heads:
        return None, None
    batch = write.dim(q, 0, site.batch)
    kv_heads, heads = write.ints(attrs.num_kv_heads), write.ints(attrs.num_heads)
    depth = write.dim(q, 3, site.depth("query"))
    kv_len = write.dim(k_t, 3, site.length("key"))
    rest, q_len = write.ints(-1), write.dim(q, 2, site.length("query"))
    scores = write.add("Concat", batch, heads, q_len, kv_len, axis=0)
    packed_q = write.add("Concat", batch, kv_heads, rest, depth, axis=0)
    packed_p = write.add("Concat", batch, kv_heads, rest, kv_len, axis=0)
    return scores, (packed_q, packed_p)


def _keep(site: Site, write: NodeWriter) -> str | None:
    """Return the boolean keep matrix of mask, causal, window and lengths, or None."""
    attrs = site.attrs
    terms = ["attn_mask"] if site.has("attn_mask") else []
    bounded = attrs.causal != "none" or attrs.window_left >= 0 or attrs.window_right >= 0
    if bounded or site.has("kv_lengths"):
        axis = 2 if attrs.layout == "BNSD" else 1
        kv_len = write.dim("key", axis, site.length("key"))
        key = write.range(kv_len)
        valid = kv_len
        if site.has("kv_lengths"):
            lengths = write.cast("kv_lengths", site.value("kv_lengths").elem_type, 7)
            valid = write.add("Reshape", lengths, write.ints(-1, 1, 1, 1))
            terms.append(write.add("Less", key, valid))
    if bounded:
        q_len = write.dim("query", axis, site.length("query"))
        position = write.unsqueeze(write.range(q_len), [1])
        if attrs.causal == "bottom_right":
            position = write.add("Add", position, write.add("Sub", valid, q_len))
        upper = [0] if attrs.causal != "none" else []
        upper += [attrs.window_right] if attrs.window_right >= 0 else []
        if upper:
            last = write.add("Add", position, write.ints(min(upper)))
            terms.append(write.add("Not", write.add("Greater", key, last)))
        if attrs.window_left >= 0:
            first = write.add("Sub", position, write.ints(attrs.window_left))
            terms.append(write.add("Not", write.add("Less", key, first)))
    if not terms:
        return None
    keep = terms[0]
    for term in terms[1:]:
        keep = write.add("And", keep, term)
    return keep


def _empty_rows(write: NodeWriter, keep: str) -> str:
    """Return a boolean, true where a row keeps no key; broadcastable to [B, N, Sq, 1]."""
    kept = write.reduce("ReduceMax", write.add("Cast", keep, to=1), -1)
    return write.add("Less", kept, write.constant(0.5, np.float32))


def _append_sink(site: Site, write: NodeWriter, scores: str) -> str:
    """Append one logit a head as the last key column."""
    sink = write.float32("sink", site.value("sink").elem_type or site.elem_type)
    sink = write.add("Reshape", sink, write.ints(1, site.attrs.num_heads, 1, 1))
    shape = write.add("Gather", write.add("Shape", scores), write.ints(0, 1, 2), axis=0)
    shape = write.add("Concat", shape, write.ints(1), axis=0)
    return write.add("Concat", scores, write.add("Expand", sink, shape), axis=-1)


def _fill(site: Site, write: NodeWriter, v: str) -> str:
    """Return what a row without keys gives: zero, or the mean of all values of its head."""
    if site.attrs.masked_rows == "zero":
        return write.constant(0.0, np.float32)
    mean = write.reduce("ReduceMean", v, 2)
    group = site.attrs.num_heads // site.attrs.num_kv_heads
    if group == 1:
        return mean
    heads = write.ints(*(head // group for head in range(site.attrs.num_heads)))
    return write.add("Gather", mean, heads, axis=1)


def _lse(write: NodeWriter, logits: str, empty: str | None) -> str:
    """Return the log-sum-exp [B, N, Sq]; -inf where a row has no key."""
    lse = write.reduce("ReduceLogSumExp", logits, -1)
    if empty is not None:
        infinity = write.constant(NEGATIVE_INFINITY, np.float32)
        lse = write.add("Where", empty, infinity, lse)
    return write.squeeze(lse, [3])
