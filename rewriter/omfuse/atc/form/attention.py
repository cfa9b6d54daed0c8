"""FlashAttention in the ATC form.

``custom`` keeps our node, in the default domain, for the Ascend C operator of this project; the
other choices write CANN's own operators, see ``builtin``.
"""

from __future__ import annotations

import onnx
from onnx import helper

from omfuse.atc.constants import all_graphs
from omfuse.atc.form.builtin_nodes import BUILTIN_TYPES
from omfuse.fuse.contract import DOMAIN, OP_TYPE, is_flash_attention, read_attrs

CHOICES = ("custom", *BUILTIN_TYPES)


def to_custom(model: onnx.ModelProto) -> None:
    """Move our nodes to the default domain in place.

    ``scale_value`` carries scale and softcap a second time as a ``floats`` attribute: the JSON
    style of ATC's plug-ins rounds scalar floats to six digits, lists keep theirs.
    """
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if is_flash_attention(node):
                attrs = read_attrs(node)
                node.domain, node.overload = "", ""
                del node.attribute[:]
                values = {**attrs.as_dict(), "scale_value": [attrs.scale, attrs.softcap]}
                if len(node.output) > 1 and node.output[1]:
                    values["with_lse"] = 1  # a plug-in does not see how many outputs are named
                node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items())


def domains_in_use(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the foreign domains of a model's nodes with their operator types."""
    found: dict[str, set[str]] = {}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx", DOMAIN):
                found.setdefault(node.domain, set()).add(node.op_type)
    return {domain: sorted(types) for domain, types in sorted(found.items())}


def attention_nodes(model: onnx.ModelProto, choice: str) -> list[str]:
    """Return the names of the attention nodes of an ATC form."""
    wanted = BUILTIN_TYPES.get(choice, OP_TYPE)
    return [n.name for g in all_graphs(model.graph) for n in g.node if n.op_type == wanted]
