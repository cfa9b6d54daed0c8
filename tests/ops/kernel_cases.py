"""Attention problems for the emulated kernel, and the verdict: twice the plain error at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from omfuse.custom_ops.flash_attention import reference
from omfuse.fuse.contract import FlashAttentionAttrs
from omfuse.ops import emulator

Array = NDArray[Any]
BF16 = ml_dtypes.bfloat16


@dataclass(frozen=True)
class Case:
    """One call: shapes, dtypes, operands and attributes."""

    name: str
    batch: int = 1
    heads: int = 2
    kv_heads: int = 2
    q_len: int = 33
    kv_len: int = 77
    depth: int = 64
    value_depth: int | None = None
    dtype: Any = np.float16
    layout: str = "BNSD"
    bias: tuple[int, ...] | None = None
    bias_dtype: Any = None
    mask: tuple[int, ...] | None = None
    sink: bool = False
    lengths: tuple[int, ...] | None = None
    lse: bool = False
    scale: float | None = None
    spread: float = 1.0
    attrs: dict[str, Any] = field(default_factory=dict)


def operands(case: Case) -> tuple[FlashAttentionAttrs, dict[str, Array]]:
    """Make attributes and arrays, always the same for one case."""
    rng = np.random.default_rng(7)
    value_depth = case.value_depth or case.depth
    settings = {"out_layout": case.layout, **case.attrs}
    attrs = FlashAttentionAttrs(
        num_heads=case.heads,
        num_kv_heads=case.kv_heads,
        scale=case.depth**-0.5 if case.scale is None else case.scale,
        layout=case.layout,
        **settings,
    )

    def draw(*shape: int, dtype: Any = case.dtype) -> Array:
        return (rng.standard_normal(shape) * case.spread).astype(np.float32).astype(dtype)

    arrays = {
        "query": draw(case.batch, case.heads, case.q_len, case.depth),
        "key": draw(case.batch, case.kv_heads, case.kv_len, case.depth),
        "value": draw(case.batch, case.kv_heads, case.kv_len, value_depth),
    }
    arrays = {k: reference.from_bnsd(v, case.layout) for k, v in arrays.items()}
    if case.bias is not None:
        arrays["attn_bias"] = draw(*case.bias, dtype=case.bias_dtype or case.dtype)
    if case.mask is not None:
        arrays["attn_mask"] = rng.random(case.mask) > 0.3
    if case.sink:
        arrays["sink"] = draw(case.heads)
    if case.lengths is not None:
        arrays["kv_lengths"] = np.array(case.lengths, np.int32)
    return attrs, arrays


def plain(attrs: FlashAttentionAttrs, arrays: dict[str, Array]) -> Array:
    """The unfused chain: each node's result rounded to the model's dtype, sums in fp32."""
    dtype = arrays["query"].dtype

    def keep(x: Array) -> Array:
        return x.astype(dtype).astype(np.float32)

    q = reference.to_bnsd(arrays["query"], attrs.layout, attrs.num_heads)
    k = reference.to_bnsd(arrays["key"], attrs.layout, attrs.num_kv_heads)
    v = reference.to_bnsd(arrays["value"], attrs.layout, attrs.num_kv_heads)
    group = attrs.num_heads // attrs.num_kv_heads
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = keep(keep(q @ k.swapaxes(-1, -2)) * np.float32(attrs.scale))
    if attrs.softcap > 0:
        scores = keep(keep(np.tanh(keep(scores / attrs.softcap))) * np.float32(attrs.softcap))
    if "attn_bias" in arrays:
        scores = keep(scores + arrays["attn_bias"].astype(np.float32))
    kept = reference.keep_positions(attrs, q.shape[2], k.shape[2], arrays.get("kv_lengths"))
    if "attn_mask" in arrays:
        kept = kept & arrays["attn_mask"]
    scores = np.where(kept, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        if "sink" in arrays:
            logit = arrays["sink"].astype(np.float32).reshape(1, -1, 1, 1)
            top = np.maximum(top, logit)
        weights = keep(np.exp(keep(scores - top)))
        total = weights.sum(axis=-1, keepdims=True)
        if "sink" in arrays:
            total = total + np.exp(logit - top)
        return reference.from_bnsd(keep(keep(weights / total) @ v), attrs.out_layout)


@dataclass(frozen=True)
class Verdict:
    """Largest errors against float64, of the kernel and of the unfused chain."""

    error: float
    plain_error: float
    same_nan: bool
    lse_error: float

    @property
    def ok(self) -> bool:
        """Tell whether the kernel keeps the budget."""
        within = self.error <= 2 * self.plain_error + 1e-6
        # lse is fp32 throughout: a few units in the last place of a value of about 8.
        return self.same_nan and within and self.lse_error < 2.0**-20


def judge(case: Case, **how: Any) -> Verdict:
    """Run a case on the emulated kernel and compare it with float64."""
    attrs, arrays = operands(case)
    got = emulator.run(attrs, **arrays, lse=case.lse, **how)
    assert got.output is not None
    wanted, log = reference.flash_attention(attrs, **arrays)
    unfused = plain(attrs, arrays)
    output = got.output.astype(np.float64)
    finite = ~np.isnan(wanted)

    def largest(x: Array, where: Array) -> float:
        return float(np.abs(x.astype(np.float64) - wanted)[where].max(initial=0.0))

    lse_error = 0.0
    if case.lse:
        assert got.lse is not None
        both = np.isneginf(log) & np.isneginf(got.lse)
        with np.errstate(invalid="ignore"):
            lse_error = float(np.where(both, 0.0, np.abs(got.lse - log)).max())
    same_nan = bool((np.isnan(output) == ~finite).all())
    # The unfused chain has no policy for rows without keys: there it is NaN and no yardstick.
    usable = finite & ~np.isnan(unfused.astype(np.float64))
    return Verdict(largest(output, finite), largest(unfused, usable), same_nan, lse_error)
