"""Give every node the overload of its body.

onnxruntime (seen in 1.32) forgets the overload of a call that stands inside a local function and
looks for the empty one.  So the first signature met inside a function gets the empty overload;
another signature inside a function cannot be expressed and is handed back.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from omfuse.fuse.body import Signature, function_body, present_inputs
from omfuse.fuse.lower import Fusion
from omfuse.graph.view import GraphView

Work = list[tuple[GraphView, int, list[Fusion]]]  # view, opset, fusions


def signature_of(fusion: Fusion, opset: int) -> Signature:
    """Return what decides the body of a fusion."""
    return Signature(
        fusion.attrs, fusion.dtype, fusion.bias_dtype, present_inputs(fusion.node.input), opset
    )


def in_function(view: GraphView) -> bool:
    """Tell whether a graph is, or is nested in, the body of a local function."""
    while view.outer is not None:
        view = view.outer
    return isinstance(view.proto, onnx.FunctionProto)


def assign_overloads(
    work: Work, nameless_body: onnx.FunctionProto | None = None
) -> tuple[dict[str, Signature], Sequence[Fusion]]:
    """Set the overload of every node.

    Args:
        work: what is fused; nodes are changed in place.
        nameless_body: the body without an overload that the model has already.

    Returns:
        Signatures by overload, and the fusions that cannot be expressed (taken out of ``work``).
    """
    inner = [
        signature_of(fusion, opset)
        for view, opset, fusions in work
        if in_function(view)
        for fusion in fusions
    ]
    nameless = inner[0] if inner else None
    if nameless is not None and nameless_body not in (None, function_body(nameless, "")):
        nameless = None  # the model's own body without an overload computes something else
    found: dict[str, Signature] = {}
    rejected: list[Fusion] = []
    for view, opset, fusions in work:
        for fusion in list(fusions):
            signature = signature_of(fusion, opset)
            if signature != nameless and in_function(view):
                fusions.remove(fusion)
                rejected.append(fusion)
                continue
            overload = "" if signature == nameless else signature.overload
            fusion.node.overload = overload
            found[overload] = signature
    return found, rejected
