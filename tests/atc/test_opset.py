from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tests.atc.conftest import parse

from omfuse.atc.config import load_soc
from omfuse.atc.form.make import FormOptions, make_form
from omfuse.atc.form.opset import lower_opset, model_opset
from omfuse.errors import UsageError

ort.set_default_logger_severity(3)

# Body over x [1,2,6,8] float; a result named y.  From opset 23 unless said otherwise.
CASES = {
    "gelu": (20, "y = Gelu(x)"),
    "gelu-tanh": (20, 'y = Gelu<approximate="tanh">(x)'),
    "rms-norm": (23, "y = RMSNormalization<axis=-1, epsilon=0.01>(x, w)"),
    "rms-norm-wide": (23, "y = RMSNormalization<axis=2>(x, w2)"),
    "swish": (24, "y = Swish<alpha=1.5>(x)"),
    "mish": (22, "y = Mish(x)"),
    "attention": (23, "y = Attention<is_causal=1, softcap=20.0>(x, x, x)"),
    "attention-grouped": (23, "k = Slice(x, zero, one, one) y = Attention(x, k, k)"),
    "rotary": (23, "y = RotaryEmbedding(x, c, c, pos)"),
    "group-norm": (21, "y = GroupNormalization<num_groups=2>(x, one_f, one_f)"),
    "reduce": (18, "r = ReduceMean<keepdims=1>(x, axis3) y = Add(x, r)"),
    "reduce-default": (18, "r = ReduceMax<keepdims=1>(x) y = Add(x, r)"),
    "reduce-noop": (18, "y = ReduceL2<noop_with_empty_axes=1>(x)"),
    "reduce-computed": (18, "s = Shape(x) n = Size(s) r1 = Sub(n, one_s) a = Unsqueeze(r1, zero)"
                            " r = ReduceMin<keepdims=1>(x, a) y = Add(x, r)"),
    "split-even": (18, "a, b, c3 = Split<axis=2, num_outputs=3>(x) y = Concat<axis=2>(c3, a, b)"),
    "split-uneven": (18, "a, b, d = Split<axis=3, num_outputs=3>(x) y = Concat<axis=3>(d, a, b)"),
    "pad-axes": (18, "y = Pad(x, pads, fill, axis3)"),
    "resize": (19, 'y = Resize<mode="nearest">(x, , scales)'),
    "cast": (23, "h = Cast<to=10>(x) y = Cast<to=1>(h)"),
    "types-only": (23, "t = Transpose<perm=[0,1,3,2]>(x) s = Shape(t) r = Reshape(t, s)"
                       " y = Identity(r)"),
    "scatter": (18, 'y = ScatterND<reduction="add">(x, idx, upd)'),
    "inside-if": (20, "y = If (flag) <then_branch = t () => (float[1,2,6,8] u) { u = Gelu(x) },"
                      " else_branch = e () => (float[1,2,6,8] v) { v = Neg(x) }>"),
}  # fmt: skip
WEIGHTS = """
  float[8] w = {1,2,3,4,5,6,7,8}, float[6,1] w2 = {1,2,3,4,5,6}, int64[1] axis3 = {3},
  int64[1] zero = {0}, int64[1] one = {1}, int64 one_s = {1}, float[2] one_f = {1.0, 2.0},
  int64[2] pads = {1,2}, float fill = {0.5}, float[4] scales = {1.0, 1.0, 2.0, 2.0},
  int64[1,1] idx = {0}, bool flag = {1}, int64[1,6] pos = {0,1,2,3,4,5}
"""


