"""The cases of ``omfuse op test``: depths, lengths, heads, masks, layouts, dtypes, features.

Not the whole product: a base case, and from it one list an aspect, so that each value meets the
kernel at an awkward shape. Values come from a seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from omfuse.fuse.contract import FlashAttentionAttrs

Array = NDArray[Any]
DEPTHS = (1, 8, 40, 59, 64, 72, 80, 96, 111, 128, 160, 256)
LENGTHS = ((1, 1), (1, 17), (17, 17), (113, 203), (128, 128), (1023, 1024), (1024, 77))
LONG = (4096, 4096)
HEADS = ((4, 4), (8, 2), (4, 1))
LAYOUTS = ("BNSD", "BSND", "BSH")
MASKS = {  # dims of [B, N, Sq, Skv] that are there; the others are one
    "mask-keys": "B..K",
    "mask-square": "..QK",
    "mask-full": "BNQK",
    "mask-batch": "B.QK",
    "mask-rows": "BNQ.",
    "mask-heads": "BN..",
}
BIASES = {  # likewise; fp32 where the name says so
    "bias": ".NQK",
    "bias32": ".NQK",
    "bias-keys": "B..K",
    "bias-rows": ".NQ.",
}
TYPES: dict[str, Any] = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
ARCH_TYPES = {"910b": ("fp16", "bf16"), "310p": ("fp16",)}


@dataclass(frozen=True)
class GridCase:
    """One call of the kernel.

    ``extra`` holds attributes of the node; ``inputs`` names optional operands: a key of
    :data:`BIASES` or :data:`MASKS`, ``sink``, ``kv_lengths``, ``empty-rows`` (a mask that leaves
    some rows without a key).
    """

    aspect: str
    batch: int = 2
    heads: int = 4
    kv_heads: int = 4
    q_len: int = 113
    kv_len: int = 203
    depth: int = 64
    value_depth: int | None = None
    dtype: str = "fp16"
    lse: bool = False
    inputs: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short text that tells cases apart."""
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        value = f"/{self.value_depth}" if self.value_depth else ""
        shape = f"{self.batch}x{heads}x{self.q_len}x{self.kv_len}x{self.depth}{value}"
        parts = [self.dtype, shape, *self.inputs]
        parts += [f"{key}={value}" for key, value in self.extra.items()]
        return " ".join([*parts, "lse"] if self.lse else parts)

    @property
    def attrs(self) -> FlashAttentionAttrs:
        """Attributes of the node; scale is that of the depth unless ``extra`` says otherwise."""
        values = {"scale": self.depth**-0.5, **self.extra}
        values.setdefault("out_layout", values.get("layout", "BNSD"))
        return FlashAttentionAttrs(num_heads=self.heads, num_kv_heads=self.kv_heads, **values)


