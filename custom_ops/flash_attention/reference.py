"""FlashAttention in plain numpy: the contract as arithmetic, for tests and verdicts.

Follows the normative order of ``omfuse.fuse.contract``.  Computes in ``dtype`` (float64 by
default), never blocks or reorders, and is therefore the yardstick and not a fast path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from omfuse.fuse.contract import FlashAttentionAttrs

Array = NDArray[Any]


def to_bnsd(array: Array, layout: str, heads: int) -> Array:
    """View ``array`` of a BNSD, BSND or BSH layout as ``[B, N, S, D]``."""
    if layout == "BNSD":
        return array
    if layout == "BSH":
        batch, length, hidden = array.shape
        array = array.reshape(batch, length, heads, hidden // heads)
    return array.transpose(0, 2, 1, 3)


def from_bnsd(array: Array, layout: str) -> Array:
    """Undo :func:`to_bnsd`."""
    if layout == "BNSD":
        return array
    array = array.transpose(0, 2, 1, 3)
    if layout == "BSH":
        batch, length, heads, depth = array.shape
        array = array.reshape(batch, length, heads * depth)
    return np.ascontiguousarray(array)


def keep_positions(
    attrs: FlashAttentionAttrs, q_len: int, kv_len: int, kv_lengths: Array | None
) -> Array:
    """Return the boolean keep matrix ``[B or 1, 1, Sq, Skv]`` of causal, window and lengths."""
    valid = np.array([kv_len]) if kv_lengths is None else np.asarray(kv_lengths, dtype=np.int64)
    valid = valid.reshape(-1, 1, 1, 1)
    query = np.arange(q_len).reshape(1, 1, -1, 1)
    key = np.arange(kv_len).reshape(1, 1, 1, -1)
    position = query + (valid - q_len if attrs.causal == "bottom_right" else 0)
    keep = key < valid
    if attrs.causal != "none":
        keep = keep & (key <= position)
    if attrs.window_left >= 0:
        keep = keep & (key >= position - attrs.window_left)
    if attrs.window_right >= 0:
        keep = keep & (key <= position + attrs.window_right)
    result: Array = np.broadcast_to(keep, (valid.shape[0], 1, q_len, kv_len))
    return result


def flash_attention(
    attrs: FlashAttentionAttrs,
    query: Array,
    key: Array,
    value: Array,
    attn_bias: Array | None = None,
    attn_mask: Array | None = None,
    sink: Array | None = None,
    kv_lengths: Array | None = None,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array]:
    """Compute ``(output, lse)``.

    Args:
        attrs: node attributes.
        query: ``[B, N, Sq, D]`` in ``attrs.layout``; key and value alike with ``num_kv_heads``.
        key: see query.
        value: see query; its depth Dv may differ from D.
        attn_bias: float, broadcastable to ``[B, N, Sq, Skv]``.
        attn_mask: bool, true = keep, broadcastable to ``[B, N, Sq, Skv]``.
        sink: ``[N]`` extra logits.
        kv_lengths: ``[B]`` valid keys.
        dtype: dtype of all arithmetic.

    Returns:
        Output in ``attrs.out_layout`` and ``dtype``; log-sum-exp ``[B, N, Sq]``.
    """
    q = to_bnsd(query, attrs.layout, attrs.num_heads).astype(dtype)
    k = to_bnsd(key, attrs.layout, attrs.num_kv_heads).astype(dtype)
    v = to_bnsd(value, attrs.layout, attrs.num_kv_heads).astype(dtype)
    group = attrs.num_heads // attrs.num_kv_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = (q @ k.swapaxes(-1, -2)) * np.asarray(attrs.scale, dtype)
    if attrs.softcap > 0:
        cap = np.asarray(attrs.softcap, dtype)
        scores = np.tanh(scores / cap) * cap
    if attn_bias is not None:
        with np.errstate(invalid="ignore"):
            scores = scores + attn_bias.astype(dtype)
    keep = keep_positions(attrs, q.shape[2], k.shape[2], kv_lengths)
    if attn_mask is not None:
        keep = keep & attn_mask
    keep = np.broadcast_to(keep, scores.shape)
    scores = np.where(keep, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    if sink is not None:
        logit = sink.astype(dtype).reshape(1, -1, 1, 1)
        top = np.maximum(top, logit)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        if sink is not None:
            total = total + np.exp(logit - top)
        probabilities = weights / total
        lse = (top + np.log(total))[..., 0]
    if sink is None:
        empty: Array = ~np.asarray(keep.any(axis=-1, keepdims=True))
        if attrs.masked_rows == "zero":  # a guard also catches rows that a bias of -inf empties
            empty = np.asarray(np.isneginf(scores).all(axis=-1, keepdims=True))
        fill = {"nan": np.nan, "zero": 0.0, "uniform": 1.0 / max(k.shape[2], 1)}[attrs.masked_rows]
        probabilities = np.where(empty, np.asarray(fill, dtype), probabilities)
        lse = np.where(empty[..., 0], -np.inf, lse)
    return from_bnsd(probabilities @ v, attrs.out_layout), lse
