"""Turn the additive and boolean terms of a block into at most one bias and one mask.

Exactness rules (fully masked rows decide):

* A selection with a fill of -inf, or so large that it absorbs any score, equals adding
  ``Where(keep, 0, fill)``; so it may become a bias whenever that is needed.
* Selections stay boolean while nothing is added below them and their fills agree; a row without
  keys is then NaN (fill -inf) or uniform (finite fill), or zero under a NaN guard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto

from omfuse.fuse.emit import Emitter, Tensor
from omfuse.fuse.positions import Positions, split_masks
from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes
from omfuse.match.state import Term, Weights
from omfuse.match.values import zero_or_huge

ABSORBS = -1e30  # adding this to a score of ordinary size gives exactly this, in fp32


@dataclass(frozen=True)
class Masking:
    """Names of the bias and mask inputs ("" when absent) and the row policy."""

    bias: str = ""
    mask: str = ""
    masked_rows: str = "nan"
    positions: Positions = field(default_factory=Positions)


def as_selection(term: Term, view: GraphView, facts: Facts) -> Term | None:
    """Read an added ``Where(condition, 0, -large)`` as a selection, if it is one."""
    if term.selection or term.factor != 1.0 or term.factors:
        return None
    node = view.producer(term.value)
    if node is None or node.op != "Where":
        return None
    first, second = facts.scalar(node.inputs[1]), facts.scalar(node.inputs[2])
    shape = facts.shape(node.inputs[0])
    if first is None or second is None or shape is None or len(shape) != len(term.axes):
        return None
    if any((size == 1) != (axis == ()) for size, axis in zip(shape, term.axes, strict=True)):
        return None
    if first == 0.0 and second <= ABSORBS:
        return Term(node.inputs[0], term.axes, selection=True, fill=second)
    if second == 0.0 and first <= ABSORBS:
        return Term(node.inputs[0], term.axes, selection=True, negate=True, fill=first)
    return None


def lower_terms(
    terms: tuple[Term, ...],
    weights: Weights,
    place: Axes,
    emitter: Emitter,
    view: GraphView,
    facts: Facts,
) -> Masking:
    """Emit bias and mask in the axes ``place`` (batch, head, query, key).

    Args:
        terms: from the softmax upward.
        weights: what follows the softmax: a NaN guard, a second selection.
        place: the four target axes.
        emitter: receives the nodes.
        view: the graph.
        facts: facts of the graph.

    Raises:
        Declined: ``masked-row`` when a fully masked row cannot be kept equal.
    """
    masks = [t for t in terms if t.selection]
    biases = [t for t in terms if not t.selection]
    if not masks and len(biases) == 1:
        selection = as_selection(biases[0], view, facts)
        if selection is not None:
            masks, biases = [selection], []
    order_kept = all(t.selection for t in terms[: len(masks)]) or not biases
    infinite = {math.isinf(t.fill) for t in masks}
    if masks and (len(infinite) > 1 or not order_kept):
        biases, masks = [_absorbing(terms, i, view, facts) for i in range(len(terms))][::-1], []
    policy = "nan"
    if weights.masks and not masks:
        raise Declined("weights-select", "the weights are zeroed by a mask that became a bias")
    if masks and not infinite.pop() and not weights.masks:
        policy = "uniform"
    elif weights.nan_guard:
        policy = "zero"
    positions = Positions()
    if masks:
        positions, masks = split_masks(masks, place[2], place[3], emitter.letters, facts)
    return Masking(
        _bias([*biases], place, emitter, facts),
        _mask(masks, place, emitter, facts),
        policy,
        positions,
    )


def _absorbing(terms: tuple[Term, ...], index: int, view: GraphView, facts: Facts) -> Term:
    """Return a term to be added, a selection with a fill that absorbs the score.

    A fill such as -1e4 may be lowered when it was put over the bare scores and whatever is added
    later is 0 or so large that it absorbs both fills: the order of the scores, which of them are
    exactly equal, and which weights are zero (while scores stay above -9000) do not change.
    """
    term = terms[index]
    if not term.selection or term.fill <= ABSORBS:
        return term
    later = terms[:index]
    if index + 1 < len(terms) or not all(
        t.fill <= ABSORBS
        if t.selection
        else not t.factors and zero_or_huge(t.value, view, facts, -10 * ABSORBS / abs(t.factor))
        for t in later
    ):
        raise Declined("masked-row", "a bias is added after scores were masked with a small number")
    return replace(term, fill=ABSORBS)


def _mask(masks: list[Term], place: Axes, emitter: Emitter, facts: Facts) -> str:
    combined: Tensor | None = None
    for term in masks:
        value = _as_bool(term, emitter, facts)
        if term.negate:
            value = emitter.add("Not", [value], "keep")
        tensor = emitter.arrange((value, term.axes), place, broadcast=True)
        if combined is None:
            combined = tensor
        else:
            both = emitter.add("And", [combined[0], tensor[0]], "mask")
            combined = (both, _union(combined[1], tensor[1]))
    return combined[0] if combined else ""


def _as_bool(term: Term, emitter: Emitter, facts: Facts) -> str:
    if facts.dtype(term.value) == TensorProto.BOOL:
        return term.value
    return emitter.add("Cast", [term.value], "keep", to=int(TensorProto.BOOL))


def _union(a: Axes, b: Axes) -> Axes:
    return tuple(x if len(x) >= len(y) else y for x, y in zip(a, b, strict=True))


def _bias(biases: list[Term], place: Axes, emitter: Emitter, facts: Facts) -> str:
    dtypes = {_bias_dtype(term, facts) for term in biases}
    target = dtypes.pop() if len(dtypes) == 1 else TensorProto.FLOAT
    combined: Tensor | None = None
    for term in biases:
        tensor = _one_bias(term, target, emitter, facts)
        tensor = emitter.arrange(tensor, place, broadcast=True)
        if combined is None:
            combined = tensor
        else:
            total = emitter.add("Add", [combined[0], tensor[0]], "bias")
            combined = (total, _union(combined[1], tensor[1]))
    return combined[0] if combined else ""


def _bias_dtype(term: Term, facts: Facts) -> int:
    if term.selection:
        return int(TensorProto.FLOAT)
    return facts.dtype(term.value) or int(TensorProto.FLOAT)


def _one_bias(term: Term, target: int, emitter: Emitter, facts: Facts) -> Tensor:
    if term.selection:
        zero = emitter.constant(np.array(0.0, dtype=np.float32), "zero")
        fill = np.array(max(term.fill, float(np.finfo(np.float32).min)), dtype=np.float32)
        if math.isinf(term.fill):
            fill = np.array(-np.inf, dtype=np.float32)
        low = emitter.constant(fill, "fill")
        branches = [low, zero] if term.negate else [zero, low]
        value = emitter.add("Where", [_as_bool(term, emitter, facts), *branches], "bias")
        dtype = int(TensorProto.FLOAT)
    else:
        value, dtype = term.value, _bias_dtype(term, facts)
    if dtype != target:
        value = emitter.add("Cast", [value], "bias", to=target)
    tensor: Tensor = (value, term.axes)
    numpy_dtype = {1: np.float32, 10: np.float16, 11: np.float64}.get(target)
    if term.factor != 1.0 or term.factors:
        if numpy_dtype is None:
            raise Declined("dtype", "a scaled bias of this dtype is not supported")
        for factor in term.factors:
            op = "Div" if factor.divide else "Mul"
            wide = emitter.add(op, [tensor[0], factor.value], "bias")
            pad: Axes = ((),) * (len(factor.axes) - len(tensor[1]))
            mine = (*pad, *tensor[1])
            pad = ((),) * (len(mine) - len(factor.axes))
            tensor = (wide, _union(mine, (*pad, *factor.axes)))
        if term.factor != 1.0:
            number = emitter.constant(np.array(term.factor, dtype=numpy_dtype), "factor")
            tensor = (emitter.add("Mul", [tensor[0], number], "bias"), tensor[1])
    return tensor
