"""Shapes through FlashAttention nodes, whose function bodies onnx cannot follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.atc.conftest import parse

import omfuse
from omfuse.atc.form.shapes import settled_shapes
from omfuse.fuse.contract import is_flash_attention
from omfuse.host.session import HostSession

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample.onnx"


def model(q: str, v: str, layout: str, out: str, heads: tuple[int, int]) -> onnx.ModelProto:
    return parse(f"""
    <ir_version: 10, opset_import: ["" : 17, "omfuse" : 1]>
    g (float{q} q, float{v} k, float{v} v) => (float[] y) {{
      a = omfuse.FlashAttention <num_heads: int = {heads[0]}, num_kv_heads: int = {heads[1]},
        scale: float = 0.5, layout: string = "{layout}", out_layout: string = "{out}"> (q, k, v)
      y = Relu(a)
    }}""")


@pytest.mark.parametrize(
    ("q", "v", "layout", "out", "heads", "expected"),
    [
        ("[2,4,5,8]", "[2,2,7,8]", "BNSD", "BNSD", (4, 2), (2, 4, 5, 8)),
        ("[2,4,5,8]", "[2,2,7,8]", "BNSD", "BSND", (4, 2), (2, 5, 4, 8)),
        ("[2,5,4,8]", "[2,7,4,8]", "BSND", "BNSD", (4, 4), (2, 4, 5, 8)),
        ("[2,5,32]", "[2,7,32]", "BSH", "BSH", (4, 4), (2, 5, 32)),
    ],
)
def test_the_shape_of_the_result(
    q: str, v: str, layout: str, out: str, heads: tuple[int, int], expected: tuple[int, ...]
) -> None:
    made = model(q, v, layout, out, heads)
    before = made.SerializeToString()
    found = settled_shapes(made)
    assert found["a"] == expected
    assert made.SerializeToString() == before


def test_unknown_stays_unknown() -> None:
    found = settled_shapes(model("[2,5,32]", "[2,7,16]", "BSH", "BSH", (4, 2)))
    assert None in found.get("a", (None,))
    open_batch = settled_shapes(model("[b,4,5,8]", "[b,4,7,8]", "BNSD", "BNSD", (4, 4)))
    assert open_batch["a"] == (None, 4, 5, 8)


def test_every_operand_of_a_real_model_is_known_and_right() -> None:
    fused = omfuse.rewrite(SAMPLE).model
    sizes = {"batch": 2, "source": 9, "target": 5}
    for info in fused.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_value = sizes[dim.dim_param]
    found = settled_shapes(fused)
    nodes = [node for node in fused.graph.node if is_flash_attention(node)]
    assert len(nodes) == 6
    wanted = {name for node in nodes for name in (*node.input[:3], *node.output)}
    fused.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    feeds = {i.name: np.ones(found[i.name], np.int64) for i in fused.graph.input}
    with HostSession(fused, "body") as session:
        measured = session.run(feeds)
    assert {name: measured[name].shape for name in wanted} == {n: found[n] for n in wanted}
