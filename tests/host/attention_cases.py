"""Random FlashAttention nodes: a case, its one-node model, its inputs, its expected result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from omfuse.custom_ops.flash_attention.reference import flash_attention, from_bnsd
from omfuse.fuse.contract import DOMAIN, INPUTS, FlashAttentionAttrs
from omfuse.host.tensors import named_dtype

ELEM = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# Worst allowed |got - expected| / max|V|: a few units in the last place of the output dtype.
TOLERANCE = {"float32": 4e-6, "float16": 1.5e-3, "bfloat16": 1.2e-2}
OPTIONAL = INPUTS[3:]


@dataclass(frozen=True)
class Case:
    """Everything that defines one node and its inputs."""

    attrs: FlashAttentionAttrs
    batch: int = 2
    q_len: int = 5
    kv_len: int = 7
    depth: int = 8
    v_depth: int = 8
    dtype: str = "float32"
    optional: tuple[str, ...] = ()
    bias_shape: tuple[int, ...] = ()
    mask_shape: tuple[int, ...] = ()
    lse: bool = False
    seed: int = 0
    dynamic: bool = False
    opset: int = 17

    def with_attrs(self, **changes: Any) -> Case:
        """Return the case with other attributes."""
        return dataclasses.replace(self, attrs=dataclasses.replace(self.attrs, **changes))


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """Draw inputs in N(0, 1); a third of the mask is false, some of its rows wholly."""
    rng = np.random.default_rng(case.seed)
    a, dtype = case.attrs, named_dtype(case.dtype)

    def draw(heads: int, length: int, depth: int) -> np.ndarray:
        x = rng.standard_normal((case.batch, heads, length, depth)).astype(dtype)
        return from_bnsd(x, a.layout)

    feeds = {
        "query": draw(a.num_heads, case.q_len, case.depth),
        "key": draw(a.num_kv_heads, case.kv_len, case.depth),
        "value": draw(a.num_kv_heads, case.kv_len, case.v_depth),
    }
    if "attn_bias" in case.optional:
        feeds["attn_bias"] = rng.standard_normal(case.bias_shape).astype(dtype)
    if "attn_mask" in case.optional:
        mask = rng.random(case.mask_shape) > 0.33
        flat = mask.reshape(-1, mask.shape[-1])
        flat[rng.random(len(flat)) < 0.2] = False
        feeds["attn_mask"] = mask
    if "sink" in case.optional:
        feeds["sink"] = rng.standard_normal(a.num_heads).astype(dtype)
    if "kv_lengths" in case.optional:
        feeds["kv_lengths"] = rng.integers(0, case.kv_len + 1, case.batch).astype(np.int32)
    return feeds


def expected(case: Case, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the case with the reference in float64."""
    wide = {k: v.astype(np.float64) if v.dtype.kind not in "bi" else v for k, v in feeds.items()}
    return flash_attention(case.attrs, **wide)


def model_of(case: Case, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Make a model of one FlashAttention node without a function body."""
    elem = ELEM[case.dtype]
    kinds = {"attn_mask": TensorProto.BOOL, "kv_lengths": TensorProto.INT32}
    graph_inputs = [
        helper.make_tensor_value_info(
            name,
            kinds.get(name, elem),
            [f"{name}_{i}" for i in range(array.ndim)] if case.dynamic else array.shape,
        )
        for name, array in feeds.items()
    ]
    outputs = ["output", "lse"] if case.lse else ["output"]
    rank = 3 if case.attrs.out_layout == "BSH" else 4
    graph_outputs = [
        helper.make_tensor_value_info("output", elem, [None] * rank),
        helper.make_tensor_value_info("lse", TensorProto.FLOAT, [None] * 3),
    ][: len(outputs)]
    names = [name if name in feeds else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        "FlashAttention", names, outputs, name="attn", domain=DOMAIN, **case.attrs.as_dict()
    )
    graph = helper.make_graph([node], "one_attention", graph_inputs, graph_outputs)
    imports = [helper.make_opsetid("", case.opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def error_of(case: Case, got: np.ndarray, want: np.ndarray, value: np.ndarray) -> float:
    """Return the worst error in units of max |V|; infinite when NaNs stand elsewhere."""
    got = got.astype(np.float64)
    if got.shape != want.shape or (np.isnan(got) != np.isnan(want)).any():
        return float("inf")
    scale = max(1.0, float(np.abs(value.astype(np.float64)).max(initial=0)))
    return float(np.nan_to_num(np.abs(got - want)).max(initial=0)) / scale


@st.composite
def cases(draw: st.DrawFn, max_length: int = 24, dtypes: tuple[str, ...] = tuple(ELEM)) -> Case:
    """Draw a case over every feature of the contract."""
    kv_heads, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 1, 2, 3]))
    heads = kv_heads * group
    q_len, kv_len = (draw(st.integers(1, max_length)) for _ in range(2))
    if draw(st.booleans()):
        kv_len = q_len
    depth = draw(st.sampled_from([1, 4, 8, 17, 40]))
    batch = draw(st.integers(1, 3))
    layouts = st.sampled_from(["BNSD", "BSND", "BSH"])
    attrs = FlashAttentionAttrs(
        num_heads=heads,
        num_kv_heads=kv_heads,
        scale=draw(st.sampled_from([0.125, 0.37, 1.0, -0.2, 0.0])),
        layout=draw(layouts),
        out_layout=draw(layouts),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5])),
        causal=draw(st.sampled_from(["none", "top_left", "bottom_right"])),
        window_left=draw(st.sampled_from([-1, -1, 0, 3])),
        window_right=draw(st.sampled_from([-1, -1, 0, 2])),
        masked_rows=draw(st.sampled_from(["nan", "zero", "uniform"])),
    )
    full = (batch, heads, q_len, kv_len)

    def broadcast() -> tuple[int, ...]:
        ones = [draw(st.booleans()) for _ in range(3)]
        lead = (1 if one else n for one, n in zip(ones, full, strict=False))
        shape = (*lead, kv_len)
        return shape[draw(st.sampled_from([0, 0, 2])) :]

    dtype = draw(st.sampled_from(dtypes))
    return Case(
        attrs=attrs,
        batch=batch,
        q_len=q_len,
        kv_len=kv_len,
        depth=depth,
        v_depth=draw(st.sampled_from([depth, depth, 5])),
        dtype=dtype,
        optional=tuple(name for name in OPTIONAL if draw(st.sampled_from([False, False, True]))),
        bias_shape=broadcast(),
        mask_shape=broadcast(),
        lse=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
        dynamic=draw(st.booleans()),
        # Cast knows bfloat16 from opset 13 on.
        opset=draw(st.sampled_from([13, 17, 23] if dtype == "bfloat16" else [11, 13, 17, 21, 23])),
    )
