"""Guards of a SoC, and what a fusion saves."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from onnx import TensorProto

import omfuse
from omfuse.errors import UsageError


def attention(batch: int | str, heads: int, query: int, keys: int, depth: int) -> onnx.ModelProto:
    """A plain block with fixed sizes; a string makes a dim symbolic."""
    q, k = f"[{batch},{heads},{query},{depth}]", f"[{batch},{heads},{keys},{depth}]"
    return onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        g (float{q} q, float{k} k, float{k} v) => (float{q} y) {{
            kt = Transpose <perm=[0,1,3,2]> (k)
            s = MatMul (q, kt)
            p = Softmax <axis=-1> (s)
            y = MatMul (p, v)
        }}""")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((1, 8, 1024, 1024, 64), None),
        ((1, 8, 100, 100, 64), "scores a run"),
        ((1, 8, 4096, 77, 40), "77 keys"),
        ((64, 8, 1, 77000, 40), None),
        ((1, 8, 1024, 1024, 320), "head size 320"),
        ((512, 8, 32, 32, 128), "the scores are small"),
        (("batch", 8, 100, 100, 64), "100 keys"),
    ],
)
def test_a_guard_leaves_blocks_that_do_not_pay(
    sizes: tuple[int, int, int, int, int], words: str | None
) -> None:
    model = attention(*sizes)
    result = omfuse.rewrite(model, soc="Ascend310P3")
    (record,) = result.records
    if words is None:
        assert record.status == "fused"
    else:
        assert (record.status, record.code) == ("declined", "profit")
        assert words in (record.reason or "")
        assert "--force" in (record.hint or "")
        assert result.model == model
    assert omfuse.rewrite(model, soc="Ascend310P3", force=True).fused == 1
    assert omfuse.rewrite(model).fused == 1


def test_bf16_is_left_alone_where_the_chip_has_none() -> None:
    model = attention(1, 8, 1024, 1024, 64)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    (record,) = omfuse.rewrite(model, soc="Ascend310P3").records
    assert (record.code, record.reason) == ("profit", "Ascend310P3 has no bf16")
    assert omfuse.rewrite(model, soc="Ascend910B3").fused == 1


def test_a_family_name_is_no_soc() -> None:
    with pytest.raises(UsageError, match="310P"):
        omfuse.rewrite(attention(1, 8, 16, 16, 8), soc="Ascend310P")


def test_savings_count_nodes_and_traffic() -> None:
    (record,) = omfuse.rewrite(attention(1, 2, 32, 16, 8)).records
    scores, keys = 2 * 32 * 16 * 4, 2 * 16 * 8 * 4
    assert record.saved_nodes == 3
    # Scores written, read, weights written, read; the transposed key written and read.
    assert record.saved_bytes == 4 * scores + 2 * keys


def test_savings_are_a_formula_where_sizes_are_open() -> None:
    (record,) = omfuse.rewrite(attention("n", 2, 32, 16, 8)).records
    assert record.saved_bytes == f"{4 * 2 * 32 * 16 * 4 + 2 * 2 * 16 * 8 * 4}*n"


def test_savings_of_all_blocks_add_up_to_the_model() -> None:
    """Two blocks that share one mask: its nodes go once."""
    body = ""
    for i in "12":
        body += f"kt{i} = Transpose<perm=[0,1,3,2]>(k{i}) s{i} = MatMul(q, kt{i}) "
        body += f"z{i} = Where(m, f, s{i}) p{i} = Softmax<axis=-1>(z{i}) y{i} = MatMul(p{i}, v) "
    four = "float[1,2,4,8]"
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        g ({four} q, {four} k1, {four} k2, {four} v, bool[1,1,4,4] keep) => ({four} y1, {four} y2)
        {{ f = Constant<value_float=-3.4e38>() m = Not(keep) {body} }}""")
    result = omfuse.rewrite(model)
    assert result.fused == 2
    saved = [record.saved_nodes or 0 for record in result.records]
    assert sum(saved) == result.nodes_before - result.nodes_after
