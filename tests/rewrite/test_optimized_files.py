"""Attention is found after other tools have changed the file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_text import build, feeds, run
from onnxruntime.quantization import quantize_dynamic

import omfuse
from omfuse.diff import generate_inputs
from omfuse.graph import shape_rules
from omfuse.graph.facts import model_facts
from omfuse.graph.view import GraphView
from omfuse.host.session import HostSession

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"


def same(model: onnx.ModelProto, atol: float = 2e-5) -> None:
    """The rewritten model computes what the given one does."""
    result = omfuse.rewrite(model)
    inputs = generate_inputs(model, 0)
    with HostSession(model, optimize=False) as a, HostSession(result.model) as b:
        expected, got = a.run(inputs), b.run(inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_a_file_that_onnxruntime_optimised(tmp_path: Path, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(SAMPLE), options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimised.onnx")
    assert len(model.graph.node) < len(onnx.load(SAMPLE).graph.node)
    assert omfuse.rewrite(model).fused == 6
    same(model)


def test_a_file_with_quantised_layers(tmp_path: Path) -> None:
    quantize_dynamic(SAMPLE, tmp_path / "quantised.onnx", op_types_to_quantize=["MatMul", "Gemm"])
    model = onnx.load(tmp_path / "quantised.onnx")
    assert any(node.op_type == "MatMulInteger" for node in model.graph.node)
    assert omfuse.rewrite(model).fused == 6


def test_a_guard_that_looks_at_a_narrow_copy_of_the_weights() -> None:
    """What onnxruntime makes of fp16 guards on a CPU: a cast before IsNaN alone."""
    model = build("""
        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        f = Constant<value_float=-inf>()
        w = Where(mask, s, f)
        p = Softmax<axis=-1>(w)
        narrow = Cast<to=10>(p)
        n = IsNaN(narrow)
        zero = Constant<value_float=0.0>()
        g = Where(n, zero, p)
        y = MatMul(g, v)
    """)
    result = omfuse.rewrite(model)
    assert result.fused == 1
    inputs = feeds(model)
    inputs["mask"][0, 0, 2] = False
    expected, got = run(model, inputs)[0], run(result.model, inputs)[0]
    assert not expected[0, :, 2].any()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("flags", list(itertools.product((0, 1), repeat=4)), ids=str)
def test_products_of_onnxruntime_with_the_batch_behind_the_rows(flags: tuple[int, ...]) -> None:
    """Canonical form of a side: rows moved behind the batch, then rows and columns swapped."""
    swap_a, swap_b, batch_a, batch_b = flags

    def stored(shape: tuple[int, ...], swap: int, batch: int) -> list[int]:
        *outer, rows, columns = shape
        rows, columns = (columns, rows) if swap else (rows, columns)
        return [rows, *outer, columns] if batch else [*outer, rows, columns]

    node = helper.make_node
    graph = helper.make_graph(
        [
            node("FusedMatMul", ["q", "kt"], ["s"], domain="com.microsoft", alpha=0.5,
                 transA=swap_a, transB=swap_b, transBatchA=batch_a, transBatchB=batch_b),
            node("Softmax", ["s"], ["p"], axis=-1),
            node("MatMul", ["p", "v"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (
                ("q", stored((2, 3, 5, 4), swap_a, batch_a)),
                ("kt", stored((2, 3, 4, 7), swap_b, batch_b)),
                ("v", [2, 3, 7, 6]),
            )
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 5, 6])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    result = omfuse.rewrite(model)
    assert result.fused == 1
    inputs = feeds(model)
    expected, got = run(model, inputs)[0], run(result.model, inputs)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_scores_of_such_a_product_have_its_shape_and_not_a_broadcast_one() -> None:
    model = build(
        """
        qt = Transpose<perm=[0, 2, 1, 3]>(qs)
        kt = Transpose<perm=[0, 2, 3, 1]>(ks)
        s = com.microsoft.FusedMatMul<alpha=0.5>(qt, kt)
        b = Add(s, slope)
        p = Softmax<axis=-1>(b)
        y = MatMul(p, v)
        """,
        inputs="float[B,S,3,4] qs, float[B,S,3,4] ks, float[3,S,S] slope, float[B,3,S,6] v",
    )
    result = omfuse.rewrite(model)
    assert result.fused == 1
    rng = np.random.default_rng(0)
    inputs = {
        "qs": rng.standard_normal((2, 5, 3, 4)),
        "ks": rng.standard_normal((2, 5, 3, 4)),
        "slope": rng.standard_normal((3, 5, 5)),
        "v": rng.standard_normal((2, 3, 5, 6)),
    }
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    expected, got = run(model, inputs)[0], run(result.model, inputs)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


X, W, ONE = ("float[2,5,8] x", "float[8,6] w", "float[1] one")
OPERATORS = {
    "FusedMatMul<transA=1, transBatchA=1>(a, x)": "float[5,2,8] a, float[2,5,8] x",
    "BiasGelu(x, b)": f"{X}, float[8] b",
    "FastGelu(x)": X,
    "QuickGelu(x)": X,
    "SkipLayerNormalization<epsilon=0.001>(x, x, b, b)": f"{X}, float[8] b",
    "SkipSimplifiedLayerNormalization<epsilon=0.001>(x, x, b)": f"{X}, float[8] b",
    "FusedGemm<activation=\"Relu\">(g, w)": f"float[5,8] g, {W}",
    "EmbedLayerNormalization(i, i, t, t, t, b, b)": "int32[2,5] i, float[9,8] t, float[8] b",
    "FusedConv<activation=\"Relu\", pads=[1,1,1,1]>(c, k)": "float[1,3,9,9] c, float[4,3,3,3] k",
    "DynamicQuantizeMatMul(x, u, one)": f"{X}, uint8[8,6] u, {ONE}",
    "MatMulIntegerToFloat(d, u, one, one)": f"uint8[2,5,8] d, uint8[8,6] u, {ONE}",
}  # fmt: skip


@pytest.mark.parametrize("call", OPERATORS)
def test_shapes_of_onnxruntimes_operators(call: str) -> None:
    """The rule says what onnxruntime makes."""
    left = "y, valid" if call.startswith("Embed") else "y"
    model = build(f"{left} = com.microsoft.{call}", inputs=OPERATORS[call])
    inputs = feeds(model)
    for name in set(inputs) & {"i"}:
        inputs[name] = np.zeros_like(inputs[name])
    (made,) = run(model, inputs)
    assert ort_shape(model) == made.shape


STANDARD = {
    "y, r, z = DynamicQuantizeLinear(x)": X,
    "y = MatMulInteger(d, u)": "uint8[2,5,8] d, uint8[8,6] u",
    "y = ConvInteger<strides=[2,2]>(c, k)": "uint8[1,3,9,9] c, uint8[4,3,3,3] k",
}


@pytest.mark.parametrize("line", STANDARD)
def test_shapes_of_quantised_operators(line: str) -> None:
    model = build(line, inputs=STANDARD[line])
    for value in model.graph.output:
        kind = TensorProto.UINT8 if "Linear" in line else TensorProto.INT32
        value.type.tensor_type.elem_type = kind
    (made,) = run(model, feeds(model))
    assert ort_shape(model) == made.shape


def ort_shape(model: onnx.ModelProto) -> tuple[int, ...] | None:
    graph = model.graph
    view = GraphView(graph.node, [v.name for v in graph.input], ["y"], proto=graph)
    facts = model_facts(model, [view])[id(view)]
    return shape_rules.infer(facts, view.nodes[0], 0)
