"""Which numbers a tensor can hold: proofs by walking up through the operators that made it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node

_DEPTH = 24
# Operators that only move elements of their first input about.
_MOVES = {
    "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_WHOLE = {
    TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


def zero_or_one(value: str, view: GraphView, facts: Facts, depth: int = _DEPTH) -> bool:
    """Tell whether every element is proven to be 0 or 1."""
    if facts.dtype(value) == TensorProto.BOOL:
        return True
    content = _constant(value, facts)
    if content is not None:
        return bool(((content == 0) | (content == 1)).all())
    node = view.producer(value)
    if node is None or depth == 0:
        return False
    if node.op == "ConstantOfShape":
        return _filling(node) in (0.0, 1.0)
    if node.op in _MOVES or node.op in ("Cast", "Trilu"):
        return zero_or_one(node.inputs[0], view, facts, depth - 1)
    if node.op in ("Mul", "Where", "Min", "Max"):
        parts = node.inputs[1:] if node.op == "Where" else node.inputs
        return all(zero_or_one(part, view, facts, depth - 1) for part in parts)
    if node.op == "Sub":
        return facts.scalar(node.inputs[0]) == 1.0 and zero_or_one(
            node.inputs[1], view, facts, depth - 1
        )
    return False


def whole(value: str, view: GraphView, facts: Facts, depth: int = _DEPTH) -> bool:
    """Tell whether every element is proven to be a whole number."""
    if facts.dtype(value) in _WHOLE:
        return True
    content = _constant(value, facts)
    if content is not None:
        return bool((content == content.round()).all())
    node = view.producer(value)
    if node is None or depth == 0:
        return False
    if node.op == "ConstantOfShape":
        return _filling(node).is_integer()
    if node.op in _MOVES or node.op in ("Cast", "Trilu", "Neg", "Round", "Floor", "Ceil"):
        return whole(node.inputs[0], view, facts, depth - 1)
    if node.op in ("Add", "Sub", "Mul", "Min", "Max"):
        return all(whole(part, view, facts, depth - 1) for part in node.inputs)
    return False


def complement(value: str, of: str, view: GraphView, facts: Facts) -> float | None:
    """Return ``c`` when ``value`` is ``c * (1 - of)``, else None."""
    low, keep = _constant(value, facts), _constant(of, facts)
    if low is not None and keep is not None:
        drop = low[np.broadcast_to(keep, low.shape) == 0] if low.size >= keep.size else low[:0]
        number = float(drop[0]) if drop.size else None
        return number if number is not None and (low == number * (1 - keep)).all() else None
    node = view.producer(value)
    if node is None or node.op != "Mul":
        return None
    for index in (0, 1):
        number = facts.scalar(node.inputs[index])
        inner = view.producer(node.inputs[1 - index])
        if number is None or inner is None or not np.isfinite(number):
            continue
        if inner.op == "Sub" and facts.scalar(inner.inputs[0]) == 1.0 and inner.inputs[1] == of:
            return number
        drop = cast_bits(node.inputs[1 - index], view, facts)
        negation = view.producer(drop) if drop else None
        bits = cast_bits(of, view, facts)
        if negation is not None and negation.op == "Not" and negation.inputs[0] == bits:
            return number
    return None


def cast_bits(value: str, view: GraphView, facts: Facts) -> str | None:
    """Return the booleans of which ``value`` is a cast."""
    node = view.producer(value)
    if node is None or node.op != "Cast" or facts.dtype(node.inputs[0]) != TensorProto.BOOL:
        return None
    return node.inputs[0]


def zero_or_huge(value: str, view: GraphView, facts: Facts, huge: float) -> bool:
    """Tell whether every element is proven to be 0 or at least ``huge`` in magnitude."""
    content = _constant(value, facts)
    if content is not None:
        return bool(((content == 0) | (abs(content) >= huge)).all())
    node = view.producer(value)
    if node is None:
        return False
    if node.op in _MOVES:
        return zero_or_huge(node.inputs[0], view, facts, huge)
    if node.op == "Where":
        numbers = [facts.scalar(part) for part in node.inputs[1:]]
        return all(x is not None and (x == 0 or abs(x) >= huge) for x in numbers)
    if node.op == "Mul":
        for index in (0, 1):
            number = facts.scalar(node.inputs[index])
            if number is not None and abs(number) >= huge:
                return whole(node.inputs[1 - index], view, facts)
    return False


def _filling(node: Node) -> float:
    value = node.attrs.get("value")
    return 0.0 if value is None else float(numpy_helper.to_array(value).reshape(-1)[0])


def _constant(value: str, facts: Facts) -> NDArray[Any] | None:
    content = facts.const(value)
    return None if content is None or content.dtype == object else content
