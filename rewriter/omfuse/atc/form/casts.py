"""Casts around FlashAttention for compiles that keep the dtypes of the model.

The kernel of this project computes in fp16, on some chips in bf16.  In the usual precision modes
ATC inserts the casts itself; under ``must_keep_origin_dtype`` it looks for a kernel of the node's
own dtype and stops with EZ3003 when there is none.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from omfuse.atc.config import SocConfig
from omfuse.atc.constants import all_graphs, known_dtypes
from omfuse.fuse.contract import INPUTS, OP_TYPE

_OPERANDS = tuple(INPUTS.index(name) for name in ("query", "key", "value"))
_BIAS = INPUTS.index("attn_bias")


def cast_attention(model: onnx.ModelProto, soc: SocConfig) -> int:
    """Cast operands of our nodes to fp16, and the result back, where there is no kernel; in place.

    The bias keeps fp32 on chips whose kernel reads it.

    Returns:
        How many nodes were changed; one whose dtype is unknown stays as it is.
    """
    dtypes = known_dtypes(model)
    allowed = {TensorProto.FLOAT16} | ({TensorProto.BFLOAT16} if soc.bf16 else set())
    count = 0
    for graph in all_graphs(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            own = dtypes.get(node.input[0], 0) if node.op_type == OP_TYPE else 0
            if not own or own in allowed:
                nodes.append(node)
                continue
            count += 1
            places = _OPERANDS if wide_bias(soc) else (*_OPERANDS, _BIAS)
            nodes += _with_casts(node, own, dtypes, places)
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return count


def wide_bias(soc: SocConfig) -> bool:
    """Tell whether the kernel of a chip reads a bias in fp32 beside fp16 operands."""
    return soc.bf16


def _with_casts(
    node: onnx.NodeProto, own: int, dtypes: dict[str, int], places: tuple[int, ...]
) -> list[onnx.NodeProto]:
    before: dict[str, onnx.NodeProto] = {}
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        if name and dtypes.get(name, own) != TensorProto.FLOAT16:
            half = f"{node.name}_{INPUTS[place]}_fp16"
            # A tensor that is query and key at once is cast once.
            cast = before.setdefault(
                name, helper.make_node("Cast", [name], [half], half, to=TensorProto.FLOAT16)
            )
            node.input[place] = cast.output[0]
    result, half = node.output[0], f"{node.name}_output_fp16"
    node.output[0] = half
    after = helper.make_node("Cast", [half], [result], f"{half}_back", to=own)
    return [*before.values(), node, after]
