"""Blocks beyond one rule: masks that decide empty rows, GQA, shared values, lookalikes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_text import build, feeds, run

import omfuse
from omfuse.fuse.contract import is_flash_attention, read_attrs

QK = "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt)"
SOFT = "p = Softmax<axis=-1>(z) y = MatMul(p, v)"
LOW = "f = Constant<value_float=-3.4028235e38>()"
INF = "f = Constant<value_float=-inf>() zero = Constant<value_float=0.0>()"
GUARD = "p = Softmax<axis=-1>(z) n = IsNaN(p) g = Where(n, zero, p) y = MatMul(g, v)"


def node_of(model: onnx.ModelProto) -> onnx.NodeProto:
    (node,) = [n for n in model.graph.node if is_flash_attention(n)]
    return node


def check_equal(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray] | None = None
) -> onnx.NodeProto:
    result = omfuse.rewrite(model)
    assert result.fused == 1, result.records
    inputs = inputs or feeds(model)
    for a, b in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)
    return node_of(result.model)


def with_empty_row(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    inputs = feeds(model)
    inputs["mask"][0, 0, 1, :] = False
    return inputs


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        (f"{QK} {LOW} z = Where(mask, s, f) {SOFT}", "uniform"),
        (f"{QK} {INF} z = Where(mask, s, f) {GUARD}", "zero"),
        (f"{QK} {LOW} o = Constant<value_float=0.0>() b = Where(mask, o, f) z = Add(s, b) {SOFT}",
         "uniform"),
        (f"{QK} {INF} b = Where(mask, zero, f) z = Add(s, b) {GUARD}", "zero"),
        (f"{QK} {INF} b = Where(mask, zero, f) z = Add(b, s) {SOFT}", "nan"),
    ],
)  # fmt: skip
def test_an_empty_row_gives_what_the_graph_gives(body: str, policy: str) -> None:
    model = build(body)
    node = check_equal(model, with_empty_row(model))
    attrs = read_attrs(node)
    assert attrs.masked_rows == policy
    assert node.input[3] == ""
    assert node.input[4] == "mask"


def test_a_bias_below_a_mask_keeps_the_order() -> None:
    """Where(mask, s, lowest) + bias: the mask becomes part of the bias, exactly."""
    model = build(f"{QK} {LOW} w = Where(mask, s, f) z = Add(w, bias) {SOFT}")
    node = check_equal(model, with_empty_row(model))
    assert node.input[3]
    assert len(node.input) == 4


def test_a_small_fill_with_a_bias_below_is_declined() -> None:
    body = (
        f"{QK} f = Constant<value_float=-10000.0>() w = Where(mask, s, f) z = Add(w, bias) {SOFT}"
    )
    result = omfuse.rewrite(build(body))
    assert [(r.status, r.code) for r in result.records] == [("declined", "masked-row")]
    assert not result.changed


def test_the_scale_is_taken_from_the_graph_and_not_from_the_head_size() -> None:
    model = build(f"{QK} c = Constant<value_float=0.1>() z = Mul(s, c) {SOFT}")
    assert read_attrs(check_equal(model)).scale == pytest.approx(0.1)


@pytest.mark.parametrize("place", ["q", "k", "both"])
def test_a_scale_on_an_operand_joins_the_scale(place: str) -> None:
    c = "c = Constant<value_float=0.5>()"
    left = "qs = Mul(q, c)" if place in ("q", "both") else "qs = Identity(q)"
    right = "ks = Mul(k, c)" if place in ("k", "both") else "ks = Identity(k)"
    model = build(
        f"{c} {left} {right} kt = Transpose<perm=[0,1,3,2]>(ks) z = MatMul(qs, kt) {SOFT}"
    )
    node = check_equal(model)
    assert read_attrs(node).scale == pytest.approx(0.25 if place == "both" else 0.5)
    assert list(node.input) == ["q", "k", "v"]


@pytest.mark.parametrize("repeat", ["Expand", "Tile"])
def test_repeated_key_heads_become_grouped_heads(repeat: str) -> None:
    big, bigv = "[2,3,2,7,4]", "[2,3,2,7,6]"
    if repeat == "Tile":
        big = bigv = "[1,1,2,1,1]"
    expand = f"""
        one = Constant<value_ints=[2]>() big = Constant<value_ints={big}>()
        flat = Constant<value_ints=[2,6,7,4]>() flatv = Constant<value_ints=[2,6,7,6]>()
        bigv = Constant<value_ints={bigv}>()
        k5 = Unsqueeze(k, one) ke = {repeat}(k5, big) kr = Reshape(ke, flat)
        v5 = Unsqueeze(v, one) ve = {repeat}(v5, bigv) vr = Reshape(ve, flatv)
        kt = Transpose<perm=[0,1,3,2]>(kr) z = MatMul(q, kt)
        p = Softmax<axis=-1>(z) y = MatMul(p, vr)"""
    model = build(expand, "float[2,6,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v")
    node = check_equal(model)
    attrs = read_attrs(node)
    assert (attrs.num_heads, attrs.num_kv_heads) == (6, 3)
    assert list(node.input) == ["q", "k", "v"]


def test_interleaved_repetition_is_not_grouped_heads() -> None:
    """Tiling [g, hk] is another order than head h reading h // g: K and V stay expanded."""
    body = """
        r = Constant<value_ints=[1,2,1,1]>() kr = Tile(k, r) vr = Tile(v, r)
        kt = Transpose<perm=[0,1,3,2]>(kr) z = MatMul(q, kt)
        p = Softmax<axis=-1>(z) y = MatMul(p, vr)"""
    model = build(body, "float[2,6,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v")
    attrs = read_attrs(check_equal(model))
    assert attrs.num_heads == attrs.num_kv_heads == 6


