"""Output shapes of quantised operators and of those that onnxruntime's optimizer writes.

Shapes as in ONNX's and onnxruntime's operator documentation (ContribOperators.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omfuse.graph.shape_rules import Rule, Shape, matmul_shape, shape_of
from omfuse.graph.spatial_shape_rules import conv_shape

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node


def _first(facts: Facts, node: Node, index: int) -> Shape | None:
    return shape_of(facts, node, 0) if index == 0 else None


def _skip_norm(facts: Facts, node: Node, index: int) -> Shape | None:
    """Output and sum of the input and the skip; between them statistics of the rows."""
    return shape_of(facts, node, 0) if index in (0, 3) else None


def _quantised(facts: Facts, node: Node, index: int) -> Shape:
    """Values, then one scale and one zero point."""
    return shape_of(facts, node, 0) if index == 0 else ()


def _fused_matmul(facts: Facts, node: Node, _index: int) -> Shape:
    sides = []
    for index, side in enumerate("AB"):
        shape = shape_of(facts, node, index)
        if node.attrs.get(f"transBatch{side}"):  # the rows stand before the batch
            shape = (*shape[1:-1], shape[0], shape[-1])
        sides.append(shape)
    swap_a, swap_b = bool(node.attrs.get("transA")), bool(node.attrs.get("transB"))
    return matmul_shape(sides[0], sides[1], swap_a, swap_b)


def _matmul_of(a: int, b: int) -> Rule:
    def rule(facts: Facts, node: Node, _index: int) -> Shape:
        return matmul_shape(shape_of(facts, node, a), shape_of(facts, node, b))

    return rule


def _conv_of(weight: int) -> Rule:
    def rule(facts: Facts, node: Node, _index: int) -> Shape:
        return conv_shape(shape_of(facts, node, 0), shape_of(facts, node, weight), node)

    return rule


def _few_bits(facts: Facts, node: Node, _index: int) -> Shape:
    """Return the shape of a product with a packed weight of ``N`` columns."""
    return (*shape_of(facts, node, 0)[:-1], node.attrs["N"])


def _embedding(facts: Facts, node: Node, index: int) -> Shape | None:
    """Sum of embeddings ``[B, S, H]``, first valid token ``[B]``, sum before the norm."""
    ids, words = shape_of(facts, node, 0), shape_of(facts, node, 2)
    return (ids[0],) if index == 1 else (*ids, words[1])


_SAME = """
    Gelu BiasGelu FastGelu QuickGelu BiasAdd BiasSoftmax BiasDropout GroupNorm RotaryEmbedding
    QuantizeLinear DequantizeLinear QLinearSigmoid QLinearLeakyRelu QLinearSoftmax
"""
RULES: dict[str, Rule] = {
    **{f"com.microsoft::{op}": _first for op in _SAME.split()},
    "SimplifiedLayerNormalization": _first,
    "com.microsoft::SkipLayerNormalization": _skip_norm,
    "com.microsoft::SkipSimplifiedLayerNormalization": _skip_norm,
    "com.microsoft::EmbedLayerNormalization": _embedding,
    "com.microsoft::FusedMatMul": _fused_matmul,
    "com.microsoft::TransposeMatMul": _fused_matmul,
    "com.microsoft::FusedMatMulActivation": _fused_matmul,
    "com.microsoft::FusedGemm": _fused_matmul,
    "com.microsoft::GemmFastGelu": _matmul_of(0, 1),
    "com.microsoft::FusedConv": _conv_of(1),
    "com.microsoft::MatMulNBits": _few_bits,
    "com.microsoft::MatMulIntegerToFloat": _matmul_of(0, 1),
    "com.microsoft::DynamicQuantizeMatMul": _matmul_of(0, 1),
    "DynamicQuantizeLinear": _quantised,
    "MatMulInteger": _matmul_of(0, 1),
    "QLinearMatMul": _matmul_of(0, 3),
    "ConvInteger": _conv_of(1),
    "QLinearConv": _conv_of(3),
}
