"""Constants of any reasonable size, folded as onnxruntime would compute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from omfuse.graph.content_rules import constant_array
from omfuse.graph.declared import elements
from omfuse.graph.dims import Dim

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

Array = NDArray[Any]
FOLD_LIMIT = 1 << 22  # constants up to this many elements are evaluated on demand


def fold(facts: Facts, value: str) -> Array | None:
    """Evaluate a constant sub-graph with onnx's own reference kernels, bounded in size."""
    tensor = facts.initializer(value)
    if tensor is not None:
        if elements(tensor) > FOLD_LIMIT or tensor.data_location == TensorProto.EXTERNAL:
            return None
        array = numpy_helper.to_array(tensor)
        return array if array.dtype.kind in "iufb" else array.astype(np.float32)
    content = facts.content(value)
    if content is not None:
        flat = content.reshape(-1).tolist()
        if any(isinstance(x, Dim) for x in flat):
            return None
        dtype = facts.dtype(value)
        if not dtype:
            return np.asarray(content.tolist()).reshape(content.shape)
        return np.asarray(content.tolist(), dtype=helper.tensor_dtype_to_np_dtype(dtype)).reshape(
            content.shape
        )
    node = facts.view.producer(value)
    if node is None:
        if not facts.view.knows(value) and facts.outer is not None:
            return facts.outer.const(value)
        return None
    if node.op == "Constant":
        return constant_array(node)
    rule = _FOLD.get(node.op)
    if rule is None:
        return None
    inputs = []
    for name in node.inputs:
        if not name:
            return None
        known = facts.const(name)
        if known is None:
            return None
        inputs.append(known)
    try:
        with np.errstate(all="ignore"):
            result = rule(facts, node, inputs)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return result if result.size <= FOLD_LIMIT else None


def _fold_slice(_facts: Facts, node: Node, xs: list[Array]) -> Array:
    starts, ends = (node.attrs.get("starts"), node.attrs.get("ends"))
    axes, steps = node.attrs.get("axes"), None
    if starts is None:
        starts, ends = xs[1].tolist(), xs[2].tolist()
        axes = xs[3].tolist() if len(xs) > 3 else None
        steps = xs[4].tolist() if len(xs) > 4 else None
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps or [1] * len(axes)
    index: list[Any] = [slice(None)] * xs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends or [], steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -(1 << 30) else end, step)
    part: Array = xs[0][tuple(index)]
    return part


def _axes(node: Node, xs: list[Array]) -> tuple[int, ...]:
    axes = node.attrs.get("axes")
    return tuple(axes) if axes is not None else tuple(int(x) for x in xs[1].reshape(-1))


def _fold_div(_facts: Facts, _node: Node, xs: list[Array]) -> Array:
    if xs[0].dtype.kind == "f":
        return xs[0] / xs[1]
    whole = np.abs(xs[0]) // np.abs(xs[1])
    return np.where((xs[0] < 0) != (xs[1] < 0), -whole, whole).astype(xs[0].dtype)


def _fold_reshape(_facts: Facts, _node: Node, xs: list[Array]) -> Array:
    target = [xs[0].shape[i] if n == 0 else int(n) for i, n in enumerate(xs[1].tolist())]
    return xs[0].reshape(target)


def _fold_expand(_facts: Facts, _node: Node, xs: list[Array]) -> Array:
    return np.broadcast_to(xs[0], np.broadcast_shapes(xs[0].shape, tuple(xs[1].tolist())))


def _fold_cast(_facts: Facts, node: Node, xs: list[Array]) -> Array:
    target = helper.tensor_dtype_to_np_dtype(node.attrs["to"])
    return xs[0].astype(target if target.kind in "iufb" else np.float32)


_FOLD: dict[str, Callable[[Any, Any, list[Array]], Array]] = {
    "Identity": lambda f, n, x: x[0],
    "Cast": _fold_cast,
    "Slice": _fold_slice,
    "Reshape": _fold_reshape,
    "Expand": _fold_expand,
    "Unsqueeze": lambda f, n, x: np.expand_dims(x[0], _axes(n, x)),
    "Squeeze": lambda f, n, x: (
        np.squeeze(x[0], _axes(n, x)) if len(x) > 1 or n.attrs else x[0].squeeze()
    ),
    "Transpose": lambda f, n, x: np.transpose(x[0], n.attrs.get("perm")),
    "Gather": lambda f, n, x: np.take(x[0], x[1].astype(np.int64), axis=n.attrs.get("axis", 0)),
    "Concat": lambda f, n, x: np.concatenate(x, axis=n.attrs["axis"]),
    "Add": lambda f, n, x: x[0] + x[1],
    "Sub": lambda f, n, x: x[0] - x[1],
    "Mul": lambda f, n, x: x[0] * x[1],
    "Div": _fold_div,
    "Not": lambda f, n, x: np.logical_not(x[0]),
    "And": lambda f, n, x: np.logical_and(x[0], x[1]),
    "Or": lambda f, n, x: np.logical_or(x[0], x[1]),
    "Equal": lambda f, n, x: np.equal(x[0], x[1]),
    "Less": lambda f, n, x: np.less(x[0], x[1]),
    "LessOrEqual": lambda f, n, x: np.less_equal(x[0], x[1]),
    "Greater": lambda f, n, x: np.greater(x[0], x[1]),
    "GreaterOrEqual": lambda f, n, x: np.greater_equal(x[0], x[1]),
    "Where": lambda f, n, x: np.where(x[0], x[1], x[2]),
    "Range": lambda f, n, x: np.arange(x[0].item(), x[1].item(), x[2].item()),
    "Trilu": lambda f, n, x: (np.triu if n.attrs.get("upper", 1) else np.tril)(
        x[0], int(x[1].item()) if len(x) > 1 else 0
    ),
    "Neg": lambda f, n, x: -x[0],
    "Sqrt": lambda f, n, x: np.sqrt(x[0]),
    "Exp": lambda f, n, x: np.exp(x[0]),
    "Clip": lambda f, n, x: np.clip(x[0], x[1], x[2]),
}
