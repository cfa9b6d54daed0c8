"""The form that ATC takes: functions, names, dtypes, what is refused early."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.atc.conftest import parse
from tests.atc.forms import P3, attention_of, form_of

from omfuse.atc.form.make import FormOptions, count_attention, make_form
from omfuse.errors import ModelError, UsageError

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
