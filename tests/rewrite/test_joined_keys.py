"""Attention over keys in several parts, scored apart and joined before the softmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_text import build, feeds, run

import omfuse

INPUTS = ("float[2,3,5,4] q, float[2,3,4,7] k, float[2,3,4,{n}] old_k, float[2,3,7,6] v, "
          "float[2,3,{n},6] old_v, bool[2,1,5,{all}] mask")  # fmt: skip
JOIN = "a = MatMul(q, old_k) b = MatMul(q, k) s = Concat<axis=-1>(a, b) "
SOFT = "c = Constant<value_float=0.4>() m = Mul(s, c) p = Softmax<axis=-1>(m) "
SPLIT = "sizes = Constant<value_ints=[2, 7]>() o, n = Split<axis=3>(p, sizes) "
AXIS = "axis = Constant<value_ints=[3]>() zero = Constant<value_ints=[0]>() "
SLICES = (AXIS + "cut = Constant<value_ints=[2]>() "
          "end = Constant<value_ints=[9223372036854775807]>()"
          "o = Slice(p, zero, cut, axis) n = Slice(p, cut, end, axis) ")  # fmt: skip
VALUES = "x = MatMul(o, old_v) z = MatMul(n, v) y = Add(x, z)"


def model_of(body: str, old: str = "2", total: str = "9") -> onnx.ModelProto:
    return build(body, INPUTS.format(n=old, all=total))


def equal(model: onnx.ModelProto, result: onnx.ModelProto, **more: np.ndarray) -> None:
    inputs = feeds(model) | more
    for a, b in zip(run(model, inputs), run(result, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)


MASK = "f = Constant<value_float=-inf>() h = Where(mask, m, f) p = Softmax<axis=-1>(h) "


@pytest.mark.parametrize(
    "body",
    [
        JOIN + SOFT + SPLIT + VALUES,
        JOIN + SOFT + SLICES + VALUES,
        JOIN + SOFT.replace("p = Softmax<axis=-1>(m) ", MASK) + SLICES + VALUES,
        "c = Constant<value_float=0.4>() a0 = MatMul(q, old_k) a = Mul(a0, c) b0 = MatMul(q, k) "
        "b = Mul(b0, c) s = Concat<axis=-1>(a, b) p = Softmax<axis=-1>(s) " + SPLIT + VALUES,
    ],
)
def test_parts_become_one_node(body: str) -> None:
    model = model_of(body)
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    ops = [node.op_type for node in result.model.graph.node]
    assert ops.count("FlashAttention") == 1
    assert not {"Split", "Slice", "Softmax", "Add"} & set(ops)
    assert result.nodes_before == len(model.graph.node)
    equal(model, result.model)
    assert omfuse.rewrite(result.model).changed is False


def test_the_place_of_the_cut_may_follow_from_a_shape() -> None:
    cut = (AXIS + "sh = Shape(old_k) i = Constant<value_ints=[3]>() cut = Gather(sh, i) "
           "end = Constant<value_ints=[9223372036854775807]>() "
           "o = Slice(p, zero, cut, axis) n = Slice(p, cut, end, axis) ")  # fmt: skip
    model = model_of(JOIN + SOFT + cut + VALUES, old="old", total="9")
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    rng = np.random.default_rng(1)
    for length in (1, 4):
        equal(
            model,
            result.model,
            old_k=rng.standard_normal((2, 3, 4, length)).astype(np.float32),
            old_v=rng.standard_normal((2, 3, length, 6)).astype(np.float32),
        )


@pytest.mark.parametrize(
    "body",
    [
        # the cut is not where the parts meet
        JOIN + SOFT + SPLIT.replace("[2, 7]", "[7, 2]")
        + "x = MatMul(o, v) z = MatMul(n, old_v) y = Add(x, z)",
        # the parts are scaled differently
        JOIN.replace("s =", "t = Constant<value_float=2.0>() b2 = Mul(b, t) s =").replace(
            "(a, b)", "(a, b2)") + SOFT + SPLIT + VALUES,
        # a part of the weights is left out
        JOIN + SOFT + SPLIT + "y = MatMul(n, v)",
        # the parts are not summed
        JOIN + SOFT + SPLIT + VALUES.replace("Add", "Sub"),
        # other queries
        JOIN.replace("b = MatMul(q, k)", "r = Neg(q) b = MatMul(r, k)") + SOFT + SPLIT + VALUES,
    ],
)  # fmt: skip
def test_what_is_not_one_attention_stays(body: str) -> None:
    model = model_of(body)
    result = omfuse.rewrite(model)
    assert result.fused == 0
    assert result.model.SerializeToString() == model.SerializeToString()


def test_parts_that_others_read_stay_for_them() -> None:
    model = model_of(JOIN + SOFT + SPLIT + VALUES)
    extra = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, None)
    model.graph.output.append(extra)
    result = omfuse.rewrite(model)
    assert result.fused == 1
    equal(model, result.model)


def test_the_order_of_the_values_is_that_of_the_keys() -> None:
    """Swapped values are another function; joining must follow the cut, not the sum."""
    model = model_of(JOIN + SOFT + SPLIT + "z = MatMul(n, v) x = MatMul(o, old_v) y = Add(z, x)")
    result = omfuse.rewrite(model)
    assert result.fused == 1
    equal(model, result.model)
