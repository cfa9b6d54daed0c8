"""Emit the few nodes around a FlashAttention node: reshape, transpose, expand, masks.

Every emitted value keeps its index letters, so that a shape is written as constants, copied
dimensions (0), one inferred dimension (-1), or, only where that cannot express it, computed from
the shapes of values that are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters

Tensor = tuple[str, Axes]


class Emitter:
    """Collects nodes and initializers for one block; ``cost`` counts the work they add."""

    def __init__(self, prefix: str, letters: Letters) -> None:
        self.prefix = prefix
        self.letters = letters
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.cost = 0
        self._sources: dict[Axis, tuple[str, int]] = {}
        self._count = 0
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._known_sizes: dict[Axis, str] = {}

    def fresh(self, role: str) -> str:
        """Return a new value name."""
        self._count += 1
        return f"{self.prefix}/{role}_{self._count}"

    def add(self, op: str, inputs: Sequence[str], role: str, **attributes: Any) -> str:
        """Append a node with one output and return the name of that output."""
        output = self.fresh(role)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: NDArray[Any], role: str) -> str:
        """Return the name of an initializer with this content."""
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            name = self.fresh(role)
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def know(self, tensor: Tensor) -> None:
        """Make the axes of a live value available for run-time shapes."""
        value, axes = tensor
        for index, axis in enumerate(self.letters.resolve_all(axes)):
            self._sources.setdefault(axis, (value, index))

    def _run_time_size(self, axis: Axis) -> str:
        """Return a one-element int64 value with the size of ``axis``."""
        axis = self.letters.resolve(axis)
        size = self.letters.size(axis)
        if isinstance(size, int):
            return self.constant(np.array([size], dtype=np.int64), "size")
        if axis in self._known_sizes:
            return self._known_sizes[axis]
        if axis in self._sources:
            value, index = self._sources[axis]
            shape = self.add("Shape", [value], "shape")
            where = self.constant(np.array([index], dtype=np.int64), "axis")
            result = self.add("Gather", [shape, where], "size", axis=0)
        elif len(axis) > 1:
            result = self._run_time_size(axis[:1])
            for atom in axis[1:]:
                result = self.add("Mul", [result, self._run_time_size((atom,))], "size")
        else:
            raise Declined("dynamic-shape", f"the size {size!r} cannot be computed here")
        self._known_sizes[axis] = result
        return result

    def run_time_shape(self, axes: Axes) -> str:
        """Return an int64 vector with the sizes of ``axes``."""
        sizes = [self.letters.size(axis) for axis in axes]
        if all(isinstance(size, int) for size in sizes):
            return self.constant(np.array(sizes, dtype=np.int64), "shape")
        parts = [self._run_time_size(axis) for axis in axes]
        return self.add("Concat", parts, "shape", axis=0)

    def reshape(self, tensor: Tensor, target: Axes) -> Tensor:
        """Reshape to other axes with the same atoms in the same order."""
        value, axes = tensor[0], self.letters.resolve_all(tensor[1])
        target = self.letters.resolve_all(target)
        if axes == target:
            return value, target
        numbers: list[int] = []
        for index, axis in enumerate(target):
            size = self.letters.size(axis)
            if isinstance(size, int):
                numbers.append(size)
            elif index < len(axes) and axes[index] == axis:
                numbers.append(0)
            else:
                numbers.append(-1)
        if numbers.count(-1) > 1:
            shape = self.run_time_shape(target)
        else:
            shape = self.constant(np.array(numbers, dtype=np.int64), "shape")
        self.cost += 1
        return self.add("Reshape", [value, shape], "reshape"), target

    def transpose(self, tensor: Tensor, perm: Sequence[int]) -> Tensor:
        """Permute axes."""
        value, axes = tensor
        if list(perm) == list(range(len(axes))):
            return tensor
        self.cost += 3
        result = self.add("Transpose", [value], "transpose", perm=list(perm))
        return result, tuple(axes[index] for index in perm)

    def expand(self, tensor: Tensor, target: Axes) -> Tensor:
        """Broadcast axes of size one to the sizes of ``target``."""
        self.cost += 5
        shape = self.run_time_shape(target)
        return self.add("Expand", [tensor[0], shape], "expand"), target

    def arrange(self, tensor: Tensor, target: Axes, *, broadcast: bool) -> Tensor:
        """Bring a value to the axes of ``target``.

        Args:
            tensor: the value and its letters; atoms of ``target`` may be missing.
            target: wanted axes.
            broadcast: leave an axis whose atoms are all missing at size one instead of expanding.

        Raises:
            Declined: ``letters`` when the value has an index that ``target`` lacks.
        """
        value, axes = tensor[0], self.letters.resolve_all(tensor[1])
        target = self.letters.resolve_all(target)
        have = [atom for axis in axes for atom in axis]
        if not set(have) <= {atom for axis in target for atom in axis}:
            raise Declined("letters", f"{value} has an index that its place has not")
        present = tuple(tuple(a for a in axis if a in have) for axis in target)
        result = self._reorder((value, axes), present)
        missing = [
            axis != part and (bool(part) or not broadcast)
            for axis, part in zip(target, present, strict=True)
        ]
        if not any(missing):
            return self.reshape(result, present)
        single: list[Axis] = []
        wide: list[Axis] = []
        for axis, part, lacks in zip(target, present, missing, strict=True):
            atoms = [(atom,) for atom in axis] if lacks else [part]
            wide.extend(atoms)
            single.extend(a if set(a) <= set(have) else () for a in atoms)
        result = self.reshape(result, tuple(single))
        result = self.expand(result, tuple(wide))
        merged = tuple(
            axis if lacks else part
            for axis, part, lacks in zip(target, present, missing, strict=True)
        )
        return self.reshape(result, merged)

    def _reorder(self, tensor: Tensor, target: Axes) -> Tensor:
        """Permute (splitting axes where needed) so that atoms stand in the order of target."""
        value, axes = tensor
        have = [atom for axis in axes for atom in axis]
        want = [atom for axis in target for atom in axis]
        if have == want:
            return tensor
        filled = [axis for axis in target if axis]
        if len(axes) == len(target) and all(axis in axes for axis in filled):
            perm: list[int] = []
            spare = [index for index, axis in enumerate(axes) if not axis]
            for axis in target:
                perm.append(axes.index(axis) if axis else spare.pop(0))
            return self.transpose(tensor, perm)
        pieces = _pieces(have, want, axes)
        result = self.reshape((value, axes), pieces)
        ordered = sorted(range(len(pieces)), key=lambda index: want.index(pieces[index][0]))
        return self.transpose(result, ordered)


def _pieces(have: list[int], want: list[int], axes: Axes) -> Axes:
    """Cut ``have`` into the longest runs that also stand together in ``want`` and one axis."""
    bounds = set()
    position = 0
    for axis in axes:
        position += len(axis)
        bounds.add(position)
    pieces: list[Axis] = []
    current: list[int] = []
    for index, atom in enumerate(have):
        follows = current and want.index(atom) == want.index(current[-1]) + 1
        if current and (not follows or index in bounds):
            pieces.append(tuple(current))
            current = []
        current.append(atom)
    if current:
        pieces.append(tuple(current))
    return tuple(pieces)
