"""Masks and biases: what is added to the scores, and where scores are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from omfuse.match.rules import LARGE_NEGATIVE, ScoresStep, lift


@lift("Add")
def add(step: ScoresStep) -> Iterator[Any]:
    """Read an addend of the scores as a bias; either operand may be the scores.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        z = Add(bias, s)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] + bias[b,1,q,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    for scores, other in step.pairs():
        yield step.added(scores, other)


@lift("Sum")
def sum_of_two(step: ScoresStep) -> Iterator[Any]:
    """Read a Sum of two operands as an Add."""
    if len(step.node.inputs) != 2:
        raise step.decline("sum", "a Sum of more than two operands")
    yield from add(step)


@lift("Sub")
def subtract(step: ScoresStep) -> Iterator[Any]:
    """Read a subtrahend as a bias with factor -1, as tf and keras write padding masks.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        z = Sub(s, bias)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] - bias[b,1,q,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    yield step.added(0, 1, sign=-1.0)
    negated = step.added(1, 0)
    yield step.up(1, multiplier=-step.state.multiplier, terms=negated.terms)


@lift("Where")
def where(step: ScoresStep) -> Iterator[Any]:
    """Read scores replaced by a large negative number as a boolean mask.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        f = Constant<value_float=-1e9>()
        z = Where(mask, s, f)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] | mask[b,1,q,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    for scores, other in ((1, 2), (2, 1)):
        fill = step.scalar(other)
        if fill is not None:
            yield step.selected(scores, 0, fill, keep=scores == 1)


@lift("Mul")
def select_by_product(step: ScoresStep) -> Iterator[Any]:
    """Read ``x * keep + c * (1 - keep)``, with 0 and 1 in ``keep``, as a mask, as GPT wrote it.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        one = Constant<value_float=1.0>()
        c = Constant<value_float=-1e4>()
        keep = Cast<to=1>(mask)
        x = Mul(s, keep)
        drop = Sub(one, keep)
        low = Mul(drop, c)
        z = Add(x, low)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] | mask[b,1,q,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    for scores, other in step.pairs():
        selection = step.complemented(scores, other)
        if selection is not None:
            yield selection


@lift("Max", "Clip")
def clamp(step: ScoresStep) -> Iterator[Any]:
    """Read a lower clamp at the smallest number of the dtype as nothing, as OPT writes it."""
    if step.node.op == "Clip" and "min" in step.node.attrs:
        bound, high = step.attr("min"), step.attr("max", np.inf)
    else:
        bound = step.scalar(1) if step.has(1) else None
        high = step.scalar(2) if step.has(2) else np.inf
    if bound is None or bound > LARGE_NEGATIVE * 10 or high is None or high < 1e30:
        raise step.decline("clamp", "the scores are clamped")
    if bound > -1e30 and bound != -65504.0:
        raise step.decline("clamp", f"the scores are clamped at {bound:g}")
    yield step.up(0)
