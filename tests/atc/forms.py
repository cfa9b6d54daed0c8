"""What tests of the ATC form share: chips, the form of a text, a model of one attention."""

from __future__ import annotations

import onnx
from tests.atc.conftest import parse

from omfuse.atc.config import load_soc
from omfuse.atc.form.make import AtcForm, FormOptions, make_form

P3, B3 = load_soc("Ascend310P3"), load_soc("Ascend910B3")


def form_of(text: str, soc: str = "Ascend310P3", **options: object) -> AtcForm:
    return make_form(parse(text), FormOptions(**options), load_soc(soc))  # type: ignore[arg-type]


def attention_of(form: AtcForm) -> list[onnx.NodeProto]:
    return [n for n in form.model.graph.node if n.name in form.attention]


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
