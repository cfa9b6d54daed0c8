"""Causal and window flags appear when, and only when, index arithmetic proves them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_text import build, feeds, run

import omfuse
from omfuse.fuse.contract import is_flash_attention, read_attrs

HEAD = "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) f = Constant<value_float=-1e9>()"
TAIL = "p = Softmax<axis=-1>(z) y = MatMul(p, v)"
RANGES = """
    zero = Constant<value_int=0>() one = Constant<value_int=1>() two = Constant<value_ints=[2]>()
    first = Constant<value_ints=[0]>() last = Constant<value_ints=[1]>()
    qs = Shape(q) ks = Shape(k) i2 = Constant<value_int=2>()
    ql = Gather(qs, i2) kl = Gather(ks, i2)
    qr = Range(zero, ql, one) kr = Range(zero, kl, one)
    q1 = Unsqueeze(qr, last) k1 = Unsqueeze(kr, first)"""
SHAPES = "float[2,3,5,4] q, float[2,3,5,4] k, float[2,3,5,6] v"
LONGER = "float[2,3,5,4] q, float[2,3,8,4] k, float[2,3,8,6] v"


def flags(model: onnx.ModelProto) -> tuple[str, int, int, bool]:
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    inputs = feeds(model)
    for a, b in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)
    (node,) = [n for n in result.model.graph.node if is_flash_attention(n)]
    attrs = read_attrs(node)
    masked = len(node.input) > 4 and bool(node.input[4])
    return attrs.causal, attrs.window_left, attrs.window_right, masked


@pytest.mark.parametrize(
    ("condition", "shapes", "expected"),
    [
        ("c = LessOrEqual(k1, q1)", SHAPES, ("top_left", -1, -1, False)),
        ("c = GreaterOrEqual(q1, k1)", SHAPES, ("top_left", -1, -1, False)),
        ("x = Greater(k1, q1) c = Not(x)", SHAPES, ("top_left", -1, -1, False)),
        ("d = Sub(kl, ql) q2 = Add(q1, d) c = LessOrEqual(k1, q2)", LONGER,
         ("bottom_right", -1, -1, False)),
        ("c = Less(k1, q1)", SHAPES, ("none", -1, -1, True)),
        ("w = Constant<value_int=3>() lo = Sub(q1, w) a = LessOrEqual(k1, q1)"
         " b = Greater(k1, lo) c = And(a, b)", SHAPES, ("top_left", 2, -1, False)),
        ("w = Constant<value_int=2>() hi = Add(q1, w) c = LessOrEqual(k1, hi)", SHAPES,
         ("none", -1, 2, False)),
        ("t = Mul(k1, q1) c = LessOrEqual(k1, t)", SHAPES, ("none", -1, -1, True)),
        ("c = LessOrEqual(q1, k1)", SHAPES, ("none", 0, -1, False)),
    ],
)  # fmt: skip
def test_index_comparisons(
    condition: str, shapes: str, expected: tuple[str, int, int, bool]
) -> None:
    model = build(f"{HEAD} {RANGES} {condition} z = Where(c, s, f) {TAIL}", shapes)
    assert flags(model) == expected


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.tril(np.ones((5, 5), bool)), ("top_left", -1, -1, False)),
        (np.tril(np.ones((5, 5), bool)) & np.triu(np.ones((5, 5), bool), -1),
         ("top_left", 1, -1, False)),
        (np.tril(np.ones((5, 5), bool), -1), ("none", -1, -1, True)),
        (np.eye(5, dtype=bool)[:, ::-1].copy(), ("none", -1, -1, True)),
    ],
)  # fmt: skip
def test_constant_masks(matrix: np.ndarray, expected: tuple[str, int, int, bool]) -> None:
    model = build(f"{HEAD} z = Where(c, s, f) {TAIL}", SHAPES)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "c"))
    assert flags(model) == expected


def test_padding_stays_when_the_triangle_goes() -> None:
    body = f"{HEAD} {RANGES} t = LessOrEqual(k1, q1) c = And(t, mask) z = Where(c, s, f) {TAIL}"
    model = build(body, f"{SHAPES}, bool[2,1,1,5] mask")
    assert flags(model) == ("top_left", -1, -1, True)
    result = omfuse.rewrite(model).model
    (node,) = [n for n in result.graph.node if is_flash_attention(n)]
    assert node.input[4] == "mask"
    assert "And" not in {n.op_type for n in result.graph.node}


def test_a_triangle_of_the_wrong_axes_is_not_causal() -> None:
    """The triangle runs over (head, key): comparing the right axes is part of the proof."""
    model = build(f"{HEAD} c4 = Unsqueeze(c, ax) z = Where(c4, s, f) {TAIL}",
                  "float[2,5,5,4] q, float[2,5,5,4] k, float[2,5,5,6] v")  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.tril(np.ones((5, 5), bool)), "c"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "ax"))
    assert flags(model) == ("none", -1, -1, True)