def cases(arch: str, quick: bool = False) -> list[GridCase]:
    """Return the cases of an architecture; ``quick``: one dtype, nothing long, fewer values.

    310P copies whole blocks of 32 bytes only, so its operator takes bias in fp16 alone and writes
    lse for query lengths that are multiples of eight: its cases keep to that.
    """
    found = []
    for dtype in ARCH_TYPES[arch][:1] if quick else ARCH_TYPES[arch]:
        for case in _cases(quick):
            if arch == "310p":
                if "bias32" in case.inputs:
                    continue
                if case.lse:
                    case = replace(case, q_len=-(-case.q_len // 8) * 8)
            found.append(replace(case, dtype=dtype))
    return found


def _cases(quick: bool) -> Iterator[GridCase]:
    for depth in DEPTHS[1::3] if quick else DEPTHS:
        yield GridCase("depth", depth=depth)
    for q_len, kv_len in LENGTHS[:4] if quick else LENGTHS:
        yield GridCase("length", q_len=q_len, kv_len=kv_len)
    for heads, kv_heads in HEADS:
        yield GridCase("heads", heads=heads, kv_heads=kv_heads)
    for layout in LAYOUTS:
        for out in LAYOUTS[:1] if quick else LAYOUTS:
            yield GridCase("layout", depth=40, extra={"layout": layout, "out_layout": out})
    yield from _masked(quick)
    yield from _features(quick)
    if not quick:
        yield GridCase("long", batch=1, heads=1, kv_heads=1, q_len=LONG[0], kv_len=LONG[1])
        yield GridCase("long", 1, 2, 1, *LONG, depth=128, extra={"causal": "bottom_right"})


def _masked(quick: bool) -> Iterator[GridCase]:
    for name in list(MASKS)[:2] if quick else MASKS:
        yield GridCase("mask", inputs=(name,))
    for name in list(BIASES)[:2] if quick else BIASES:
        yield GridCase("bias", inputs=(name, "sink") if name == "bias-rows" else (name,))
    for causal in ("top_left", "bottom_right"):
        yield GridCase("causal", extra={"causal": causal})
        if not quick:
            yield GridCase("causal", q_len=203, kv_len=113, extra={"causal": causal})
            yield GridCase("causal", heads=8, kv_heads=2, q_len=300, kv_len=700, depth=96,
                           extra={"causal": causal})  # fmt: skip
    yield GridCase("window", extra={"window_left": 30, "window_right": 7})
    yield GridCase("window", extra={"causal": "bottom_right", "window_left": 16})
    yield GridCase("kv_lengths", inputs=("kv_lengths",))
    yield GridCase("kv_lengths", inputs=("kv_lengths",), extra={"causal": "bottom_right"})
    for rows in ("nan", "zero", "uniform"):
        yield GridCase("empty rows", inputs=("empty-rows",), extra={"masked_rows": rows})
        if not quick:
            # Bottom right with more queries than keys leaves the first rows without a key.
            yield GridCase("empty rows", q_len=203, kv_len=113,
                           extra={"masked_rows": rows, "causal": "bottom_right"})  # fmt: skip


def _features(quick: bool) -> Iterator[GridCase]:
    yield GridCase("softcap", extra={"softcap": 5.0, "scale": 0.5})
    yield GridCase("sink", inputs=("sink",))
    yield GridCase("sink", inputs=("sink", "empty-rows"))
    yield GridCase("lse", lse=True)
    yield GridCase("lse", lse=True, inputs=("sink", "mask-full"))
    yield GridCase("value depth", value_depth=96)
    yield GridCase("scale", extra={"scale": 1.0}, depth=40)
    yield GridCase("inner fp16", extra={"inner_precision": "fp16"})
    yield GridCase("decode", heads=8, kv_heads=2, q_len=1, kv_len=2050 if quick else 4096, batch=1)
    if not quick:
        yield GridCase("decode", 1, 8, 8, 1, 4096, 128, inputs=("kv_lengths",))
        yield GridCase("value depth", depth=128, value_depth=59, lse=True)
        yield GridCase("everything", heads=8, kv_heads=2, depth=72, lse=True,
                       inputs=("bias", "mask-full", "sink", "kv_lengths"),
                       extra={"causal": "bottom_right", "window_left": 60, "softcap": 9.0,
                              "layout": "BSH", "masked_rows": "zero"})  # fmt: skip


def operands(case: GridCase, seed: int) -> dict[str, Array]:
    """Return the operands of a case by their names in the contract."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    attrs, dtype = case.attrs, TYPES[case.dtype]

    def tensor(heads: int, length: int, depth: int) -> Array:
        shapes = {
            "BNSD": (case.batch, heads, length, depth),
            "BSND": (case.batch, length, heads, depth),
            "BSH": (case.batch, length, heads * depth),
        }
        made: Array = rng.standard_normal(shapes[attrs.layout], np.float32).astype(dtype)
        return made

    result = {
        "query": tensor(case.heads, case.q_len, case.depth),
        "key": tensor(case.kv_heads, case.kv_len, case.depth),
        "value": tensor(case.kv_heads, case.kv_len, case.value_depth or case.depth),
    }
    full = (case.batch, case.heads, case.q_len, case.kv_len)
    for name in case.inputs:
        if name in BIASES:
            bias = rng.standard_normal(_kept(full, BIASES[name]), np.float32)
            result["attn_bias"] = bias.astype(np.float32 if name == "bias32" else dtype)
        elif name in MASKS:
            mask = rng.random(_kept(full, MASKS[name])) < 0.6
            if mask.shape[-1] > 1:
                mask[..., case.kv_len // 2] = True
            result["attn_mask"] = mask
        elif name == "empty-rows":
            mask = rng.random((case.batch, 1, case.q_len, case.kv_len)) < 0.5
            mask[:, :, :: max(2, case.q_len // 7)] = False
            result["attn_mask"] = mask
        elif name == "sink":
            result["sink"] = rng.standard_normal(case.heads).astype(np.float32).astype(dtype)
        else:
            low = max(1, case.kv_len // 3)
            result["kv_lengths"] = rng.integers(low, case.kv_len + 1, case.batch).astype(np.int32)
    return result


def _kept(full: tuple[int, ...], letters: str) -> list[int]:
    return [n if c != "." else 1 for n, c in zip(full, letters, strict=True)]
