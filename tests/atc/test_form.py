from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from tests.atc.conftest import FUSED, parse

from omfuse.atc.config import load_soc
from omfuse.atc.form.make import AtcForm, FormOptions, count_attention, make_form
from omfuse.atc.form.masks import clamp_masks
from omfuse.atc.form.save import save_form
from omfuse.errors import ModelError, UsageError

P3, B3 = load_soc("Ascend310P3"), load_soc("Ascend910B3")

TORCH = """
<ir_version: 10, opset_import: ["" : 17, "omfuse" : 1, "pkg.torch" : 1, "ai.onnx.ml" : 3]>
g (float[1,2,4,8] q, float[1,2,4,8] k) => (float[1,2,4,8] y) {
  a = pkg.torch.twice (q)
  o = omfuse.FlashAttention:s1 <num_heads: int = 2, scale: float = 0.123456789> (a, k, k)
  y = pkg.torch.outer (o)
}
<opset_import: ["" : 17], domain: "pkg.torch"> twice (x) => (z) { z = Add(x, x) }
<opset_import: ["" : 17, "omfuse" : 1], domain: "pkg.torch"> outer (x) => (z) {
  z = omfuse.FlashAttention:s2 <num_heads: int = 2, scale: float = 0.25, softcap: float = 50.0>
      (x, x, x)
}
<opset_import: ["" : 17], domain: "omfuse", overload: "s1">
FlashAttention <num_heads, scale> (q, k, v) => (y) { y = Add(q, k) }
<opset_import: ["" : 17], domain: "omfuse", overload: "s2">
FlashAttention <num_heads, scale, softcap> (q, k, v) => (y) { y = Mul(q, k) }
"""


def form_of(text: str, soc: str = "Ascend310P3", **options: object) -> AtcForm:
    return make_form(parse(text), FormOptions(**options), load_soc(soc))  # type: ignore[arg-type]


def attention_of(form: AtcForm) -> list[onnx.NodeProto]:
    return [n for n in form.model.graph.node if n.name in form.attention]


def test_functions_go_and_ours_becomes_a_default_domain_node() -> None:
    model = parse(TORCH)
    before = model.SerializeToString()
    form = make_form(model, FormOptions(), P3)
    assert model.SerializeToString() == before, "the user's model is untouched"
    assert not form.model.functions
    assert [(o.domain, o.version) for o in form.model.opset_import] == [("", 17)]
    assert all(n.domain == "" and not n.overload for n in form.model.graph.node)
    nodes = attention_of(form)
    assert [n.op_type for n in nodes] == ["FlashAttention"] * 2
    attributes = {a.name: helper.get_attribute_value(a) for a in nodes[1].attribute}
    assert attributes["scale_value"] == [0.25, 50.0]
    assert attributes["softcap"] == 50.0
    assert attributes["out_layout"] == b"BNSD"
    first = {a.name: helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert first["scale_value"][0] == np.float32(0.123456789)
    assert count_attention(model) == 2


def test_node_names_are_unique_across_subgraphs_and_never_empty() -> None:
    form = form_of("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y) {
      [same] a = Relu(x)
      [same] b = Neg(a)
      y = If (c) <
        then_branch = t () => (float[2] u) { [same] u = Abs(b) },
        else_branch = e () => (float[2] w) { w = Sign(b) }
      >
    }""")
    names = [n.name for n in form.model.graph.node]
    for node in form.model.graph.node:
        for attribute in node.attribute:
            names += [n.name for n in attribute.g.node]
    assert all(names)
    assert len(set(names)) == len(names) == 5


def test_empty_outputs_are_stripped_or_named() -> None:
    form = form_of("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[2,4] x, float[2,4] u) => (int64[2,2] i) {
      k = Constant<value_ints: ints = [2]>()
      "", i = TopK(x, k)
    }""")
    node = next(n for n in form.model.graph.node if n.op_type == "TopK")
    assert all(node.output)
    model = parse("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) { y, "" = Dropout(x) }""")
    form = make_form(model, FormOptions(), P3)
    assert list(form.model.graph.node[0].output) == ["y"]


def test_models_that_atc_cannot_take_are_refused_early() -> None:
    with pytest.raises(ModelError, match="E16001"):
        form_of("""<ir_version: 10, opset_import: ["" : 17]>
        g () => (float[1] y) { y = Constant<value_floats: floats = [1.0]>() }""")
    foreign = """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[2] x) => (float[2] y) { y = com.microsoft.FastGelu(x) }"""
    with pytest.raises(ModelError, match=r"com\.microsoft: FastGelu"):
        form_of(foreign)
    kept = form_of(foreign, keep_domains=("com.microsoft",))
    assert {o.domain: o.version for o in kept.model.opset_import} == {
        "ai.onnx": 17,
        "com.microsoft": 1,
    }
    with pytest.raises(UsageError):
        form_of(foreign, attention="magic")


