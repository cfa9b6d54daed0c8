"""Weights masked after the softmax and brought back to a sum of one: a mask of the scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from omfuse.graph.view import Node
from omfuse.match.row_stats import RowStat, row_stat
from omfuse.match.rules import WeightsStep, lift
from omfuse.match.state import Term
from omfuse.match.values import cast_bits, zero_or_one


@dataclass(frozen=True)
class _Normalised:
    """Where the masked weights have a sum of one again, or are zero where nothing is kept."""

    value: str
    nodes: tuple[Node, ...]
    guarded: bool


@lift("Mul", side="weights")
def masked_weights(step: WeightsStep) -> Iterator[Any]:
    """Read ``w / sum(w)`` with ``w = P * keep`` as a mask, as ``jax.nn`` writes it.

    The exponentials of the masked keys cancel between ``w`` and its sum.  Where nothing is kept
    the row is zero if the sum is guarded, else NaN, as 0 / 0 is.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        p = Softmax<axis=-1>(s)
        keep = Cast<to=1>(mask)
        w = Mul(p, keep)
        axis = Constant<value_ints=[3]>()
        sum = ReduceSum<keepdims=1>(w, axis)
        zero = Constant<value_float=0.0>()
        one = Constant<value_float=1.0>()
        some = Greater(sum, zero)
        safe = Where(some, sum, one)
        n = Div(w, safe)
        r = Where(some, n, zero)
        y = MatMul(r, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k] | mask[b,1,q,k], empty row zero).V[b,h,k,e]
        -> out[b,h,q,e]
    """
    view, facts, state = step.facts.view, step.facts, step.state
    other = 1 - step.index
    axes = step.letters_of(other)
    keep = step.node.inputs[other]
    if not step.meets_key(axes) or not zero_or_one(keep, view, facts):
        return
    found = _normalised(step)
    if found is None or state.masks or state.factors or state.outer_key:
        raise step.decline("weights-mask", "the weights are masked and keep a smaller sum")
    mask = Term(cast_bits(keep, view, facts) or keep, axes, selection=True, fill=float("-inf"))
    yield replace(
        state,
        value=found.value,
        late_masks=(*state.late_masks, mask),
        nan_guard=state.nan_guard or found.guarded,
        nodes=(*state.nodes, *found.nodes),
    )


def _normalised(step: WeightsStep) -> _Normalised | None:
    view, state = step.facts.view, step.state
    masked = step.node.outputs[0]
    keys = tuple(axis for axis, letters in enumerate(state.axes) if letters == state.key)
    for ratio in view.consumers(masked):
        if ratio.op != "Div" or ratio.inputs[0] != masked:
            continue
        below = ratio.inputs[1]
        total = row_stat(below, "ReduceSum", view, step.facts)
        if total is not None:
            if (total.source, total.axes) != (masked, keys):
                return None
            return _Normalised(ratio.outputs[0], (*total.nodes, ratio), guarded=False)
        safe = view.producer(below)
        if safe is None or safe.op != "Where" or not step.facts.scalar(safe.inputs[2]):
            return None
        total = row_stat(safe.inputs[1], "ReduceSum", view, step.facts)
        if total is None or (total.source, total.axes) != (masked, keys):
            return None
        some = _is_positive(safe.inputs[0], total, step)
        readers = view.consumers(ratio.outputs[0])
        last = readers[0] if len(readers) == 1 else None
        if some is None or last is None or last.op != "Where":
            return None
        if last.inputs[:2] != [safe.inputs[0], ratio.outputs[0]] or (
            step.facts.scalar(last.inputs[2]) != 0.0
        ):
            return None
        nodes = (*total.nodes, some, safe, ratio, last)
        return _Normalised(last.outputs[0], nodes, guarded=True)
    return None


def _is_positive(condition: str, total: RowStat, step: WeightsStep) -> Node | None:
    """Return the node that tests whether a sum of weights is above zero."""
    node = step.facts.view.producer(condition)
    if node is None or node.op != "Greater" or step.facts.scalar(node.inputs[1]) != 0.0:
        return None
    tested = row_stat(node.inputs[0], "ReduceSum", step.facts.view, step.facts)
    return node if tested is not None and tested.nodes[0] is total.nodes[0] else None
