"""Output shapes with symbolic dimensions, for the operators that move axes about.

Operators without a rule here fall back on ``onnx.shape_inference``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from omfuse.graph.dims import Dim, Size, broadcast, divide, exact_quotient, product, symbol

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

Shape = tuple[Size, ...]
Rule = Callable[[Any, Any, int], Shape | None]  # (facts, node, index of the output)
_FAR = 1 << 30


def infer(facts: Facts, node: Node, index: int) -> Shape | None:
    """Return the shape of output ``index`` of ``node``, or None where no rule applies."""
    rule = _RULES.get(node.op)
    if rule is None:
        return None
    try:
        return rule(facts, node, index)
    except (TypeError, ValueError, IndexError, KeyError):
        return None


def declare(rules: Mapping[str, Rule]) -> None:
    """Add rules; they take the place of what :func:`declare_elementwise` said of an operator."""
    _RULES.update(rules)


def declare_elementwise(op: str) -> None:
    """Give an operator without a rule the broadcast shape of its inputs."""
    _RULES.setdefault(op, _elementwise)


def shape_of(facts: Facts, node: Node, index: int) -> Shape:
    """Return the shape of an input.

    Raises:
        KeyError: it is absent or unknown.
    """
    if index >= len(node.inputs) or not node.inputs[index]:
        raise KeyError(index)
    shape = facts.shape(node.inputs[index])
    if shape is None:
        raise KeyError(node.inputs[index])
    return shape


def _sizes(facts: Facts, node: Node, index: int, attribute: str | None = None) -> list[Any]:
    if attribute is not None and attribute in node.attrs:
        return list(node.attrs[attribute])
    content = facts.content(node.inputs[index])
    if content is None:
        raise KeyError(node.inputs[index])
    return list(content.reshape(-1).tolist())


def _same(facts: Facts, node: Node, _index: int) -> Shape:
    return shape_of(facts, node, 0)


def _elementwise(facts: Facts, node: Node, _index: int) -> Shape:
    shapes = [shape_of(facts, node, i) for i in range(len(node.inputs))]
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            result[axis] = broadcast(result[axis], size)
    return tuple(result)


def _fresh(node: Node, axis: int) -> Dim:
    return symbol(f"{node.outputs[0]}.{axis}")


def _reshape(facts: Facts, node: Node, _index: int) -> Shape | None:
    target_shape = facts.content(node.inputs[1])
    source = facts.shape(node.inputs[0])
    if target_shape is None:
        rank_shape = facts.shape(node.inputs[1])
        if rank_shape and isinstance(rank_shape[0], int):
            return tuple(_fresh(node, axis) for axis in range(rank_shape[0]))
        return None
    target = list(target_shape.reshape(-1).tolist())
    keep_zero = node.attrs.get("allowzero", 0)
    result: list[Size] = []
    hole = None
    for axis, size in enumerate(target):
        if size == 0 and not keep_zero:
            result.append(source[axis] if source is not None else _fresh(node, axis))
        elif size == -1:
            hole = axis
            result.append(1)
        else:
            result.append(size)
    if hole is not None:
        if source is None:
            result[hole] = _fresh(node, hole)
        else:
            result[hole] = divide(product(list(source)), product(result))
    return tuple(result)


def _transpose(facts: Facts, node: Node, _index: int) -> Shape:
    shape = shape_of(facts, node, 0)
    perm = node.attrs.get("perm") or list(range(len(shape)))[::-1]
    return tuple(shape[axis] for axis in perm)


def _matmul(facts: Facts, node: Node, _index: int) -> Shape:
    return matmul_shape(shape_of(facts, node, 0), shape_of(facts, node, 1))


def matmul_shape(a: Shape, b: Shape, swap_a: bool = False, swap_b: bool = False) -> Shape:
    """Return the shape of a product of stacked matrices with numpy broadcasting.

    Raises:
        ValueError: a side is a vector.
    """
    a = (*a[:-2], *a[:-3:-1]) if swap_a else a
    b = (*b[:-2], *b[:-3:-1]) if swap_b else b
    if len(a) == 1 or len(b) == 1:
        raise ValueError
    rank = max(len(a), len(b))
    left = [1] * (rank - len(a)) + list(a[:-2])
    right = [1] * (rank - len(b)) + list(b[:-2])
    batch = [broadcast(x, y) for x, y in zip(left, right, strict=True)]
    return (*batch, a[-2], b[-1])


def _einsum(facts: Facts, node: Node, _index: int) -> Shape:
    sizes: dict[str, Size] = {}
    left, _, out = node.attrs["equation"].replace(" ", "").partition("->")
    if "." in left or not out:
        raise ValueError
    for index, letters in enumerate(left.split(",")):
        for letter, size in zip(letters, shape_of(facts, node, index), strict=True):
            sizes[letter] = broadcast(sizes.get(letter, 1), size)
    return tuple(sizes[letter] for letter in out)


def _axes(facts: Facts, node: Node) -> list[int] | None:
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    if len(node.inputs) > 1 and node.inputs[1]:
        return [int(x) for x in _sizes(facts, node, 1)]
    return None


def _unsqueeze(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = list(shape_of(facts, node, 0)), _axes(facts, node) or []
    rank = len(shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return tuple(shape)


def _squeeze(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = shape_of(facts, node, 0), _axes(facts, node)
    if axes is None:
        if any(isinstance(size, Dim) for size in shape):
            raise ValueError
        return tuple(size for size in shape if size != 1)
    gone = {axis % len(shape) for axis in axes}
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _concat(facts: Facts, node: Node, _index: int) -> Shape:
    shapes = [list(shape_of(facts, node, i)) for i in range(len(node.inputs))]
    axis = node.attrs["axis"] % len(shapes[0])
    result: list[Size] = list(shapes[0])
    for shape in shapes[1:]:
        for other, size in enumerate(shape):
            if other == axis:
                result[axis] = result[axis] + size
            elif isinstance(size, int):
                result[other] = size
    return tuple(result)


def _slice(facts: Facts, node: Node, _index: int) -> Shape:
    shape = list(shape_of(facts, node, 0))
    try:
        starts, ends = _sizes(facts, node, 1, "starts"), _sizes(facts, node, 2, "ends")
    except KeyError:
        cut = _slice_axes(facts, node, len(shape))
        return tuple(_fresh(node, i) if i in cut else size for i, size in enumerate(shape))
    has_axes = "axes" in node.attrs or (len(node.inputs) > 3 and node.inputs[3])
    axes = _sizes(facts, node, 3, "axes") if has_axes else list(range(len(starts)))
    steps = _sizes(facts, node, 4) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(axes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = _slice_length(shape[axis], start, end, step, _fresh(node, axis % len(shape)))
    return tuple(shape)


def _slice_axes(facts: Facts, node: Node, rank: int) -> set[int]:
    if len(node.inputs) > 3 and node.inputs[3]:
        content = facts.content(node.inputs[3])
        if content is not None:
            return {int(axis) % rank for axis in content.reshape(-1).tolist()}
    return set(range(rank))


def _slice_length(size: Size, start: Any, end: Any, step: Any, unknown: Dim) -> Size:
    if step != 1:
        if isinstance(size, int) and all(isinstance(x, int) for x in (start, end, step)):
            return len(range(*slice(start, end, step).indices(size)))
        return unknown
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, end).indices(size)))
    if (isinstance(end, int) and end >= _FAR) or end == size:
        end = size
    elif isinstance(end, int) and end < 0:
        end = size + end
    elif isinstance(end, int) and isinstance(size, Dim):
        return unknown if start != 0 else symbol(f"min({size!r},{end})")
    if isinstance(start, int) and start < 0:
        start = size + start
    if end == size or isinstance(end, Dim):
        length: Size = end - start  # exporters slice with sizes that fit
        return length
    return unknown


def _expand(facts: Facts, node: Node, _index: int) -> Shape:
    shape = shape_of(facts, node, 0)
    target = _sizes(facts, node, 1)
    rank = max(len(shape), len(target))
    padded = [1] * (rank - len(shape)) + list(shape)
    wanted = [1] * (rank - len(target)) + target
    return tuple(broadcast(w, s) if w != 1 else s for s, w in zip(padded, wanted, strict=True))


def _tile(facts: Facts, node: Node, _index: int) -> Shape:
    repeats = _sizes(facts, node, 1)
    return tuple(s * r for s, r in zip(shape_of(facts, node, 0), repeats, strict=True))


def _gather(facts: Facts, node: Node, _index: int) -> Shape:
    data, index = shape_of(facts, node, 0), shape_of(facts, node, 1)
    axis = node.attrs.get("axis", 0) % len(data)
    return (*data[:axis], *index, *data[axis + 1 :])


def _split(facts: Facts, node: Node, index: int) -> Shape:
    shape = list(shape_of(facts, node, 0))
    axis = node.attrs.get("axis", 0) % len(shape)
    if "split" in node.attrs or (len(node.inputs) > 1 and node.inputs[1]):
        shape[axis] = _sizes(facts, node, 1, "split")[index]
        return tuple(shape)
    part = exact_quotient(shape[axis], len(node.outputs))
    if part is None:
        raise ValueError
    shape[axis] = part
    return tuple(shape)


def _constant_of_shape(facts: Facts, node: Node, _index: int) -> Shape:
    return tuple(_sizes(facts, node, 0))


def _gemm(facts: Facts, node: Node, _index: int) -> Shape:
    swap_a, swap_b = bool(node.attrs.get("transA")), bool(node.attrs.get("transB"))
    return matmul_shape(shape_of(facts, node, 0), shape_of(facts, node, 1), swap_a, swap_b)


def _reduce(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = shape_of(facts, node, 0), _axes(facts, node)
    gone = set(range(len(shape))) if axes is None else {axis % len(shape) for axis in axes}
    if node.attrs.get("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _range(facts: Facts, node: Node, _index: int) -> Shape:
    start, limit, step = (_sizes(facts, node, i)[0] for i in range(3))
    if isinstance(start, Dim) or isinstance(limit, Dim):
        if step != 1:
            raise ValueError
        return (limit - start,)
    return (max(0, math.ceil((limit - start) / step)),)


def _if(facts: Facts, node: Node, index: int) -> Shape | None:
    """Take the branch that is known to run, or what both branches agree on."""
    names = ["then_branch", "else_branch"]
    condition = facts.scalar(node.inputs[0])
    if condition is not None:
        names = names[:1] if condition else names[1:]
    bodies = [node.attrs[name] for name in names]
    shapes = {facts.branch(body).shape(body.output[index].name) for body in bodies}
    return shapes.pop() if len(shapes) == 1 else None


def _pad(facts: Facts, node: Node, _index: int) -> Shape:
    shape, pads = list(shape_of(facts, node, 0)), _sizes(facts, node, 1, "pads")
    if len(node.inputs) > 3 and node.inputs[3]:
        axes = [int(axis) % len(shape) for axis in _sizes(facts, node, 3)]
    else:
        axes = list(range(len(shape)))
    for position, axis in enumerate(axes):
        shape[axis] = shape[axis] + pads[position] + pads[position + len(axes)]
    return tuple(shape)


def _conv(facts: Facts, node: Node, _index: int) -> Shape:
    return conv_shape(shape_of(facts, node, 0), shape_of(facts, node, 1), node)


def conv_shape(data: Shape, weight: Shape, node: Node) -> Shape:
    """Return the output of a convolution over ``[N, C, ...]``.

    Raises:
        ValueError: ``auto_pad`` is used.
    """
    spatial = len(data) - 2
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError
    pads = node.attrs.get("pads", [0] * 2 * spatial)
    strides = node.attrs.get("strides", [1] * spatial)
    dilations = node.attrs.get("dilations", [1] * spatial)
    kernel = node.attrs.get("kernel_shape", weight[2:])
    result: list[Size] = [data[0], weight[0]]
    for axis in range(spatial):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        room = data[axis + 2] + pads[axis] + pads[axis + spatial] - reach
        result.append(divide(room, strides[axis]) + 1)
    return tuple(result)


def _like_indices(facts: Facts, node: Node, _index: int) -> Shape:
    return shape_of(facts, node, 1)


def _gather_nd(facts: Facts, node: Node, _index: int) -> Shape:
    data, indices = shape_of(facts, node, 0), shape_of(facts, node, 1)
    depth, batch = indices[-1], node.attrs.get("batch_dims", 0)
    if not isinstance(depth, int):
        raise ValueError
    return (*indices[:-1], *data[batch + depth :])


def _flatten(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axis = list(shape_of(facts, node, 0)), node.attrs.get("axis", 1)
    axis = axis % len(shape) if axis < 0 else axis
    return product(shape[:axis]), product(shape[axis:])


def _resize(facts: Facts, node: Node, _index: int) -> Shape:
    shape = shape_of(facts, node, 0)
    if len(node.inputs) > 3 and node.inputs[3]:
        return tuple(_sizes(facts, node, 3))
    scales = _sizes(facts, node, 2)
    if any(scale != int(scale) for scale in scales):
        raise ValueError
    return tuple(size * int(scale) for size, scale in zip(shape, scales, strict=True))


_BINARY = """
    Add Sub Mul Div Pow Max Min Mod Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Where
    Sum PRelu
"""
_UNARY = """
    Identity Cast CastLike Neg Sqrt Exp Log Tanh Sigmoid Relu Erf Softmax LogSoftmax Dropout Clip
    Not IsNaN Abs Reciprocal Floor Ceil Round Sin Cos Gelu LeakyRelu HardSwish HardSigmoid Elu
    Softplus CumSum Trilu ScatterND ScatterElements LayerNormalization RMSNormalization
    InstanceNormalization GroupNormalization BatchNormalization QuantizeLinear DequantizeLinear
    Hardmax RotaryEmbedding
"""
_REDUCE = "ReduceSum ReduceMax ReduceMin ReduceMean ReduceProd ReduceL2 ReduceL1 ReduceLogSumExp"

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_BINARY.split(), _elementwise),
    **dict.fromkeys(_UNARY.split(), _same),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "Split": _split,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "If": _if,
    "Pad": _pad,
    "Conv": _conv,
    "GatherElements": _like_indices,
    "GatherND": _gather_nd,
    "Flatten": _flatten,
    "Resize": _resize,
}
