"""Softmax written out in reductions, and weights that are masked and brought back to one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_text import build, feeds, run

import omfuse
from omfuse.fuse.contract import is_flash_attention, read_attrs

QK = "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt)"
AXIS = "last = Constant<value_ints=[3]>()"
ONES = "rows = Constant<value_ints=[2,3,5,1]>() whole = Constant<value_ints=[2,3,5,7]>()"
MAX = "m = ReduceMax<axes=[3], keepdims=0>(s) mr = Reshape(m, rows)"
EXP = "x = Sub(s, me) e = Exp(x)"
SUM = "t = ReduceSum<keepdims=0>(e, last) tr = Reshape(t, rows) te = Expand(tr, whole)"
NORM = "p = Div(e, te) y = MatMul(p, v)"
NEGINF = "inf = Constant<value_float=-inf>()"


def fused(
    model: onnx.ModelProto,
    inputs: dict[str, np.ndarray] | None = None,
    keeps_maximum: bool = False,
) -> onnx.NodeProto:
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    inputs = inputs or feeds(model)
    for a, b in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)
    left = {n.op_type for n in result.model.graph.node}
    assert not left & {"Exp", "ReduceSum", "Softmax"}
    assert ("ReduceMax" in left) == keeps_maximum
    (node,) = [n for n in result.model.graph.node if is_flash_attention(n)]
    return node


@pytest.mark.parametrize(
    "maximum",
    [
        f"{MAX} me = Identity(mr)",
        f"{MAX} ms = Expand(mr, whole) me = Identity(ms)",
        f"{NEGINF} m = ReduceMax<axes=[3], keepdims=0>(s) mm = Max(inf, m) "
        "me = Unsqueeze(mm, last)",
        f"{NEGINF} m = ReduceMax<axes=[3], keepdims=1>(s) mi = Identity(m) me = Max(inf, mi)",
    ],
)  # fmt: skip
def test_reductions_that_drop_and_restore_their_axis(maximum: str) -> None:
    fused(build(f"{QK} {AXIS} {ONES} {maximum} {EXP} {SUM} {NORM}"))


def test_log_of_the_sum_written_out() -> None:
    body = f"""{QK} {AXIS} {ONES} {MAX} x = Sub(s, mr) e = Exp(x)
        t = ReduceSum<keepdims=1>(e, last) l = Log(t) z = Sub(x, l) p = Exp(z) y = MatMul(p, v)"""
    fused(build(body))


@pytest.mark.parametrize(
    "maximum",
    [
        # another axis; a maximum that is not of the scores
        "m = ReduceMax<axes=[2], keepdims=0>(s) o = Constant<value_ints=[2,3,1,7]>() "
        "me = Reshape(m, o)",
        f"{NEGINF} m = ReduceMax<axes=[3], keepdims=0>(x0) me = Unsqueeze(m, last)",
    ],
)  # fmt: skip
def test_what_is_not_the_row_maximum_stays_as_a_bias(maximum: str) -> None:
    model = build(f"{QK} {AXIS} {ONES} x0 = Abs(s) {maximum} {EXP} {SUM} {NORM}")
    assert fused(model, keeps_maximum=True).input[3]


def test_a_sum_reshaped_to_other_rows_is_not_a_softmax() -> None:
    """Queries and keys are equally many here, so the transposed rows broadcast as well."""
    body = f"""{QK} {AXIS} o = Constant<value_ints=[2,3,1,7]>() e = Exp(s)
        t = ReduceSum<keepdims=0>(e, last) te = Reshape(t, o) {NORM}"""
    model = build(body, "float[2,3,7,4] q, float[2,3,7,4] k, float[2,3,7,6] v")
    assert omfuse.rewrite(model).fused == 0


KEEP = "keep = Cast<to=1>(mask) p = Softmax<axis=3>(s) w = Mul(p, keep)"
TOTAL = (
    "t = ReduceSum<keepdims=1>(w, last) zero = Constant<value_float=0.0>() "
    "one = Constant<value_float=1.0>() some = Greater(t, zero) safe = Where(some, t, one)"
)
ZERO = "n = Div(w, safe) r = Where(some, n, zero) y = MatMul(r, v)"


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        (f"{QK} {AXIS} {KEEP} {TOTAL} {ZERO}", "zero"),
        (f"{QK} {AXIS} {KEEP} t = ReduceSum<keepdims=1>(w, last) r = Div(w, t) y = MatMul(r, v)",
         "nan"),
    ],
)  # fmt: skip
def test_an_empty_row_of_renormalised_weights(body: str, policy: str) -> None:
    model = build(body)
    inputs = feeds(model)
    inputs["mask"][0, 0, 1, :] = False
    node = fused(model, inputs)
    assert read_attrs(node).masked_rows == policy
    assert node.input[4] == "mask"


def test_renormalised_weights_below_a_causal_mask() -> None:
    """The empty rows of both masks together are zero, as in the graph."""
    body = f"""{QK.replace("s =", "s0 =")} {AXIS} inf = Constant<value_float=-inf>()
        up = Constant<value=bool[1,1,5,7] {{1,0,0,0,0,0,0, 1,1,0,0,0,0,0, 1,1,1,0,0,0,0,
            1,1,1,1,0,0,0, 1,1,1,1,1,0,0}}>() s = Where(up, s0, inf) {KEEP} {TOTAL} {ZERO}"""
    model = build(body)
    inputs = feeds(model)
    inputs["mask"][0, 0, 1, :2] = False
    node = fused(model, inputs)
    assert read_attrs(node).masked_rows == "zero"


@pytest.mark.parametrize(
    "change",
    [
        ("keep = Cast<to=1>(mask)", "keep = Abs(bias)"),  # not zero or one
        ("ReduceSum<keepdims=1>(w,", "ReduceSum<keepdims=1>(p,"),  # the sum before the mask
        ("last = Constant<value_ints=[3]>()", "last = Constant<value_ints=[1]>()"),
        ("n = Div(w, safe)", "n = Div(p, safe)"),
        ("r = Where(some, n, zero)", "r = Where(some, n, one)"),
        ("some = Greater(t, zero)", "some = Less(t, zero)"),
        ("n = Div(w, safe) r = Where(some, n, zero) y = MatMul(r, v)", "y = MatMul(w, v)"),
    ],
)
def test_masked_weights_that_do_not_come_back_to_one(change: tuple[str, str]) -> None:
    body = f"{QK} {AXIS} {KEEP} {TOTAL} {ZERO}"
    assert change[0] in body
    result = omfuse.rewrite(build(body.replace(*change)))
    assert result.fused == 0


def test_a_small_fill_below_renormalised_weights_is_declined() -> None:
    """A row whose kept keys were all filled before is uniform in one form and zero in the other."""
    body = f"""{QK.replace("s =", "s0 =")} {AXIS} low = Constant<value_float=-1e9>()
        z0 = Constant<value_float=0.0>() above = Greater(bias, z0) s = Where(above, s0, low)
        {KEEP} {TOTAL} {ZERO}"""
    (record,) = omfuse.rewrite(build(body)).records
    assert record.code == "weights-mask"
