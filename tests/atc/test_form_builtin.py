"""FlashAttention as the attention operators that CANN brings."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from tests.atc.conftest import FUSED, parse
from tests.atc.forms import P3, attention_model, form_of

from omfuse.atc.config import load_soc
from omfuse.atc.form.make import FormOptions, make_form
from omfuse.errors import UsageError


def builtin(choice: str, soc: str, text: str) -> list[onnx.NodeProto]:
    return list(form_of(text, soc, attention=choice).model.graph.node)


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


def test_prompt_flash_on_310p_is_called_unproven() -> None:
    form = form_of(attention_model(), attention="prompt-flash")
    assert any("prove it" in warning for warning in form.warnings)
    assert not form_of(attention_model(), "Ascend910B3", attention="prompt-flash").warnings
