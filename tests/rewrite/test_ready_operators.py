"""Operators that are one attention already: the standard Attention, onnxruntime's own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx_text import feeds, run

import omfuse
from omfuse.fuse.contract import is_flash_attention, read_attrs


def model_of(inputs: str, body: str, opset: int = 23) -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
        g ({inputs}) => (float y) {{ {body} }}"""
    )


def check(model: onnx.ModelProto, inputs: dict[str, np.ndarray] | None = None) -> onnx.NodeProto:
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = omfuse.rewrite(model)
    assert [record.status for record in result.lowered] == ["fused"], result.lowered
    inputs = inputs or feeds(model)
    for a, b in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=3e-6)
    (node,) = [n for n in result.model.graph.node if is_flash_attention(n)]
    return node


BNSD = "float[2,4,5,8] q, float[2,2,7,8] k, float[2,2,7,8] v"


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        (BNSD, "y = Attention(q, k, v)"),
        (BNSD, "y = Attention<scale=0.3, is_causal=1>(q, k, v)"),
        (f"{BNSD}, bool[5,7] m", "y = Attention(q, k, v, m)"),
        (f"{BNSD}, float[2,1,5,7] m", "y = Attention<scale=0.5>(q, k, v, m)"),
        ("float[2,5,32] q, float[2,7,16] k, float[2,7,16] v",
         "y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)"),
    ],
)  # fmt: skip
def test_standard_attention(inputs: str, body: str, opset: int) -> None:
    attrs = read_attrs(check(model_of(inputs, body, opset)))
    assert (attrs.num_heads, attrs.num_kv_heads) == (4, 2)


def test_a_float_mask_of_the_lowest_number_empties_a_row() -> None:
    model = model_of(f"{BNSD}, float[5,7] m", "y = Attention(q, k, v, m)")
    inputs = feeds(model)
    inputs["m"] = np.zeros((5, 7), np.float32)
    inputs["m"][1] = np.finfo(np.float32).min
    inputs["m"][2, 3:] = np.finfo(np.float32).min
    check(model, inputs)


def test_a_cache_becomes_concatenations() -> None:
    model = model_of(
        f"{BNSD}, float[2,2,3,8] pk, float[2,2,3,8] pv",
        "y, nk, nv = Attention(q, k, v, , pk, pv) z = Identity(nk)",
    )
    check(model)


@pytest.mark.parametrize(
    ("inputs", "body", "code"),
    [
        (f"{BNSD}, float[5,7] m", "y = Attention<softcap=5.0>(q, k, v, m)", "native-softcap"),
        (BNSD, "y, a, b, s = Attention(q, k, v) t = Identity(s)", "native-scores"),
        ("float[2,5,8] q, float[2,7,8] k, float[2,7,8] v, int32[2] m",
         "y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, , m)", "contrib-input"),
    ],
)  # fmt: skip
def test_what_the_node_cannot_say_is_declined(inputs: str, body: str, code: str) -> None:
    result = omfuse.rewrite(model_of(inputs, body))
    assert [record.code for record in result.lowered] == [code]
    assert not result.changed


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        ("float[2,5,8] q, float[2,7,8] k, float[2,7,8] v",
         "y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v)"),
        ("float[2,5,8] q, float[2,7,8] k, float[2,7,12] v",
         "y = com.microsoft.MultiHeadAttention<num_heads=2, scale=0.3>(q, k, v)"),
        ("float[2,5,8] q, float[2,5,8] k, float[2,5,8] v",
         "y = com.microsoft.MultiHeadAttention<num_heads=2, unidirectional=1>(q, k, v)"),
        ("float[2,5,8] q, float[2,7,8] k, float[2,7,8] v, float[1,2,5,7] b",
         "y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, , , b)"),
        ("float[2,5,6] x, float[6,24] w, float[24] b",
         "y = com.microsoft.Attention<num_heads=2>(x, w, b)"),
        ("float[2,5,6] x, float[6,24] w, float[24] b",
         "y = com.microsoft.Attention<num_heads=2, unidirectional=1>(x, w, b)"),
    ],
)  # fmt: skip
def test_onnxruntime_operators(inputs: str, body: str) -> None:
    assert read_attrs(check(model_of(inputs, body, 17))).layout == "BSH"
