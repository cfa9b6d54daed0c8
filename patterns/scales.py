"""Scales: numbers and tensors that multiply the scores, and the soft cap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omfuse.match.rules import ScoresStep, lift


@lift("Mul")
def multiply(step: ScoresStep) -> Iterator[Any]:
    """Move a factor on the scores into the scale.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        c = Constant<value_float=0.25>()
        z = Mul(c, s)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(0.25*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    for scores, other in step.pairs():
        factor = step.scalar(other)
        if factor is not None:
            yield step.scaled(scores, factor)
            return
    for scores, other in step.pairs():
        if step.complemented(scores, other) is None:  # else it is a mask
            yield step.multiplied(scores, other)


@lift("Div")
def divide(step: ScoresStep) -> Iterator[Any]:
    """Move a divisor of the scores into the scale.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        c = Constant<value_float=8.0>()
        z = Div(s, c)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(0.125*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    divisor = step.scalar(1)
    if divisor == 0.0:
        raise step.decline("scale", "the scores are divided by zero")
    if divisor is not None:
        yield step.scaled(0, 1.0 / divisor)
    else:
        yield step.multiplied(0, 1, divide=True)


@lift("Neg")
def negate(step: ScoresStep) -> Iterator[Any]:
    """Read a negation as the scale -1."""
    yield step.scaled(0, -1.0)


@lift("Tanh")
def softcap(step: ScoresStep) -> Iterator[Any]:
    """Read ``c * tanh(x / c)`` as a soft cap.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        c = Constant<value_float=5.0>()
        d = Div(s, c)
        t = Tanh(d)
        z = Mul(t, c)
        p = Softmax<axis=-1>(z)
        y = MatMul(p, v)

    After::

        softmax_k(cap5(1*Q[b,h,q,d].K[b,h,d,k])).V[b,h,k,e] -> out[b,h,q,e]
    """
    cap = step.state.multiplier
    if step.state.softcap or step.state.factors or cap <= 0:
        raise step.decline("softcap", "the tanh is not a soft cap")
    inner = step.up(0, softcap=cap, multiplier=cap)
    yield replace(inner)
