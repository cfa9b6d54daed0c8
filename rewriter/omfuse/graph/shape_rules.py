"""Output shapes with symbolic dimensions: what all rules share, arithmetic, products, states.

Operators without a rule here fall back on ``onnx.shape_inference``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from omfuse.graph.dims import Dim, Size, broadcast, divide
from omfuse.graph.einsum import spelled

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

Shape = tuple[Size, ...]
Rule = Callable[[Any, Any, int], Shape | None]  # (facts, node, index of the output)


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


def sizes_of(facts: Facts, node: Node, index: int, attribute: str | None = None) -> list[Any]:
    """Return the numbers and sizes that an attribute or a small input holds.

    Raises:
        KeyError: they are not known.
    """
    if attribute is not None and attribute in node.attrs:
        return list(node.attrs[attribute])
    content = facts.content(node.inputs[index])
    if content is None:
        raise KeyError(node.inputs[index])
    return list(content.reshape(-1).tolist())


def _same(facts: Facts, node: Node, index: int) -> Shape | None:
    """Give the first output the shape of the first input; other outputs hold other things."""
    return shape_of(facts, node, 0) if index == 0 else None


def _elementwise(facts: Facts, node: Node, _index: int) -> Shape:
    shapes = [shape_of(facts, node, i) for i in range(len(node.inputs))]
    # The fuller tensor first: a mask that names its batch apart is the one that may be expanded.
    shapes.sort(key=lambda shape: sum(size == 1 for size in shape) - len(shape))
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            result[axis] = broadcast(result[axis], size)
    return tuple(result)


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
    shapes = [shape_of(facts, node, index) for index in range(len(node.inputs))]
    operands, out = spelled(node.attrs["equation"], [len(shape) for shape in shapes])
    sizes: dict[str, Size] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = broadcast(sizes.get(letter, 1), size)
    return tuple(sizes[letter] for letter in out)


def axes_of(facts: Facts, node: Node) -> list[int] | None:
    """Return the axes that an attribute or the second input names, None for all.

    Raises:
        KeyError: the input is not known.
    """
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    if len(node.inputs) > 1 and node.inputs[1]:
        return [int(x) for x in sizes_of(facts, node, 1)]
    return None


def _constant_of_shape(facts: Facts, node: Node, _index: int) -> Shape:
    return tuple(sizes_of(facts, node, 0))


def _gemm(facts: Facts, node: Node, _index: int) -> Shape:
    swap_a, swap_b = bool(node.attrs.get("transA")), bool(node.attrs.get("transB"))
    return matmul_shape(shape_of(facts, node, 0), shape_of(facts, node, 1), swap_a, swap_b)


def _reduce(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = shape_of(facts, node, 0), axes_of(facts, node)
    gone = set(range(len(shape))) if axes is None else {axis % len(shape) for axis in axes}
    if node.attrs.get("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _range(facts: Facts, node: Node, _index: int) -> Shape:
    start, limit, step = (sizes_of(facts, node, i)[0] for i in range(3))
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


def _arg_reduce(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axis = (
        shape_of(facts, node, 0),
        node.attrs.get("axis", 0) % len(shape_of(facts, node, 0)),
    )
    return (*shape[:axis], *([1] if node.attrs.get("keepdims", 1) else []), *shape[axis + 1 :])


def _top_k(facts: Facts, node: Node, _index: int) -> Shape:
    shape = list(shape_of(facts, node, 0))
    count = node.attrs["k"] if "k" in node.attrs else sizes_of(facts, node, 1)[0]
    shape[node.attrs.get("axis", -1)] = count
    return tuple(shape)


def _one_hot(facts: Facts, node: Node, _index: int) -> Shape:
    shape = list(shape_of(facts, node, 0))
    axis = node.attrs.get("axis", -1) % (len(shape) + 1)
    (depth,) = sizes_of(facts, node, 1)
    return (*shape[:axis], depth, *shape[axis:])


def _recurrent(facts: Facts, node: Node, index: int) -> Shape:
    """All states ``[S, D, B, H]``, the last ones ``[D, B, H]``; layout 1 puts the batch first."""
    data, directions = shape_of(facts, node, 0), shape_of(facts, node, 1)[0]
    hidden = shape_of(facts, node, 2)[2]
    if node.attrs.get("layout", 0):
        batch, steps = data[0], data[1]
        return (batch, steps, directions, hidden) if index == 0 else (batch, directions, hidden)
    steps, batch = data[0], data[1]
    return (steps, directions, batch, hidden) if index == 0 else (directions, batch, hidden)


def _attention(facts: Facts, node: Node, index: int) -> Shape | None:
    """Output of the standard operator, and its keys and values with those of the past."""
    query, key, value = (shape_of(facts, node, i) for i in range(3))
    if index == 0:
        if len(query) == 4:
            return (*query[:3], value[3])
        width = divide(value[2], node.attrs["kv_num_heads"]) * node.attrs["q_num_heads"]
        return (*query[:2], width)
    if index not in (1, 2):
        return None
    now, past = (key, value)[index - 1], index + 3
    if len(now) == 3:
        heads = node.attrs["kv_num_heads"]
        now = (now[0], heads, now[1], divide(now[2], heads))
    if len(node.inputs) > past and node.inputs[past]:
        now = (*now[:2], shape_of(facts, node, past)[2] + now[2], now[3])
    return now


_BINARY = """
    Add Sub Mul Div Pow Max Min Mean Sum Mod And Or Xor Where PRelu SwiGLU
    Equal Less LessOrEqual Greater GreaterOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor
"""
_UNARY = """
    Identity Cast CastLike Bernoulli QuantizeLinear DequantizeLinear
    Neg Abs Sign Sqrt Reciprocal Exp Log Erf Floor Ceil Round Not BitwiseNot IsNaN IsInf
    Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh
    Relu LeakyRelu ThresholdedRelu Elu Selu Celu Gelu Mish Swish Sigmoid HardSigmoid HardSwish
    Softplus Softsign Shrink Clip Softmax LogSoftmax Hardmax Dropout
    LayerNormalization RMSNormalization InstanceNormalization GroupNormalization
    BatchNormalization LpNormalization MeanVarianceNormalization LRN RotaryEmbedding
    CumSum CumProd Trilu ReverseSequence Scatter ScatterND ScatterElements TensorScatter
    EyeLike RandomNormalLike RandomUniformLike
"""
_REDUCE = """
    ReduceSum ReduceMax ReduceMin ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSumSquare
"""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_BINARY.split(), _elementwise),
    **dict.fromkeys(_UNARY.split(), _same),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "If": _if,
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduce),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
    "TopK": _top_k,
    "OneHot": _one_hot,
    "Attention": _attention,
}
