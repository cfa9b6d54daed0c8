"""Prove that a boolean mask is a band over query and key positions.

A mask is split into conjuncts; a conjunct that is a comparison of index arithmetic, a triangle, or
a constant with that content becomes ``low <= k - q <= high`` and needs no tensor.  The rest stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from omfuse.graph.dims import Size
from omfuse.graph.facts import Facts
from omfuse.graph.view import Node
from omfuse.match.affine import Affine, combine, evaluate, slice_starts
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters
from omfuse.match.rules import broadcast_axes

MAX_CONJUNCTS = 32


@dataclass(frozen=True)
class Conjunct:
    """One boolean value with letters; it keeps a key where it is true (false if ``negate``)."""

    value: str
    axes: Axes
    negate: bool = False


@dataclass(frozen=True)
class Band:
    """Keys with ``low <= k - q <= high``; None is open."""

    low: Size | None = None
    high: Size | None = None


def conjuncts(
    value: str, axes: Axes, negate: bool, letters: Letters, facts: Facts
) -> list[Conjunct]:
    """Split a mask at And (and at Or below Not), looking through operators that move axes."""
    waiting = [Conjunct(value, axes, negate)]
    found: list[Conjunct] = []
    while waiting:
        item = waiting.pop()
        parts = _parts(item, letters, facts) if len(found) + len(waiting) < MAX_CONJUNCTS else None
        if parts is None:
            found.append(item)
        else:
            waiting.extend(parts)
    return found


def _parts(item: Conjunct, letters: Letters, facts: Facts) -> list[Conjunct] | None:
    node = facts.view.producer(item.value)
    if node is None:
        return None
    if node.op == "Not":
        return [Conjunct(node.inputs[0], item.axes, not item.negate)]
    if node.op == ("Or" if item.negate else "And"):
        names = node.inputs[:2]
    elif node.op in ("Identity", "Expand") or (
        node.op == "Cast" and facts.dtype(node.inputs[0]) == 9
    ):
        names = node.inputs[:1]
    elif node.op in ("Unsqueeze", "Squeeze", "Reshape"):
        return _moved(item, node, letters, facts)
    else:
        return None
    parts = []
    for name in names:
        shape = facts.shape(name)
        if shape is None or len(shape) > len(item.axes):
            return None
        parts.append(Conjunct(name, broadcast_axes(shape, item.axes, letters), item.negate))
    return parts


def _moved(item: Conjunct, node: Node, letters: Letters, facts: Facts) -> list[Conjunct] | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    try:
        after, axes = letters.align(item.axes, shape)
    except Declined:
        return None
    return [Conjunct(node.inputs[0], axes, item.negate)] if after.splits == letters.splits else None


def band_of(item: Conjunct, query: Axis, key: Axis, letters: Letters, facts: Facts) -> Band | None:
    """Return the band that a conjunct proves, or None."""
    axes = letters.resolve_all(item.axes)
    places = {axis: len(axes) - 1 - position for position, axis in enumerate(axes) if axis}
    if not set(places) <= {query, key} or query not in places or key not in places:
        return None
    found = _band(item.value, places[query], places[key], facts)
    return found if found is None or not item.negate else _negated(found)


def _negated(band: Band) -> Band | None:
    if band.low is None and band.high is not None:
        return Band(low=band.high + 1)
    if band.high is None and band.low is not None:
        return Band(high=band.low - 1)
    return None


def _band(value: str, query: int, key: int, facts: Facts) -> Band | None:
    constant = facts.const(value)
    if constant is not None:
        return _from_array(constant, query, key)
    node = facts.view.producer(value)
    if node is None:
        return None
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, query, key, facts)


def _from_array(
    array: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], query: int, key: int
) -> Band | None:
    if array.dtype != np.bool_ or array.ndim <= max(query, key):
        return None
    if any(n != 1 for a, n in enumerate(reversed(array.shape)) if a not in (query, key)):
        return None
    plane = np.moveaxis(array, (-1 - query, -1 - key), (-2, -1)).reshape(
        array.shape[-1 - query], array.shape[-1 - key]
    )
    distance = np.arange(plane.shape[1])[None, :] - np.arange(plane.shape[0])[:, None]
    if not plane.any() or plane.all():
        return None
    low, high = int(distance[plane].min()), int(distance[plane].max())
    if not np.array_equal(plane, (distance >= low) & (distance <= high)):
        return None
    return Band(None if low == distance.min() else low, None if high == distance.max() else high)


def _compare(strict: bool, swapped: bool) -> Callable[[Node, int, int, Facts], Band | None]:
    """Read ``a < b`` (or <=, or with swapped sides) as ``b - a - strict >= 0``."""

    def rule(node: Node, query: int, key: int, facts: Facts) -> Band | None:
        a, b = (evaluate(x, facts) for x in node.inputs[:2])
        if a is None or b is None:
            return None
        if swapped:
            a, b = b, a
        return _half_plane(combine(b, a, -1), int(strict), query, key)

    return rule


def _half_plane(gap: Affine, strict: int, query: int, key: int) -> Band | None:
    factors = dict(gap.factors)
    slope = (factors.pop(query, 0), factors.pop(key, 0))
    if factors:
        return None
    if slope == (1, -1):  # q - k + c - strict >= 0
        return Band(high=gap.constant - strict)
    if slope == (-1, 1):  # k - q + c - strict >= 0
        return Band(low=strict - gap.constant)
    return None


def _slice(node: Node, query: int, key: int, facts: Facts) -> Band | None:
    inner = _band(node.inputs[0], query, key, facts)
    starts = slice_starts(node, facts)
    if inner is None or starts is None:
        return None
    shift = starts.get(query, 0) - starts.get(key, 0)
    return Band(
        None if inner.low is None else inner.low + shift,
        None if inner.high is None else inner.high + shift,
    )


def _trilu(node: Node, query: int, key: int, facts: Facts) -> Band | None:
    """Read a triangle of an all-true matrix; it lies in the last two axes."""
    if (query, key) != (1, 0) or facts.scalar(node.inputs[0]) != 1.0:
        return None
    has_k = len(node.inputs) > 1 and node.inputs[1]
    content = facts.content(node.inputs[1]) if has_k else None
    if has_k and content is None:
        return None
    diagonal = content.item() if content is not None else 0
    return Band(low=diagonal) if node.attrs.get("upper", 1) else Band(high=diagonal)


_RULES: dict[str, Callable[[Node, int, int, Facts], Band | None]] = {
    "Less": _compare(strict=True, swapped=False),
    "LessOrEqual": _compare(strict=False, swapped=False),
    "Greater": _compare(strict=True, swapped=True),
    "GreaterOrEqual": _compare(strict=False, swapped=True),
    "Slice": _slice,
    "Trilu": _trilu,
}
