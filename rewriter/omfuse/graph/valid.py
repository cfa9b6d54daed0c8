"""Refuse nodes that no runtime can run, before rules read them.

Only what rules rely on is looked at: enough inputs, mandatory attributes, attributes of the right
kind.  Operators without a schema, newer opsets and foreign domains pass.
"""

from __future__ import annotations

from onnx import AttributeProto, NodeProto, TensorProto, defs

from omfuse.errors import ModelError
from omfuse.graph.view import GraphView

Schemas = dict[str, "defs.OpSchema | None"]  # by operator; None where there is none

_FIELDS = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}


def check_nodes(view: GraphView, opset: int, schemas: Schemas) -> None:
    """Check the standard operators of one graph.

    Args:
        view: the graph.
        opset: version of the standard domain.
        schemas: what was looked up before, by operator.

    Raises:
        ModelError: ``bad-node`` naming node and fault.
    """
    for node in view.nodes:
        words = (node.proto.op_type, node.proto.domain, node.proto.name, *node.inputs)
        if not all(isinstance(word, str) for word in (*words, *node.outputs)):
            raise ModelError(
                "bad-node", "a name is not text: the file is damaged", f"node {node.index}"
            )
        if node.domain:
            continue
        if node.op not in schemas:
            schemas[node.op] = _schema(node.op, opset)
        schema = schemas[node.op]
        if schema is not None:
            fault = _fault(node.proto, schema)
            if fault:
                raise ModelError(
                    "bad-node",
                    f"{node.op} {fault}",
                    f"node {node.name!r}",
                    "onnx.checker.check_model tells more; export the model again",
                )


def _schema(op: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op, min(opset, defs.onnx_opset_version()))
    except (defs.SchemaError, ValueError):
        return None


def _fault(node: NodeProto, schema: defs.OpSchema) -> str:
    if len(node.input) < schema.min_input:
        return f"has {len(node.input)} inputs and needs {schema.min_input}"
    known = schema.attributes
    present = set()
    for attribute in node.attribute:
        present.add(attribute.name)
        if attribute.name not in known or attribute.ref_attr_name:
            continue
        if attribute.type != getattr(known[attribute.name].type, "value", None):
            return f"has an attribute {attribute.name} of the wrong kind"
        field = _FIELDS.get(attribute.type)
        if field is not None and not attribute.HasField(field):
            return f"has an empty attribute {attribute.name}"
        if attribute.name in ("to", "dtype") and attribute.i not in TensorProto.DataType.values():
            return f"has an attribute {attribute.name} that names no dtype"
    for name, attribute in known.items():
        if attribute.required and name not in present:
            return f"lacks the attribute {name}"
    return ""