def test_initializers_among_the_inputs_are_dropped_and_dead_nodes_go() -> None:
    form = form_of("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[2] x, float[2] w) => (float[2] y)
      <float[2] w = {1.0, 2.0}, float[2] unused = {1.0, 2.0}> {
      y = Add(x, w)
      dead = Mul(x, w)
    }""")
    assert [i.name for i in form.model.graph.input] == ["x"]
    assert [n.op_type for n in form.model.graph.node] == ["Add"]
    assert [t.name for t in form.model.graph.initializer] == ["w"]


def test_unsupported_shapes_of_a_model_are_warned_of() -> None:
    form = form_of("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) { y = Softmax<axis=-1>(x) }""")
    assert any("omfuse rewrite" in w for w in form.warnings)


# Masks


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


# Built-in attention


def builtin(choice: str, soc: str, text: str) -> list[onnx.NodeProto]:
    return list(form_of(text, soc, attention=choice).model.graph.node)


def attention_model(
    attrs: str = "",
    inputs: str = "q, k, v",
    more: str = "",
    size: int = 32,
    dim: int = 64,
    dtype: str = "float16",
) -> str:
    params = ", ".join("qkvbmsl"[: len(inputs.split(","))])
    return f"""<ir_version: 10, opset_import: ["" : 17, "omfuse" : 1]>
    g ({dtype}[1,4,{size},{dim}] q, {dtype}[1,4,{size},{dim}] k, {dtype}[1,4,{size},{dim}] v {more})
    => ({dtype}[1,4,{size},{dim}] y) {{
      y = omfuse.FlashAttention <num_heads: int = 4, num_kv_heads: int = 4, scale: float = 0.125
          {attrs}> ({inputs})
    }}
    <opset_import: ["" : 17], domain: "omfuse">
    FlashAttention <num_heads, num_kv_heads, scale> ({params}) => (y) {{ y = Add(q, k) }}"""


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def test_prompt_flash_takes_a_plain_attention() -> None:
    (node,) = builtin("prompt-flash", "Ascend310P3", attention_model())
    assert (node.domain, node.op_type) == ("npu", "NPUPromptFlashAttention")
    assert list(node.input) == ["q", "k", "v"]
    found = attributes(node)
    assert found["num_heads"] == found["num_key_value_heads"] == 4
    assert found["input_layout"] == b"BNSD"
    assert found["scale_value"] == 0.125
    assert found["pre_tokens"] == found["next_tokens"] == 2147483647
    assert found["inner_precise"] == 0


def test_the_default_domain_is_used_where_the_plug_in_lists_the_opset() -> None:
    text = attention_model().replace('"" : 17, "omfuse"', '"" : 16, "omfuse"')
    form = form_of(text, "Ascend310P3", attention="prompt-flash")
    assert [(o.domain, o.version) for o in form.model.opset_import] == [("", 16)]
    score = form_of(attention_model(), "Ascend910B3", attention="score")
    assert [(o.domain, o.version) for o in score.model.opset_import] == [("", 17)]
    assert score.model.graph.node[0].op_type == "NPUFlashAttention"


def test_fp32_is_cast_and_masks_are_inverted() -> None:
    mask = attention_model(inputs='q, k, v, "", m', more=", bool[1,1,1,32] m", dtype="float")
    nodes = builtin("prompt-flash", "Ascend910B3", mask)
    kinds = [n.op_type for n in nodes]
    assert kinds.count("Cast") == 4
    assert "Not" in kinds
    node = next(n for n in nodes if n.op_type.startswith("NPU"))
    assert node.input[3] == ""
    hidden = next(n for n in nodes if n.output[0] == node.input[4])
    assert hidden.op_type == "Not"


def test_causal_uses_the_compressed_mask_on_910b_and_a_full_one_on_310p() -> None:
    text = attention_model(', causal: string = "top_left"')
    nodes = builtin("prompt-flash", "Ascend910B3", text)
    stored = numpy_helper.to_array(nodes[0].attribute[0].t)
    assert stored.shape == (2048, 2048)
    assert attributes(nodes[-1])["sparse_mode"] == 2
    nodes = builtin("prompt-flash", "Ascend310P3", text)
    stored = numpy_helper.to_array(nodes[0].attribute[0].t)
    assert stored.shape == (1, 1, 32, 32)
    assert not stored[0, 0, 5, 5]
    assert stored[0, 0, 5, 6]
    assert attributes(nodes[-1])["sparse_mode"] == 0


