"""Attention as converters of TensorFlow write it: products of stacks, selection by products."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_text import build, run

import omfuse
from omfuse.fuse.contract import is_flash_attention

SELECTED = """
    kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) low = Constant<value_float=%s>()
    drop = Not(%s) d = Cast<to=1>(drop) f = Mul(low, d) m = Cast<to=1>(mask) x = Mul(m, s)
    z = Add(x, f) p = Softmax<axis=-1>(z) y = MatMul(p, v)"""


def selection(fill: str, dropped: str = "mask") -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    inputs = (
        "float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v, bool[2,1,5,7] mask,"
        " bool[2,1,5,7] other"
    )
    rng = np.random.default_rng(1)
    arrays = {
        "q": rng.standard_normal((2, 3, 5, 4)), "k": rng.standard_normal((2, 3, 7, 4)),
        "v": rng.standard_normal((2, 3, 7, 6)),
    }  # fmt: skip
    given = {name: array.astype(np.float32) for name, array in arrays.items()}
    given["mask"], given["other"] = rng.random((2, 2, 1, 5, 7)) < 0.6
    given["mask"][0, 0, 2] = False  # a row without any key averages the values
    return build(SELECTED % (fill, dropped), inputs), given


def test_scores_times_keep_plus_fill_times_drop_is_a_mask() -> None:
    model, given = selection("-2.37e38")
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    np.testing.assert_allclose(
        run(result.model, given)[0], run(model, given)[0], rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(("fill", "dropped"), [("-inf", "mask"), ("-2.37e38", "other")])
def test_other_products_are_no_selection(fill: str, dropped: str) -> None:
    """Infinity times zero is no number; keys that neither mask names keep a score of zero."""
    model, given = selection(fill, dropped)
    result = omfuse.rewrite(model)
    assert result.fused == 0
    np.testing.assert_array_equal(run(result.model, given)[0], run(model, given)[0])


# An Einsum of projected heads taken apart: sizes are joined, multiplied, and the larger chosen.
LAYER = """
  e{n} = Unsqueeze(x{n}, c2)
  sh{n} = Shape(e{n}) bs{n} = Gather(sh{n}, c01)
  flat{n} = Reshape(e{n}, flat)
  qf{n} = MatMul(flat{n}, wq) kf{n} = MatMul(flat{n}, wk) vf{n} = MatMul(flat{n}, wv)
  heads{n} = Concat<axis=0>(bs{n}, hd)
  q{n} = Reshape(qf{n}, heads{n}) k{n} = Reshape(kf{n}, heads{n}) v{n} = Reshape(vf{n}, heads{n})
  qt{n} = Transpose<perm=[0,2,1,3]>(q{n}) kt{n} = Transpose<perm=[0,2,1,3]>(k{n})
  vt{n} = Transpose<perm=[0,2,1,3]>(v{n})
  sq{n} = Shape(qt{n}) sk{n} = Shape(kt{n})
  bq{n} = Gather(sq{n}, c01) bk{n} = Gather(sk{n}, c01)
  nq{n} = ReduceProd<keepdims=1>(bq{n}) nk{n} = ReduceProd<keepdims=1>(bk{n})
  dq{n} = Gather(sq{n}, c3) dk{n} = Gather(sk{n}, c3)
  stackq{n} = Concat<axis=0>(nq{n}, rest, dq{n}) stackk{n} = Concat<axis=0>(nk{n}, rest, dk{n})
  q3{n} = Reshape(qt{n}, stackq{n}) k3{n} = Reshape(kt{n}, stackk{n})
  k3t{n} = Transpose<perm=[0,2,1]>(k3{n})
  s3{n} = MatMul(q3{n}, k3t{n})
  both{n} = Max(bq{n}, bk{n}) rows{n} = Gather(sq{n}, c2) keys{n} = Gather(sk{n}, c2)
  full{n} = Concat<axis=0>(both{n}, rows{n}, keys{n})
  s{n} = Reshape(s3{n}, full{n}) z{n} = Mul(s{n}, scale) p{n} = Softmax<axis=-1>(z{n})
  o{n} = MatMul(p{n}, vt{n}) ot{n} = Transpose<perm=[0,2,1,3]>(o{n})
  joined{n} = Concat<axis=0>(bs{n}, width) r{n} = Reshape(ot{n}, joined{n})
  a{n} = Add(r{n}, x{n}) mean{n} = GlobalAveragePool(a{n}) x{m} = Sub(a{n}, mean{n})
