"""Attention sinks: one extra logit a head that takes weight and has no value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omfuse.match.rules import ScoresStep, WeightsStep, lift


@lift("Concat")
def append_sink(step: ScoresStep) -> Iterator[Any]:
    """Read a logit joined to the keys, and cut off after the softmax, as a sink.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        shape = Constant<value_ints=[2, 3, 5, 1]>()
        e = Expand(head, shape)
        z = Concat<axis=-1>(s, e)
        p = Softmax<axis=-1>(z)
        zero = Constant<value_ints=[0]>()
        last = Constant<value_ints=[-1]>()
        axis = Constant<value_ints=[3]>()
        c = Slice(p, zero, last, axis)
        y = MatMul(c, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k], sink[b,h,q,1]).V[b,h,k,e] -> out[b,h,q,e]
    """
    axis = step.attr("axis") % len(step.state.axes)
    if len(step.node.inputs) != 2 or step.state.axes[axis] != step.state.key:
        raise step.decline("concat", "scores are joined", attention=False)
    yield step.with_sink(*((1, 0) if step.state.sink_first else (0, 1)))


@lift("Slice", side="weights")
def cut_sink(step: WeightsStep) -> Iterator[Any]:
    """Read the removal of one key after the softmax; the Concat before it must have added it."""
    step.ignore("starts", "ends", "axes")
    rank = len(step.state.axes)
    bounds = [step.slice_input(index) for index in range(1, 5)]
    starts, ends, axes, steps = bounds
    if (
        starts is None
        or ends is None
        or axes is None
        or len(starts) != 1
        or steps not in (None, [1])
    ):
        raise step.decline("weights-slice", "the weights are cut", attention=False)
    size = step.state.letters.size(step.state.key)
    whole = isinstance(ends[0], int) and ends[0] >= 1 << 30
    last = starts[0] == 0 and (ends[0] == -1 or ends[0] == size - 1)
    first = starts[0] == 1 and (whole or ends[0] == size)
    if step.state.axes[axes[0] % rank] != step.state.key or not (last or first):
        raise step.decline("weights-slice", "the weights are cut", attention=False)
    yield step.without_last_key(int(first))
