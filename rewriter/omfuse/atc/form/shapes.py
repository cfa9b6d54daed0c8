"""Shapes of every value of a model whose inputs are fixed, through FlashAttention nodes.

onnx cannot infer the shape of a function whose body computes sizes, so the nodes are replaced by an
Einsum of the same shapes in a copy that is only looked at; sizes that models compute from shapes
are followed by the rules of ``omfuse.graph``.
"""

from __future__ import annotations

import onnx
from onnx import helper, shape_inference

from omfuse.atc.constants import all_graphs, known_shapes
from omfuse.errors import OmfuseError
from omfuse.fuse.contract import is_flash_attention, read_attrs
from omfuse.graph.facts import model_facts
from omfuse.graph.view import graph_views

# Letters of query, value and output; key and value heads are apart from those of the query.
_QUERY = {"BNSD": "bnsd", "BSND": "bsnd", "BSH": "bsd"}
_VALUE = {"BNSD": "bmte", "BSND": "btme", "BSH": "bte"}
_OUTPUT = {"BNSD": "bnse", "BSND": "bsne", "BSH": "bse"}
Shapes = dict[str, tuple[int | None, ...]]


def settled_shapes(model: onnx.ModelProto) -> Shapes:
    """Return the shapes that are written in a model or follow from those of its inputs."""
    found = known_shapes(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in all_graphs(copy.graph):
        del graph.value_info[:]
        for node in graph.node:
            if is_flash_attention(node):
                _stand_in(node)
    try:
        copy = shape_inference.infer_shapes(copy, data_prop=True)
        views = list(graph_views(copy))
        facts = model_facts(copy, views)
    except (OmfuseError, shape_inference.InferenceError, ValueError, RuntimeError):
        return found
    for view in views:
        if isinstance(view.proto, onnx.FunctionProto):
            continue
        for node in view.nodes:
            for name in node.proto.output:
                shape = facts[id(view)].shape(name)
                if shape is not None and None in found.get(name, (None,)):
                    found[name] = tuple(d if isinstance(d, int) else None for d in shape)
    return found


def _stand_in(node: onnx.NodeProto) -> None:
    attrs = read_attrs(node)
    merged = "BSH" in (attrs.layout, attrs.out_layout)
    same = attrs.layout == attrs.out_layout and attrs.num_heads == attrs.num_kv_heads
    if len(node.output) > 1 or (merged and not same):
        return  # heads would have to be split: its shape stays what onnx finds
    letters = f"{_QUERY[attrs.layout]},{_VALUE[attrs.layout]}->{_OUTPUT[attrs.out_layout]}"
    inputs = [node.input[0], node.input[2]]
    node.CopyFrom(
        helper.make_node("Einsum", inputs, list(node.output), node.name, equation=letters)
    )
