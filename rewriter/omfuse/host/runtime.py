"""What the installed onnxruntime can do, by its version, and models made ready for it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnxruntime

from omfuse.fuse.bodies import OVERLOADS_SINCE
from omfuse.host import shapes


def knows_overloads() -> bool:
    """Tell whether local functions are told apart by their overloads; see ``fuse.bodies``."""
    major, minor = onnxruntime.__version__.split(".")[:2]
    return (int(major), int(minor)) >= OVERLOADS_SINCE


def name_overloads(model: onnx.ModelProto) -> None:
    """Make overloads part of the names of functions and of their calls, in place."""
    _name_calls(model.graph.node)
    for function in model.functions:
        _name_calls(function.node)
        if function.overload:
            function.name = _joined(function.name, function.overload)
            function.overload = ""


def _name_calls(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for graph in shapes.subgraphs(node):
            _name_calls(graph.node)
        if node.overload:
            node.op_type = _joined(node.op_type, node.overload)
            node.overload = ""


def _joined(name: str, overload: str) -> str:
    return f"{name}__{overload}"