def test_head_split_transposes_are_taken_into_the_layout() -> None:
    body = """
        h = Constant<value_ints=[0,0,3,4]>() back = Constant<value_ints=[0,0,12]>()
        q4 = Reshape(q, h) k4 = Reshape(k, h) v4 = Reshape(v, h)
        qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,3,1]>(k4)
        vt = Transpose<perm=[0,2,1,3]>(v4) z = MatMul(qt, kt) p = Softmax<axis=-1>(z)
        o = MatMul(p, vt) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, back)"""
    model = build(body, "float[2,5,12] q, float[2,7,12] k, float[2,7,12] v")
    result = omfuse.rewrite(model)
    check_equal(model)
    assert "Transpose" not in {node.op_type for node in result.model.graph.node}
    assert read_attrs(node_of(result.model)).layout == "BSND"


def test_weights_that_others_read_stay_alive() -> None:
    model = build(f"{QK} z = Identity(s) {SOFT} m = ReduceMean<axes=[1]>(p)")
    extra = onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, None)
    model.graph.output.append(extra)
    check_equal(model)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f"{QK} p = Softmax<axis=1>(s) y = MatMul(p, v)", "value-contraction"),
        (f"{QK} p = Softmax<axis=2>(s) y = MatMul(p, v)", "value-contraction"),
        (f"{QK} y = Softmax<axis=-1>(s)", "no-contraction"),
        (f"{QK} g = Sigmoid(s) p = Softmax<axis=-1>(g) y = MatMul(p, v)", "op-scores"),
        (f"{QK} p = Softmax<axis=-1>(s) g = Relu(p) y = MatMul(g, v)", "op-weights"),
        ("b = Identity(bias) p = Softmax<axis=-1>(b) y = MatMul(p, v)", "no-product"),
    ],
)
def test_lookalikes_stay_untouched(body: str, code: str) -> None:
    model = build(body)
    result = omfuse.rewrite(model)
    assert result.fused == 0
    assert [record.code for record in result.records] == [code]
    assert result.model.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize(
    "inputs",
    [
        "float[0,3,5,4] q, float[0,3,7,4] k, float[0,3,7,6] v",
        "float[2,3,5,4] q, float[2,3,0,4] k, float[2,3,0,6] v",
        "float[2,3,5,0] q, float[2,3,7,0] k, float[2,3,7,6] v",
    ],
)
def test_an_axis_of_size_zero_is_left_alone(inputs: str) -> None:
    result = omfuse.rewrite(build(f"{QK} z = Identity(s) {SOFT}", inputs))
    assert [record.code for record in result.records] == ["empty"]


def test_blocks_in_a_branch_and_a_local_function_are_fused() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,4] v, bool c) => (float[2,3,5,4] y) {
          a = If (c) <
            then_branch = one () => (float[2,3,5,4] t) {
              kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s)
              t = MatMul(p, v) },
            else_branch = two () => (float[2,3,5,4] e) { e = Identity(q) }>
          y = local.attend(a, k, v)
        }
        <domain: "local", opset_import: ["": 17]>
        attend (q, k, v) => (o) {
          kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s)
          o = MatMul(p, v)
        }"""
    model = onnx.parser.parse_model(text)
    result = omfuse.rewrite(model)
    assert [record.status for record in result.records] == ["fused", "fused"]
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("q", (2, 3, 5, 4)), ("k", (2, 3, 7, 4)), ("v", (2, 3, 7, 4)))
    }
    for flag in (True, False):
        feed = {**inputs, "c": np.array(flag)}
        np.testing.assert_allclose(
            run(result.model, feed)[0], run(model, feed)[0], rtol=1e-5, atol=2e-6
        )


LEGACY = (
    "one = Constant<value_float=1.0>() c = Constant<value_float=-1e4>() "
    "keep = Cast<to=1>(mask) x = Mul(s, keep) drop = Sub(one, keep) low = Mul(drop, c) "
    "a = Add(x, low) "
)


def with_padded_rows(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Row 1 keeps only keys that are padded away: the others share its weight evenly."""
    inputs = feeds(model)
    inputs["mask"][0, 0, 1] = [True, True] + [False] * 5
    inputs["pad"] = np.ones((2, 1, 1, 7), np.int64)
    inputs["pad"][0, ..., :2] = 0
    return inputs


@pytest.mark.parametrize(
    "masked", [LEGACY, "c = Constant<value_float=-1e4>() a = Where(mask, s, c)"]
)
def test_a_small_fill_under_a_huge_padding_mask(masked: str) -> None:
    pads = "u = Constant<value_float=1.0>() w = Constant<value_float=-3.4028235e38>() "
    pads += "f = Cast<to=1>(pad) g = Sub(u, f) h = Mul(g, w) z = Add(a, h) "
    inputs = "float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v, bool[2,1,5,7] mask, "
    model = build(f"{QK} {masked} {pads} {SOFT}", inputs + "int64[2,1,1,7] pad")
    check_equal(model, with_padded_rows(model))


def test_a_small_fill_under_any_other_bias_is_left_alone() -> None:
    """With a padding mask of another -1e4, both fills compete with shifted scores."""
    model = build(f"{QK} {LEGACY} z = Add(a, bias) {SOFT}")
    (record,) = omfuse.rewrite(model).records
    assert (record.status, record.code) == ("declined", "masked-row")


def test_a_factor_that_may_be_no_mask_is_left_alone() -> None:
    body = LEGACY.replace("Cast<to=1>(mask)", "Identity(bias)")
    model = build(f"{QK} {body} z = Identity(a) {SOFT}")
    (record,) = omfuse.rewrite(model).records
    assert (record.status, record.code) == ("declined", "factor")
