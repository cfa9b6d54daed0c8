"""Operators that change nothing, or only the arrangement of axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import TensorProto

from omfuse.graph.view import Node
from omfuse.match.rules import ScoresStep, WeightsStep, lift
from omfuse.match.state import Factor, Term

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@lift("Identity")
def identity(step: ScoresStep) -> Iterator[Any]:
    """Look through Identity."""
    yield step.up(0, axes=step.state.axes)


@lift("Cast")
def cast(step: ScoresStep) -> Iterator[Any]:
    """Look through casts between float types.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        c = Cast<to=1>(s)
        p = Softmax<axis=-1>(c)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    step.ignore("saturate", "round_mode")
    if step.attr("to") not in FLOATS or step.facts.dtype(step.node.inputs[0]) not in (0, *FLOATS):
        raise step.decline("cast", "the scores are cast to or from a type that is not float")
    yield step.up(0, axes=step.state.axes)


@lift("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def reshape(step: ScoresStep) -> Iterator[Any]:
    """Carry the letters through a reshape between contraction and softmax.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        t3 = Constant<value_ints=[6, 5, 7]>()
        t4 = Constant<value_ints=[2, 3, 5, 7]>()
        s3 = Reshape(s, t3)
        s4 = Reshape(s3, t4)
        p = Softmax<axis=-1>(s4)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    step.ignore("allowzero", "axes", "axis")
    letters, axes = step.state.letters.align(step.state.axes, step.shape(0))
    yield step.up(0, axes=axes, letters=letters)


@lift("Transpose")
def transpose(step: ScoresStep) -> Iterator[Any]:
    """Carry the letters through a transpose between contraction and softmax."""
    rank = len(step.state.axes)
    perm = step.attr("perm", list(range(rank))[::-1])
    place = {source: target for target, source in enumerate(perm)}
    yield step.up(0, axes=tuple(step.state.axes[place[axis]] for axis in range(rank)))


@lift("Dropout")
def dropout(step: ScoresStep) -> Iterator[Any]:
    """Look through dropout at inference."""
    step.ignore("seed", "ratio")
    if step.has(2) and step.scalar(2) != 0.0:
        raise step.decline("dropout", "dropout runs in training mode", "export in eval mode")
    yield step.up(0, axes=step.state.axes)


@lift("Expand")
def expand(step: ScoresStep) -> Iterator[Any]:
    """Look through an expansion of the scores."""
    yield step.up(0)


@lift("Identity", side="weights")
def weights_identity(step: WeightsStep) -> Iterator[Any]:
    """Look through Identity."""
    yield step.down()


@lift("Cast", side="weights")
def weights_cast(step: WeightsStep) -> Iterator[Any]:
    """Look through casts between float types."""
    step.ignore("saturate", "round_mode")
    if step.attr("to") not in FLOATS:
        raise step.decline("cast", "the weights are cast to a type that is not float")
    yield step.down()


@lift("Dropout", side="weights")
def weights_dropout(step: WeightsStep) -> Iterator[Any]:
    """Look through dropout at inference.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        p = Softmax<axis=-1>(s)
        r = Constant<value_float=0.1>()
        d = Dropout(p, r)
        y = MatMul(d, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    step.ignore("seed", "ratio")
    if step.has(2) and step.scalar(2) != 0.0:
        raise step.decline("dropout", "dropout runs in training mode", "export in eval mode")
    yield step.down()


@lift("Reshape", "Squeeze", "Unsqueeze", "Flatten", side="weights")
def weights_reshape(step: WeightsStep) -> Iterator[Any]:
    """Carry the letters through a reshape of the weights."""
    step.ignore("allowzero", "axes", "axis")
    shape = step.facts.shape(step.node.outputs[0])
    if shape is None:
        raise step.decline("unknown-shape", "the shape after a reshape of the weights is open")
    letters, axes = step.state.letters.align(step.state.axes, shape)
    yield step.down(axes=axes, letters=letters)


@lift("Transpose", side="weights")
def weights_transpose(step: WeightsStep) -> Iterator[Any]:
    """Carry the letters through a transpose of the weights."""
    perm = step.attr("perm", list(range(len(step.state.axes)))[::-1])
    yield step.down(axes=tuple(step.state.axes[axis] for axis in perm))


@lift("Where", side="weights")
def nan_guard(step: WeightsStep) -> Iterator[Any]:
    """Read ``Where(IsNaN(P), 0, P)`` as: a row without any key is zero.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        f = Constant<value_float=-inf>()
        w = Where(mask, s, f)
        p = Softmax<axis=-1>(w)
        n = IsNaN(p)
        zero = Constant<value_float=0.0>()
        g = Where(n, zero, p)
        y = MatMul(g, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] | mask[b,1,q,k], empty row zero).V[b,h,k,e]
        -> out[b,h,q,e]
    """
    test = step.facts.view.producer(step.node.inputs[0])
    if step.index == 2 and step.scalar(1) == 0.0 and test is not None and test.op == "IsNaN":
        tested, casts = _before_casts(step, test.inputs[0])
        if tested == _before_casts(step, step.state.value)[0]:
            yield step.down(nan_guard=True, nodes=(*step.state.nodes, test, *casts))
        return
    for zero, keep in ((1, False), (2, True)):
        if step.index == 3 - zero and step.scalar(zero) == 0.0:
            mask = Term(step.node.inputs[0], step.letters_of(0), selection=True, negate=not keep)
            yield step.down(nan_guard=True, masks=(*step.state.masks, mask))
            return
    raise step.decline("weights-select", "the weights are replaced where a condition holds")


def _before_casts(step: WeightsStep, value: str) -> tuple[str, list[Node]]:
    """Return what float casts made a value of, and the casts: they keep NaN, and only that."""
    casts: list[Node] = []
    node = step.facts.view.producer(value)
    while node is not None and node.op == "Cast" and node.attrs.get("to") in FLOATS:
        value = node.inputs[0]
        casts.append(node)
        node = step.facts.view.producer(value)
    return value, casts


@lift("Mul", side="weights")
def weights_factor(step: WeightsStep) -> Iterator[Any]:
    """Read a factor on the weights that does not run over the keys as one on the output.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        p = Softmax<axis=-1>(s)
        h = Mul(p, head)
        y = MatMul(h, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] * t[1,h,1,1] -> out[b,h,q,e]
    """
    other = 1 - step.index
    factor = Factor(step.node.inputs[other], step.letters_of(other))
    if step.meets_key(factor.axes):
        raise step.decline(
            "weights-mask", "the weights are multiplied by a tensor over the keys", attention=False
        )
    yield step.down(factors=(*step.state.factors, factor))
