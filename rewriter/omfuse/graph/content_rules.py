"""Partial evaluation of small tensors: shape arithmetic with symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from omfuse.graph.dims import Dim, remainder

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

Array = NDArray[Any]

_INT_TYPES = {
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


def objects(array: Any) -> Array:
    """Return an object array, so that numbers and symbolic sizes can mix."""
    return np.asarray(array, dtype=object)


def small(facts: Facts, node: Node) -> Array | None:
    """Evaluate a node on small known contents; None where anything is unknown or large."""
    rule = _SMALL.get(node.op)
    if rule is None:
        return None
    try:
        result = rule(facts, node)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, KeyError):
        return None
    if result is None or result.size > 64:
        return None
    return result


def _in(facts: Facts, node: Node, index: int) -> Array:
    if index >= len(node.inputs) or not node.inputs[index]:
        raise KeyError(index)
    content = facts.content(node.inputs[index])
    if content is None:
        raise KeyError(node.inputs[index])
    return content


def _ints(facts: Facts, node: Node, index: int, attribute: str) -> list[int] | None:
    if attribute in node.attrs:
        return [int(x) for x in node.attrs[attribute]]
    if index < len(node.inputs) and node.inputs[index]:
        return [int(x) for x in _in(facts, node, index).reshape(-1).tolist()]
    return None


def _constant(_facts: Facts, node: Node) -> Array | None:
    array = constant_array(node)
    if array is None or array.size > 64:
        return None
    return objects(array.tolist()).reshape(array.shape)


def constant_array(node: Node) -> Array | None:
    """Return the array of a Constant node."""
    for name, value in node.attrs.items():
        if name == "value":
            array = numpy_helper.to_array(value)
            return array if array.dtype.kind in "iufb" else array.astype(np.float32)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def _shape(facts: Facts, node: Node) -> Array | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    start = node.attrs.get("start", 0)
    end = node.attrs.get("end", len(shape))
    return objects(list(shape)[start:end])


def _size(facts: Facts, node: Node) -> Array | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    total: Any = 1
    for size in shape:
        total = total * size
    return objects(total)


def _gather(facts: Facts, node: Node) -> Array | None:
    data, index = _in(facts, node, 0), _in(facts, node, 1)
    return objects(np.take(data, index.astype(np.int64), axis=node.attrs.get("axis", 0)))


def _slice(facts: Facts, node: Node) -> Array | None:
    data = _in(facts, node, 0)
    starts, ends = _ints(facts, node, 1, "starts"), _ints(facts, node, 2, "ends")
    axes = _ints(facts, node, 3, "axes") or list(range(len(starts or [])))
    steps = _ints(facts, node, 4, "steps") or [1] * len(axes)
    if starts is None or ends is None:
        return None
    index: list[Any] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -(1 << 30) else end, step)
    part: Array = np.asarray(data[tuple(index)], dtype=object)
    return part


def _concat(facts: Facts, node: Node) -> Array | None:
    parts = [_in(facts, node, i) for i in range(len(node.inputs))]
    return np.concatenate(parts, axis=node.attrs.get("axis", 0))


def _squeeze(facts: Facts, node: Node) -> Array | None:
    data, axes = _in(facts, node, 0), _ints(facts, node, 1, "axes")
    return np.squeeze(data, axis=None if axes is None else tuple(axes))


def _unsqueeze(facts: Facts, node: Node) -> Array | None:
    data, axes = _in(facts, node, 0), _ints(facts, node, 1, "axes")
    return np.expand_dims(data, tuple(axes or []))


def _reshape(facts: Facts, node: Node) -> Array | None:
    data = _in(facts, node, 0)
    return data.reshape([int(x) for x in _in(facts, node, 1).tolist()])


def _transpose(facts: Facts, node: Node) -> Array | None:
    return np.transpose(_in(facts, node, 0), node.attrs.get("perm"))


def _same(facts: Facts, node: Node) -> Array | None:
    return _in(facts, node, 0)


def _cast(facts: Facts, node: Node) -> Array | None:
    data, target = _in(facts, node, 0), node.attrs["to"]

    def convert(x: Any) -> Any:
        if isinstance(x, Dim):
            return x
        if target in _INT_TYPES:
            return int(x)
        if target == TensorProto.BOOL:
            return bool(x)
        return float(x)

    return _map(convert, data)


def _map(function: Callable[..., Any], *arrays: Array) -> Array:
    broad = np.broadcast_arrays(*arrays)
    result = np.empty(broad[0].shape, dtype=object)
    flat = [array.reshape(-1) for array in broad]
    result.reshape(-1)[...] = [function(*items) for items in zip(*flat, strict=True)]
    return result


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Facts, Node], Array | None]:
    def rule(facts: Facts, node: Node) -> Array | None:
        return _map(function, _in(facts, node, 0), _in(facts, node, 1))

    return rule


def _unary(function: Callable[[Any], Any]) -> Callable[[Facts, Node], Array | None]:
    def numeric(x: Any) -> Any:
        if isinstance(x, Dim):
            raise TypeError
        return function(x)

    def rule(facts: Facts, node: Node) -> Array | None:
        return _map(numeric, _in(facts, node, 0))

    return rule


def _div(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        if isinstance(a, Dim) or isinstance(b, Dim):
            raise TypeError
        return a / b
    if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0):
        return -(abs(a) // abs(b))  # integers are cut towards zero
    return a // b


def _equal(a: Any, b: Any) -> Any:
    if isinstance(a, Dim) or isinstance(b, Dim):
        if a == b:
            return True
        if (isinstance(a, int) and a < 0) or (isinstance(b, int) and b < 0):
            return False  # a size is never negative
        raise TypeError
    return bool(a == b)


def _compare(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, Dim) or isinstance(b, Dim):
            raise TypeError
        return function(a, b)

    return apply


def _extreme(function: Callable[[Any, Any], Any]) -> Callable[[Facts, Node], Array | None]:
    """Fold Max or Min over any number of inputs; equal sizes need no order."""
    pick = _compare(function)

    def rule(facts: Facts, node: Node) -> Array | None:
        result = _in(facts, node, 0)
        for index in range(1, len(node.inputs)):
            result = _map(lambda a, b: a if a == b else pick(a, b), result, _in(facts, node, index))
        return result

    return rule


def _where(facts: Facts, node: Node) -> Array | None:
    return _map(lambda c, x, y: x if c else y, *(_in(facts, node, i) for i in range(3)))


def _range(facts: Facts, node: Node) -> Array | None:
    start, limit, step = (_in(facts, node, i).item() for i in range(3))
    return objects(np.arange(start, limit, step).tolist())


def _expand(facts: Facts, node: Node) -> Array | None:
    data, target = _in(facts, node, 0), [int(x) for x in _in(facts, node, 1).reshape(-1).tolist()]
    if math.prod(target) > 64:
        return None
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target)))


def _constant_of_shape(facts: Facts, node: Node) -> Array | None:
    shape = [int(x) for x in _in(facts, node, 0).reshape(-1).tolist()]
    if math.prod(shape) > 64:
        return None
    value = node.attrs.get("value")
    fill = numpy_helper.to_array(value).reshape(-1)[0].item() if value is not None else 0.0
    return objects(np.full(shape, fill).tolist()).reshape(shape)


def _reduce_prod(facts: Facts, node: Node) -> Array | None:
    total: Any = 1
    for item in _in(facts, node, 0).reshape(-1).tolist():
        total = total * item
    return objects([total] if node.attrs.get("keepdims", 1) else total)


def _if(facts: Facts, node: Node) -> Array | None:
    """Take the content of the branch that is known to run."""
    condition = bool(_in(facts, node, 0).item())
    body = node.attrs["then_branch" if condition else "else_branch"]
    return facts.branch(body).content(body.output[0].name)


def _mod(facts: Facts, node: Node) -> Array | None:
    """Give the rest the sign of the divisor, or of the dividend where ``fmod`` is set."""

    def rest(a: Any, b: Any) -> Any:
        sizes = isinstance(a, Dim) or isinstance(b, Dim)
        if not node.attrs.get("fmod"):
            return remainder(a, b) if sizes else a % b
        if sizes:
            raise TypeError
        return math.fmod(a, b) if isinstance(a, float) else a - b * _div(a, b)

    return _binary(rest)(facts, node)


def _pow(a: Any, b: Any) -> Any:
    if isinstance(a, Dim):
        raise TypeError
    return a**b


_SMALL: dict[str, Callable[[Any, Any], Array | None]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Identity": _same,
    "Cast": _cast,
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(_div),
    "Pow": _binary(_pow),
    "Max": _extreme(max),
    "Min": _extreme(min),
    "Mod": _mod,
    "Equal": _binary(_equal),
    "Less": _binary(_compare(lambda a, b: a < b)),
    "Greater": _binary(_compare(lambda a, b: a > b)),
    "And": _binary(lambda a, b: bool(a) and bool(b)),
    "Or": _binary(lambda a, b: bool(a) or bool(b)),
    "Not": _unary(lambda x: not x),
    "Sqrt": _unary(lambda x: math.sqrt(x)),
    "Exp": _unary(lambda x: math.exp(x)),
    "Reciprocal": _unary(lambda x: 1.0 / x),
    "Neg": lambda facts, node: _map(lambda x: -x, _in(facts, node, 0)),
    "Floor": _unary(lambda x: float(math.floor(x))),
    "Ceil": _unary(lambda x: float(math.ceil(x))),
    "Where": _where,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _reduce_prod,
    "Abs": _unary(abs),
    "Expand": _expand,
    "If": _if,
}
