"""One FlashAttention node as the ATC form writes it."""

import onnx
from onnx import helper

from omfuse.atc.form.attention import to_custom
from omfuse.fuse import contract


def form_node(outputs: int = 1) -> onnx.NodeProto:
    """Return our node as the ATC form writes it."""
    attrs = contract.FlashAttentionAttrs(4, 2, 0.1234567, softcap=7.654321, causal="top_left")
    node = contract.make_flash_attention(attrs, ["q", "k", "v"], "y", "n", "s", "o")
    node.output.extend(["lse"] * (outputs - 1))
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    to_custom(model)
    return model.graph.node[0]
