"""Element types of node outputs, where onnx has not inferred them (bodies of local functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

_BOOL = set("Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Not IsNaN IsInf".split())
_INT64 = set("Shape Size NonZero ArgMax ArgMin".split())
_SECOND = {"Where", "CastLike"}
_CONSTANTS = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}
_LIKE_FIRST = set(
    "Identity Transpose Reshape Unsqueeze Squeeze Expand Tile Slice Concat Gather GatherND "
    "GatherElements Split MatMul Gemm Einsum Add Sub Mul Div Pow Neg Sqrt Exp Log Tanh Sigmoid "
    "Softmax LogSoftmax Dropout Clip Max Min Sum Abs Reciprocal ReduceSum ReduceMax ReduceMean "
    "Relu Erf Trilu Pad LayerNormalization Range SimplifiedLayerNormalization "
    "com.microsoft::FusedMatMul com.microsoft::TransposeMatMul com.microsoft::FusedGemm "
    "com.microsoft::SkipLayerNormalization com.microsoft::SkipSimplifiedLayerNormalization "
    "com.microsoft::Gelu com.microsoft::BiasGelu com.microsoft::FastGelu "
    "com.microsoft::QuickGelu".split()
)


def infer(facts: Facts, node: Node) -> int:
    """Return the element type of the first output, 0 when unknown."""
    if node.op in _BOOL:
        return int(TensorProto.BOOL)
    if node.op in _INT64:
        return int(TensorProto.INT64)
    if node.op == "Cast":
        return int(node.attrs["to"])
    if node.op == "Constant":
        if "value" in node.attrs:
            return int(node.attrs["value"].data_type)
        return int(next((_CONSTANTS.get(name, 0) for name in node.attrs), 0))
    if node.op in _SECOND and len(node.inputs) > 1:
        return facts.dtype(node.inputs[1])
    if node.op in _LIKE_FIRST and node.inputs:
        return facts.dtype(node.inputs[0])
    return 0
