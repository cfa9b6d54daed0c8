"""Output shapes of operators that move, cut, join and pick along axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omfuse.graph.dims import (
    Dim,
    Size,
    broadcast,
    divide,
    exact_quotient,
    is_negative,
    product,
    symbol,
    unknown,
)
from omfuse.graph.shape_rules import Rule, Shape, axes_of, shape_of, sizes_of

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node

_FAR = 10**9  # exporters write the end of an axis as a number beyond any


def _fresh(node: Node, axis: int) -> Dim:
    return unknown(f"{node.outputs[0]}.{axis}")


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


def _unsqueeze(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = list(shape_of(facts, node, 0)), axes_of(facts, node) or []
    rank = len(shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return tuple(shape)


def _squeeze(facts: Facts, node: Node, _index: int) -> Shape:
    shape, axes = shape_of(facts, node, 0), axes_of(facts, node)
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
        starts, ends = sizes_of(facts, node, 1, "starts"), sizes_of(facts, node, 2, "ends")
    except KeyError:
        cut = _slice_axes(facts, node, len(shape))
        return tuple(_fresh(node, i) if i in cut else size for i, size in enumerate(shape))
    has_axes = "axes" in node.attrs or (len(node.inputs) > 3 and node.inputs[3])
    axes = sizes_of(facts, node, 3, "axes") if has_axes else list(range(len(starts)))
    steps = sizes_of(facts, node, 4) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(axes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = _slice_length(shape[axis], start, end, step, _fresh(node, axis % len(shape)))
    return tuple(shape)


def _slice_axes(facts: Facts, node: Node, rank: int) -> set[int]:
    if len(node.inputs) > 3 and node.inputs[3]:
        content = facts.content(node.inputs[3])
        if content is not None:
            return {int(axis) % rank for axis in content.reshape(-1).tolist()}
    return set(range(rank))


def _slice_length(size: Size, start: Any, end: Any, step: Any, fresh: Dim) -> Size:
    if step != 1:
        if isinstance(size, int) and all(isinstance(x, int) for x in (start, end, step)):
            return len(range(*slice(start, end, step).indices(size)))
        return fresh
    if size == 1 and start == 0 and isinstance(end, Dim) and not is_negative(end):
        return 1  # a table of one row, cut to a length of one or more
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, end).indices(size)))
    if (isinstance(end, int) and end >= _FAR) or end == size:
        end = size
    elif is_negative(end):
        end = size + end
    elif isinstance(end, int) and isinstance(size, Dim):
        return _at_most(size, end) if start == 0 else fresh
    if is_negative(start):
        if end == size and isinstance(start, int) and start != -1:
            return _at_most(size, -start)
        start = size + start
    if end == size or isinstance(end, Dim):
        length: Size = end - start  # exporters slice with sizes that fit
        return length
    return fresh


def _at_most(size: Size, limit: int) -> Size:
    if limit == 1:
        return 1  # no axis is empty
    return symbol(f"min({size!r},{limit})")


def _expand(facts: Facts, node: Node, _index: int) -> Shape:
    shape = shape_of(facts, node, 0)
    target = sizes_of(facts, node, 1)
    rank = max(len(shape), len(target))
    padded = [1] * (rank - len(shape)) + list(shape)
    wanted = [1] * (rank - len(target)) + target
    return tuple(broadcast(w, s) if w != 1 else s for s, w in zip(padded, wanted, strict=True))


def _tile(facts: Facts, node: Node, _index: int) -> Shape:
    repeats = sizes_of(facts, node, 1)
    return tuple(s * r for s, r in zip(shape_of(facts, node, 0), repeats, strict=True))


def _gather(facts: Facts, node: Node, _index: int) -> Shape:
    data, index = shape_of(facts, node, 0), shape_of(facts, node, 1)
    axis = node.attrs.get("axis", 0) % len(data)
    return (*data[:axis], *index, *data[axis + 1 :])


def _split(facts: Facts, node: Node, index: int) -> Shape:
    shape = list(shape_of(facts, node, 0))
    axis = node.attrs.get("axis", 0) % len(shape)
    if "split" in node.attrs or (len(node.inputs) > 1 and node.inputs[1]):
        shape[axis] = sizes_of(facts, node, 1, "split")[index]
        return tuple(shape)
    part = exact_quotient(shape[axis], len(node.outputs))
    if part is None:
        raise ValueError
    shape[axis] = part
    return tuple(shape)


def _pad(facts: Facts, node: Node, _index: int) -> Shape:
    shape, pads = list(shape_of(facts, node, 0)), sizes_of(facts, node, 1, "pads")
    if len(node.inputs) > 3 and node.inputs[3]:
        axes = [int(axis) % len(shape) for axis in sizes_of(facts, node, 3)]
    else:
        axes = list(range(len(shape)))
    for position, axis in enumerate(axes):
        shape[axis] = shape[axis] + pads[position] + pads[position + len(axes)]
    return tuple(shape)


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


RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "Split": _split,
    "Pad": _pad,
    "GatherElements": _like_indices,
    "GatherND": _gather_nd,
    "Flatten": _flatten,
}