@pytest.mark.parametrize(
    ("choice", "soc", "text", "words"),
    [
        ("prompt-flash", "Ascend310B1", attention_model(), "no such operator"),
        ("score", "Ascend310P3", attention_model(), "no such operator"),
        ("prompt-flash", "Ascend310P3", attention_model(", softcap: float = 30.0"), "softcap"),
        ("prompt-flash", "Ascend310P3", attention_model(", window_left: int = 4"), "window"),
        ("prompt-flash", "Ascend310P3", attention_model(dim=528), "head size 528"),
        (
            "prompt-flash",
            "Ascend310P3",
            attention_model(', causal: string = "top_left"', size=33),
            "multiple of 16",
        ),
        (
            "prompt-flash",
            "Ascend310P3",
            attention_model(inputs="q, k, v, b", more=", float16[1,4,32,32] b"),
            "a bias on Ascend310P3",
        ),
        (
            "score",
            "Ascend910B3",
            attention_model(inputs="q, k, v, b", more=", float16[1,4,32,32] b"),
            "would be scaled",
        ),
        ("prompt-flash", "Ascend310P3", FUSED, "not known"),
    ],
)
def test_limits_of_the_built_in_operators(choice: str, soc: str, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        form_of(text, soc, attention=choice)
    assert caught.value.code == "attention-limit"
    assert words in caught.value.message
    way_on = "custom" if load_soc(soc).attention["custom"] else "without fusing"
    assert way_on in (caught.value.hint or "")


def test_fixed_shapes_of_the_user_satisfy_the_limits() -> None:
    shapes = dict.fromkeys(("q", "k", "v"), (1, 2, 32, 16))
    form = form_of(FUSED, "Ascend310P3", attention="prompt-flash", shapes=shapes)
    assert len(form.attention) == 1


@pytest.mark.parametrize(
    "layouts",
    [
        ("BNSD", "BSND"),
        ("BNSD", "BSH"),
        ("BSH", "BSH"),
        ("BSND", "BNSD"),
        ("BSH", "BNSD"),
        ("BSND", "BSH"),
    ],
)
@pytest.mark.parametrize("choice", ["prompt-flash", "score"])
def test_output_layouts_are_restored(choice: str, layouts: tuple[str, str]) -> None:
    layout, out = layouts
    shape = {"BNSD": "1,4,32,16", "BSND": "1,32,4,16", "BSH": "1,32,64"}
    text = f"""<ir_version: 10, opset_import: ["" : 17, "omfuse" : 1]>
    g (float16[{shape[layout]}] q) => (float16[{shape[out]}] y) {{
      y = omfuse.FlashAttention <num_heads: int = 4, num_kv_heads: int = 4, scale: float = 0.125,
          layout: string = "{layout}", out_layout: string = "{out}"> (q, q, q)
    }}"""
    nodes = builtin(choice, "Ascend910B3", text)
    attend = next(n for n in nodes if n.op_type.startswith("NPU"))
    # Replace the operator by the identity in its own output layout and let onnx infer the rest.
    own = str(attributes(attend)["input_layout"], "ascii")  # type: ignore[arg-type]
    own = own.split("_")[-1]
    source = helper.make_tensor_value_info(
        "core", onnx.TensorProto.FLOAT16, [int(d) for d in shape[own].split(",")]
    )
    first = helper.make_node("Identity", ["core"], [attend.output[0]])
    rest = [n for n in nodes if n is not attend]
    for node in rest:
        node.domain = ""
    graph = helper.make_graph(
        [first, *rest], "g", [source], [helper.make_empty_tensor_value_info("y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    array = np.arange(2048, dtype=np.float16).reshape([int(d) for d in shape[own].split(",")])
    result = ort.InferenceSession(model.SerializeToString()).run(None, {"core": array})[0]
    assert list(result.shape) == [int(d) for d in shape[out].split(",")]
    bsnd = array.transpose(0, 2, 1, 3) if own == "BNSD" else array.reshape(1, 32, 4, 16)
    expected = {"BSND": bsnd, "BNSD": bsnd.transpose(0, 2, 1, 3), "BSH": bsnd.reshape(1, 32, 64)}
    np.testing.assert_array_equal(result, expected[out])


# Saving


def external_model(folder: Path, location: str = "weights here.bin") -> onnx.ModelProto:
    weight = np.arange(4096, dtype=np.float32)
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[4096] x) => (float[4096] y) <float[4096] w> { y = Add(x, w) }""")
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=0)
    return onnx.load(str(path), load_external_data=False)


def test_external_data_lands_beside_the_form_under_a_plain_name(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    form = make_form(external_model(source), FormOptions(), P3, source)
    path = save_form(form.model, source, target)
    assert sorted(p.name for p in target.iterdir()) == ["data_0.bin", "model.onnx"]
    found = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
    np.testing.assert_array_equal(found, np.arange(4096, dtype=np.float32))
    assert (source / "weights here.bin").exists()


def test_weights_beyond_the_limit_move_out_of_the_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    external_model(source)
    model = onnx.load(str(source / "m.onnx"))
    path = save_form(model, None, target, limit=1000)
    assert path.stat().st_size < 1000
    found = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
    np.testing.assert_array_equal(found, np.arange(4096, dtype=np.float32))


@pytest.mark.parametrize("location", ["missing.bin", "../outside.bin"])
def test_missing_or_foreign_external_data_is_refused(tmp_path: Path, location: str) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"\0" * 16384)
    model = external_model(source)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    with pytest.raises(ModelError) as caught:
        save_form(model, source, target)
    assert caught.value.code == "external-data"


def test_limits_are_grouped_by_what_they_break() -> None:
    model = parse(attention_model())
    body = model.graph.node[0]
    for name in ("y1", "y2", "y3"):
        node = model.graph.node.add()
        node.CopyFrom(body)
        node.output[0] = node.name = name
        model.graph.output.append(helper.make_tensor_value_info(name, 10, None))
    with pytest.raises(UsageError) as caught:
        make_form(model, FormOptions(attention="score"), P3)
    assert caught.value.message.count("no such operator") == 1
    assert "4 nodes" in caught.value.message
    assert "and 1 more" in caught.value.message


@pytest.mark.parametrize(("fill", "words"), [(-10000.0, "survives"), (-65504.0, "-inf")])
def test_a_note_on_clamped_masks_is_true(fill: float, words: str) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) <float lo = {-3e38}> { a = Add(x, lo)
     y = Softmax(a) }
    """
    (note,) = [n for n in form_of(text, mask_fill=fill).notes if "mask constant" in n]
    assert words in note


def test_prompt_flash_on_310p_is_called_unproven() -> None:
    form = form_of(attention_model(), attention="prompt-flash")
    assert any("prove it" in warning for warning in form.warnings)
    assert not form_of(attention_model(), "Ascend910B3", attention="prompt-flash").warnings


@pytest.mark.parametrize("dtype", ["FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "UINT4"])
def test_a_dtype_that_the_parser_lacks(dtype: str) -> None:
    number = getattr(onnx.TensorProto, dtype)
    values = [helper.make_tensor_value_info(name, number, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", *(
        [value] for value in values
    ))  # fmt: skip
    with pytest.raises(ModelError) as caught:
        make_form(helper.make_model(graph), FormOptions(), P3)
    assert caught.value.code == "unsupported-dtype"
    assert dtype in caught.value.message


def test_a_higher_opset_than_the_models_is_not_made_silently() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 11]>\ng (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    assert any("only lowers" in note for note in form_of(text, opset=17).notes)


def test_fusing_is_advised_only_where_a_kernel_is() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) { y = Softmax(x) }
    """
    assert any("omfuse rewrite" in warning for warning in form_of(text).warnings)
    assert not form_of(text, "Ascend310B1").warnings


def test_an_input_that_is_no_tensor() -> None:
    tensor = helper.make_tensor_type_proto(1, [2])
    value = helper.make_value_info("x", helper.make_sequence_type_proto(tensor))
    out = helper.make_tensor_value_info("y", 7, [])
    graph = helper.make_graph(
        [helper.make_node("SequenceLength", ["x"], ["y"])], "g", [value], [out]
    )
    with pytest.raises(ModelError, match="it is a sequence") as caught:
        make_form(helper.make_model(graph), FormOptions(), P3)
    assert caught.value.where == "x"


def test_bf16_on_a_chip_without_it_is_warned_of() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (bfloat16[2,4] x) => (bfloat16[2,4] y) { y = Identity(x) }
    """
    assert any("bf16" in warning for warning in form_of(text).warnings)
    assert not form_of(text, "Ascend910B3").warnings
