"""Replace each FlashAttention node by a call of a local function that runs well on this CPU.

The node keeps its place, its inputs and its outputs; only what it calls changes.  onnxruntime
inlines local functions and gives their inner values fresh names, so a lowering works alike in the
main graph, in subgraphs and in other functions.  Calls with equal attributes, dtypes and shapes
share one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper, inliner

from omfuse.fuse.bodies import drop_refusal
from omfuse.fuse.contract import DOMAIN, INPUTS, OP_TYPE, is_flash_attention, read_attrs
from omfuse.host import shapes
from omfuse.host.contrib import MICROSOFT
from omfuse.host.nodes import NodeWriter
from omfuse.host.rules import choose
from omfuse.host.site import FLOATS, Site, Value, opset_of

HOST_DOMAIN = "omfuse.host"
FUNCTION_IR = 8  # local functions entered the format with this IR version


@dataclass
class Lowered:
    """The model to give to onnxruntime, and what became of each FlashAttention node."""

    model: onnx.ModelProto
    kernels: dict[str, str] = field(default_factory=dict)


def contains_flash_attention(model: onnx.ModelProto) -> bool:
    """Tell whether any graph or function of the model holds a FlashAttention node."""
    return any(
        is_flash_attention(node) for graph in shapes.graphs(model.graph) for node in graph.node
    ) or any(_inside(function) for function in model.functions)


def _inside(function: onnx.FunctionProto) -> bool:
    holder = onnx.GraphProto(node=function.node)
    return any(is_flash_attention(node) for graph in shapes.graphs(holder) for node in graph.node)


def lower(
    model: onnx.ModelProto,
    lowering: str = "auto",
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    no_kernel: str = "not looked for",
) -> Lowered:
    """Lower all FlashAttention nodes of ``model``, which is changed in place.

    Args:
        model: a checked model; external data may stay unloaded.
        lowering: ``auto``, a rule of ``omfuse.host.rules``, or ``body`` to change nothing.
        input_shapes: sizes of model inputs, when they are known better than declared.
        no_kernel: why the C++ kernel cannot be used; empty when its library is registered.
    """
    drop_refusal(model)  # a call without an overload means the registered kernel here
    if any(_inside(function) for function in model.functions):
        # A function has no shapes of its own: put the calls of ours where shapes are known.
        model = inliner.inline_selected_functions(model, [(DOMAIN, OP_TYPE)], exclude=True)
    result = Lowered(model)
    known = shapes.infer(model, input_shapes or {})
    opset = opset_of(list(model.opset_import))
    functions: dict[tuple[str, Site], str] = {}
    for graph, values in zip(shapes.graphs(model.graph), known, strict=True):
        for node in graph.node:
            if is_flash_attention(node):
                name = _unique(node.name or node.output[0], result.kernels)
                site = _site(node, values, opset, no_kernel)
                result.kernels[name] = _lower_node(model, node, site, lowering, functions)
    if functions:
        _import(model.opset_import, HOST_DOMAIN, 1)
        _import(model.opset_import, MICROSOFT, 1)
        model.ir_version = max(model.ir_version, FUNCTION_IR)
    if not any(kernel.startswith("body: ") for kernel in result.kernels.values()):
        # onnxruntime would prefer a body to the registered kernel.
        for function in [f for f in model.functions if (f.domain, f.name) == (DOMAIN, OP_TYPE)]:
            model.functions.remove(function)
    return result


def _lower_node(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    site: Site,
    lowering: str,
    functions: dict[tuple[str, Site], str],
) -> str:
    if lowering == "body":
        return "body: asked for"
    if site.elem_type not in FLOATS:
        return "body: the dtype of query is not known when the model is loaded"
    choice = choose(site, lowering)
    if choice.rule.build is None:
        node.overload = ""
        return f"{choice.rule.name}: {choice.reason}"
    key = (choice.rule.name, site)
    if key not in functions:
        functions[key] = f"{choice.rule.name}_{len(functions)}"
        model.functions.append(_function(functions[key], site, choice.rule.build))
    present = [name for name in node.input if name]
    del node.input[:], node.attribute[:]
    node.input.extend(present)
    node.domain, node.op_type, node.overload = HOST_DOMAIN, functions[key], ""
    return f"{choice.rule.name}: {choice.reason}"


def _site(node: onnx.NodeProto, values: Mapping[str, Value], opset: int, no_kernel: str) -> Site:
    present = tuple(
        (name, values.get(actual, Value()))
        for name, actual in zip(INPUTS, node.input, strict=False)
        if actual
    )
    has_lse = len(node.output) > 1 and bool(node.output[1])
    return Site(read_attrs(node), present, has_lse, opset, no_kernel)


def _function(
    name: str, site: Site, build: Callable[[Site, NodeWriter], list[str]]
) -> onnx.FunctionProto:
    write = NodeWriter(site.opset)
    outputs = build(site, write)
    imports = [helper.make_opsetid("", site.opset), helper.make_opsetid(MICROSOFT, 1)]
    inputs = [known for known, _ in site.values]
    return helper.make_function(HOST_DOMAIN, name, inputs, outputs, write.nodes, imports)


def _unique(name: str, taken: Mapping[str, str]) -> str:
    count, unique = 1, name
    while unique in taken:
        count, unique = count + 1, f"{name}#{count}"
    return unique


def _import(imports: Sequence[onnx.OperatorSetIdProto], domain: str, version: int) -> None:
    if all(entry.domain != domain for entry in imports):
        imports.append(helper.make_opsetid(domain, version))  # type: ignore[attr-defined]
