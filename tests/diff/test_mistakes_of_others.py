"""Known wrong assumptions of existing fusions, each caught with generated inputs alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff import diff

HEADS, DEPTH = 4, 16
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    shape = ["batch", HEADS, "seq", DEPTH]
    mask = value("attention_mask", TensorProto.FLOAT, ["batch", 1, 1, "seq"])
    reads_mask = any("attention_mask" in node.input for node in nodes)
    inputs = [value(n, TensorProto.FLOAT, shape) for n in "qkv"] + ([mask] if reads_mask else [])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, shape)], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("omfuse", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _eager(scale: float, between: list[onnx.NodeProto], last: str, **weights: np.ndarray):
    node = helper.make_node
    nodes = [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Mul", ["s", "scale"], ["scaled"]),
        *between,
        node("Softmax", [last], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    return _model(nodes, {"scale": np.float32(scale), **weights})


def _fused(before: list[onnx.NodeProto], *inputs: str, scale: float, **weights: np.ndarray):
    attrs = {"num_heads": HEADS, "num_kv_heads": HEADS, "scale": scale}
    node = helper.make_node(
        "FlashAttention", ["q", "k", "v", *inputs], ["y"], "fa", domain="omfuse", **attrs
    )
    return _model([*before, node], weights)


def _alibi() -> np.ndarray:
    distance = -np.abs(np.arange(11)[:, None] - np.arange(11)[None, :])
    return (SLOPES[:, None, None] * distance)[None].astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_scale_recomputed_from_the_depth(precision: str) -> None:
    """A model whose scale is not 1/sqrt(D): muP, folded temperature."""
    original = _eager(0.21, [], "scaled")
    assert diff(original, _fused([], scale=0.21), precision=precision).passed
    wrong = diff(original, _fused([], scale=DEPTH**-0.5), precision=precision)
    assert wrong.verdict == "fail"
    assert wrong.culprits == ["fa"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_alibi_dropped(precision: str) -> None:
    add = helper.make_node("Add", ["scaled", "alibi"], ["biased"])
    original = _eager(0.25, [add], "biased", alibi=_alibi())
    sizes = {"dims": {"seq": 11}, "precision": precision}
    good = _fused([], "alibi", scale=0.25, alibi=_alibi())
    assert diff(original, good, **sizes).passed
    wrong = diff(original, _fused([], scale=0.25), **sizes)
    assert wrong.verdict == "fail"
    assert wrong.culprits == ["fa"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_mask_form_assumed(precision: str) -> None:
    """An additive mask that is taken for a 0/1 mask, as if (1 - m) * -1e4 were always there."""
    add = helper.make_node("Add", ["scaled", "attention_mask"], ["masked"])
    original = _eager(0.25, [add], "masked")
    good = _fused([], "attention_mask", scale=0.25)
    assert diff(original, good, precision=precision).passed
    cast = helper.make_node("Cast", ["attention_mask"], ["keep"], to=TensorProto.BOOL)
    wrong = diff(original, _fused([cast], "", "keep", scale=0.25), precision=precision)
    assert wrong.verdict == "fail"
    assert wrong.culprits == ["fa"]