"""


@pytest.mark.parametrize(("batch", "steps"), [(1, 4), (3, 7)])
def test_products_of_stacks_through_two_layers(batch: int, steps: int) -> None:
    body = "".join(LAYER.format(n=n, m=n + 1) for n in range(2))
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[B,S,8] x0) => (float[B,S,8] x2)
        <int64[1] c2 = {{2}}, int64[1] c3 = {{3}}, int64[2] c01 = {{0, 1}}, int64[1] rest = {{-1}},
         int64[2] flat = {{-1, 8}}, int64[2] hd = {{2, 4}}, int64[1] width = {{8}},
         float scale = {{0.5}}> {{ {body} }}"""
    )
    rng = np.random.default_rng(2)
    for name in ("wq", "wk", "wv"):
        weight = rng.standard_normal((8, 8)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    result = omfuse.rewrite(model)
    assert result.fused == 2, [(r.status, r.reason) for r in result.records]
    assert sum(map(is_flash_attention, result.model.graph.node)) == 2
    given = {"x0": rng.standard_normal((batch, steps, 8)).astype(np.float32)}
    np.testing.assert_allclose(
        run(result.model, given)[0], run(model, given)[0], rtol=1e-4, atol=1e-5
    )


CROSS = """
  qb = Shape<start=0, end=1>(q) kb = Shape<start=0, end=1>(k)
  qs = Shape<start=1, end=2>(q) ks = Shape<start=1, end=2>(k)
  qn = Mul(qb, heads) kn = Mul(kb, heads)
  q4s = Concat<axis=0>(qb, qs, split) k4s = Concat<axis=0>(kb, ks, split)
  q4 = Reshape(q, q4s) k4 = Reshape(k, k4s)
  qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,1,3]>(k4)
  q3s = Concat<axis=0>(qn, flat) k3s = Concat<axis=0>(kn, flat)
  q3 = Reshape(qt, q3s) k3 = Reshape(kt, k3s) k3t = Transpose<perm=[0,2,1]>(k3)
  s3 = MatMul(q3, k3t)
  full = Concat<axis=0>(qb, heads, qs, ks) s4 = Reshape(s3, full)
  keep = Unsqueeze(mask, c12) one = Constant<value_float=1.0>() drop = Sub(one, keep)
  low = Constant<value_float=-1e9>() bias = Mul(drop, low) z4 = Add(s4, bias)
  back = Concat<axis=0>(qn, qs, ks) z3 = Reshape(z4, back) p = Softmax<axis=-1>(z3)
  o3 = MatMul(p, k3) o4s = Concat<axis=0>(qb, heads, qs, depth) o4 = Reshape(o3, o4s)
  y = Transpose<perm=[0,2,1,3]>(o4)
"""


@pytest.mark.parametrize("batch", [1, 3])
def test_inputs_that_name_their_batch_apart(batch: int) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[dec,T,8] q, float[enc,S,8] k, float[given,S2] mask) => (float[dec,T,2,4] y)
        <int64[1] heads = {{2}}, int64[2] split = {{2, 4}}, int64[2] flat = {{-1, 4}},
         int64[2] c12 = {{1, 2}}, int64[1] depth = {{4}}> {{ {CROSS} }}"""
    )
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    rng = np.random.default_rng(3)
    given = {
        "q": rng.standard_normal((batch, 5, 8)).astype(np.float32),
        "k": rng.standard_normal((batch, 7, 8)).astype(np.float32),
    }
    for rows in {1, batch}:  # a mask of one row serves every batch
        given["mask"] = (rng.random((rows, 7)) < 0.7).astype(np.float32)
        given["mask"][:, 0] = 1
        np.testing.assert_allclose(
            run(result.model, given)[0], run(model, given)[0], rtol=1e-5, atol=2e-6
        )
