"""Mask constants that fp16 holds."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tests.atc.conftest import FUSED, parse
from tests.atc.forms import form_of

from omfuse.atc.form.masks import clamp_masks


def mask_model(body: str, extra: str = "") -> onnx.ModelProto:
    return parse(f"""<ir_version: 10, opset_import: ["" : 17]>
    g (float[1,2,4,4] s, bool[1,1,1,4] m) => (float[1,2,4,4] y) <{extra}> {{ {body} }}""")


LOW = "float low = {-3.4028234e38}, float zero = {0.0}"


def values(model: onnx.ModelProto) -> dict[str, float]:
    return {t.name: float(numpy_helper.to_array(t).reshape(-1)[0]) for t in model.graph.initializer}


def test_a_mask_constant_is_clamped_and_the_result_stays() -> None:
    model = mask_model("b = Where(m, zero, low) z = Add(s, b) y = Softmax<axis=-1>(z)", LOW)
    feeds = {
        "s": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32),
        "m": np.array([True, True, False, False]).reshape(1, 1, 1, 4),
    }
    before = ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    (clamped,) = clamp_masks(model)
    assert clamped.lowest < -3e38
    assert values(model)["low"] == -10000.0
    after = ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(before, after)


def test_the_sum_of_two_masks_survives_fp16() -> None:
    model = mask_model(
        "b = Where(m, zero, low) c = Where(m, zero, low) d = Add(b, c) z = Add(s, d)"
        " y = Softmax<axis=-1>(z)",
        LOW,
    )
    clamp_masks(model)
    low = np.float16(values(model)["low"])
    assert np.isfinite(low + low)


@pytest.mark.parametrize(
    "body",
    [
        "y = Max(s, low)",
        "y = Clip(s, low, zero)",
        "b = Where(m, zero, low) y = Add(s, b)",
        "b = Where(m, zero, low) z = Add(s, b) p = Softmax<axis=-1>(z)"
        " c = Max(b, zero) y = Add(p, c)",
    ],
)
def test_other_large_constants_are_left_alone(body: str) -> None:
    model = mask_model(body, LOW)
    assert clamp_masks(model) == []
    assert values(model)["low"] < -3e38


def test_infinity_is_left_alone_and_comparisons_follow() -> None:
    model = mask_model(
        "b = Where(m, zero, low) z = Add(s, b) y = Softmax<axis=-1>(z)",
        "float low = {-1.0}, float zero = {0.0}",
    )
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(-np.inf), "low"))
    assert clamp_masks(model) == []
    both = mask_model(
        "b = Where(m, zero, low) e = Equal(b, same) n = Not(e) f = Where(n, b, zero) z = Add(s, f)"
        " y = Softmax<axis=-1>(z)",
        LOW + ", float same = {-3.4028234e38}",
    )
    clamp_masks(both)
    assert values(both)["same"] == values(both)["low"] == -10000.0


def test_the_bias_of_our_node_counts_as_a_mask() -> None:
    text = (
        FUSED.replace("(a, k, v)", "(a, k, v, low)")
        .replace(
            "=> (float[batch,2,seq,16] y) {",
            "=> (float[batch,2,seq,16] y) <float[1,1,1,1] low = {-3.4028234e38}> {",
            1,
        )
        .replace("(q, k, v) =>", "(q, k, v, b) =>")
    )
    form = form_of(text)
    assert values(form.model)["low"] == -10000.0
    assert any("-10000" in note for note in form.notes)
    assert values(form_of(text, mask_fill=None).model)["low"] < -3e38


@pytest.mark.parametrize(("fill", "words"), [(-10000.0, "survives"), (-65504.0, "-inf")])
def test_a_note_on_clamped_masks_is_true(fill: float, words: str) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) <float lo = {-3e38}> { a = Add(x, lo)
     y = Softmax(a) }
    """
    (note,) = [n for n in form_of(text, mask_fill=fill).notes if "mask constant" in n]
    assert words in note
