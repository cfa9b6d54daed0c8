"""Turn the ATC form back into a model that onnxruntime can run.

The form holds FlashAttention in the default domain, without a body.  Here the node gets its own
domain, exact scalars and a function body again, so that it runs as any rewritten model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from omfuse.errors import ModelError
from omfuse.fuse.bodies import OVERLOADS_IR
from omfuse.fuse.body import Signature, function_body, present_inputs
from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION, INPUTS, OP_TYPE, read_attrs
from omfuse.host import shapes
from omfuse.host.site import FLOATS, Value, opset_of
from omfuse.sim.builtin import builtin_of, own_builtin

_ROUNDS = 8


def restore(model: onnx.ModelProto, open_dims: Mapping[str, Sequence[int]] | None = None) -> None:
    """Make an ATC form runnable, in place.

    Args:
        model: the form; external data may stay unread.
        open_dims: dims of inputs by name, -1 where the compiled model leaves the size open.

    Raises:
        ModelError: ``unknown-dtype`` when the dtype of an attention's query cannot be found.
    """
    _open_inputs(model, open_dims or {})
    own_builtin(model)
    nodes = [node for graph in shapes.graphs(model.graph) for node in graph.node]
    form = [node for node in nodes if _is_form(node)]
    ours = [*form, *(node for node in nodes if builtin_of(node))]
    for node in nodes:
        if node.domain == "ai.onnx":
            node.domain = ""
    for entry in model.opset_import:
        if entry.domain == "ai.onnx":
            entry.domain = ""
    if not ours:
        return
    for node in form:
        _own(node)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.ir_version = max(model.ir_version, OVERLOADS_IR)
    _attach_bodies(model, ours)


def _is_form(node: onnx.NodeProto) -> bool:
    return node.op_type == OP_TYPE and node.domain in ("", "ai.onnx")


def _open_inputs(model: onnx.ModelProto, open_dims: Mapping[str, Sequence[int]]) -> None:
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, size in enumerate(open_dims.get(value.name, ())):
            if size < 0 and axis < len(dims) and dims[axis].HasField("dim_value"):
                dims[axis].dim_param = f"{value.name}_{axis}"
    if any(size < 0 for dims in open_dims.values() for size in dims):
        # What was inferred for the sizes of the compile does not hold for all.
        for graph in shapes.graphs(model.graph):
            del graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")


def _own(node: onnx.NodeProto) -> None:
    """Give a node its domain and the scalars that travelled as a list."""
    exact = next((list(a.floats) for a in node.attribute if a.name == "scale_value"), None)
    kept = [a for a in node.attribute if a.name != "scale_value"]
    if exact is not None:
        kept = [a for a in kept if a.name not in ("scale", "softcap")]
        kept.append(helper.make_attribute("scale", exact[0]))
        if len(exact) > 1:
            kept.append(helper.make_attribute("softcap", exact[1]))
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(copies)
    node.domain = DOMAIN


def _attach_bodies(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Choose the body of each node by the dtype of its query.

    The dtype of a later attention follows from the body of an earlier one: guess that all share
    the first dtype found, infer, and correct until nothing changes.
    """
    opset = opset_of(list(model.opset_import))
    guess = _float_of_inputs(model)
    chosen: dict[int, Signature] = {}
    for _ in range(_ROUNDS):
        known: dict[str, Value] = {}
        for values in shapes.infer(model, {}):
            known.update(values)
        before = dict(chosen)
        for index, node in enumerate(nodes):
            chosen[index] = _signature(node, known, opset, guess)
            node.overload = chosen[index].overload
        if chosen == before:
            return
        del model.functions[:]
        bodies = {signature.overload: signature for signature in chosen.values()}
        model.functions.extend(function_body(s, name) for name, s in sorted(bodies.items()))
    raise ModelError("unknown-dtype", "the dtypes of the attention nodes do not settle")


def _float_of_inputs(model: onnx.ModelProto) -> int:
    types = [value.type.tensor_type.elem_type for value in model.graph.input]
    types += [tensor.data_type for tensor in model.graph.initializer]
    return next((t for t in types if t in FLOATS), TensorProto.FLOAT)


def _signature(
    node: onnx.NodeProto, known: Mapping[str, Value], opset: int, guess: int
) -> Signature:
    inputs = dict(zip(INPUTS, node.input, strict=False))

    def dtype(name: str) -> int:
        found = known.get(inputs.get(name, ""), Value()).elem_type
        return found if found in FLOATS else 0

    query = dtype("query") or dtype("key") or dtype("value") or guess
    bias = (dtype("attn_bias") or query) if inputs.get("attn_bias") else 0
    return Signature(read_attrs(node), query, bias, present_inputs(node.input), opset)