def build(version: int, body: str) -> onnx.ModelProto:
    model = parse(f"""<ir_version: 10, opset_import: ["" : {version}]>
    g (float[1,2,6,8] x, float[8,4] c, float[1,2,6,8] upd) => (float y) <{WEIGHTS}> {{ {body} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def run(model: onnx.ModelProto) -> np.ndarray:
    rng = np.random.default_rng(5)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made = {"x": (1, 2, 6, 8), "c": (8, 4), "upd": (1, 2, 6, 8)}
    feeds = {
        i.name: rng.standard_normal(made[i.name]).astype(np.float32) for i in session.get_inputs()
    }
    result: np.ndarray = session.run(None, feeds)[0]
    return result


@pytest.mark.parametrize("name", CASES)
def test_a_lowered_model_computes_the_same(name: str) -> None:
    version, body = CASES[name]
    model = build(version, body)
    expected = run(model)
    for target in (None, 18):
        lowered, report = lower_opset(model, target)
        # onnx's body of RotaryEmbedding splits a size that only its Reshape knows.
        lowest = 18 if name == "rotary" else 17
        assert report.target == (target or lowest) or report.source == 18, report
        assert model_opset(lowered) == report.target
        if lowered.graph.output[0].type.tensor_type.HasField("shape"):
            onnx.checker.check_model(lowered)
        np.testing.assert_allclose(run(lowered), expected, rtol=2e-6, atol=2e-6)


def test_the_model_itself_is_untouched_and_a_low_one_stays() -> None:
    model = build(20, "y = Gelu(x)")
    before = model.SerializeToString()
    lower_opset(model)
    assert model.SerializeToString() == before
    low = build(17, "y = Relu(x)")
    assert lower_opset(low)[1].target == 17
    assert lower_opset(build(13, "y = Relu(x)"))[1].target == 13


BLOCKED = [
    (18, 'y = ScatterND<reduction="max">(x, idx, upd)', "reduction max"),
    (19, 'y = Pad<mode="wrap">(x, pads8)', "wrap"),
    (18, "a = ArgMax<axis=3>(x) b = Slice(a, zero, one) f = Flatten(b) g = Reshape(f, minus)"
         " d = Slice(g, zero, one) y = ReduceMean(x, d)", "computed"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "body", "words"), BLOCKED)
def test_what_cannot_be_lowered_stops_at_the_lowest_possible(
    version: int, body: str, words: str
) -> None:
    body = body.replace("pads8", "p8")
    model = parse(f"""<ir_version: 10, opset_import: ["" : {version}]>
    g (float[1,2,6,8] x, float[1,2,6,8] upd) => (float y)
      <{WEIGHTS}, int64[8] p8 = {{0,0,0,1,0,0,0,1}}, int64[1] minus = {{-1}}> {{ {body} }}""")
    _, report = lower_opset(model)
    assert report.target > 17
    assert any(words in text for text in report.blocked)
    with pytest.raises(UsageError) as caught:
        make_form(model, FormOptions(opset=17), load_soc("Ascend310P3"))
    assert caught.value.code == "opset-not-lowered"
    kept = make_form(model, FormOptions(), load_soc("Ascend310P3"))
    assert kept.opset == report.target
    assert any("not lower because" in note for note in kept.notes)


def test_the_form_lowers_unless_told_to_keep() -> None:
    model = build(23, "y = Gelu(x)")
    soc = load_soc("Ascend310P3")
    assert make_form(model, FormOptions(), soc).opset == 17
    assert make_form(model, FormOptions(opset=0), soc).opset == 23
    assert make_form(model, FormOptions(opset=19), soc).opset == 19


def test_low_precision_norms_keep_their_wide_inside() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 23]>
    g (float16[2,64] x) => (float16[2,64] y) <float16[64] w> { y = RMSNormalization(x, w) }""")
    weight = onnx.numpy_helper.from_array(np.ones(64, np.float16), "w")
    model.graph.initializer.append(weight)
    lowered, _ = lower_opset(onnx.shape_inference.infer_shapes(model))
    feeds = {"x": np.full((2, 64), 300.0, np.float16)}
    out = ort.InferenceSession(lowered.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(out, np.ones((2, 64)), rtol=1e-3)
