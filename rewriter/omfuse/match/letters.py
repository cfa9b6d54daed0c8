"""Index letters: which index each axis of a tensor runs over.

An *atom* is one index with a size.  An axis is a row-major product of atoms; ``()`` is an axis of
size one, which is how broadcasting shows.  Reshape, transpose and expand only move atoms about
(and split them), so letters carried through a graph prove which axes two tensors share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from omfuse.graph.dims import Size, exact_quotient, product
from omfuse.match.declined import Declined

Axis = tuple[int, ...]
Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Letters:
    """Sizes of atoms, and which atoms have been split into two; never changed in place."""

    sizes: dict[int, Size] = field(default_factory=dict)
    splits: dict[int, tuple[int, int]] = field(default_factory=dict)

    def fresh(self, size: Size) -> tuple[Letters, Axis]:
        """Add an atom of ``size``; an axis of size one needs none.

        Raises:
            Declined: ``empty`` for an axis of size zero.
        """
        if size == 0:
            raise Declined("empty", "an axis has size zero", attention=False)
        if size == 1:
            return self, ()
        atom = len(self.sizes)
        return Letters({**self.sizes, atom: size}, self.splits), (atom,)

    def single(self) -> tuple[Letters, Axis]:
        """Add an atom of size one, for a softmax over a single key."""
        atom = len(self.sizes)
        return Letters({**self.sizes, atom: 1}, self.splits), (atom,)

    def fresh_axes(self, shape: Iterable[Size]) -> tuple[Letters, Axes]:
        """Add one atom for each axis of ``shape``."""
        letters, axes = self, []
        for size in shape:
            letters, axis = letters.fresh(size)
            axes.append(axis)
        return letters, tuple(axes)

    def resolve(self, axis: Axis) -> Axis:
        """Replace atoms that were split later by their parts."""
        result: list[int] = []
        for atom in axis:
            if atom in self.splits:
                result.extend(self.resolve(self.splits[atom]))
            else:
                result.append(atom)
        return tuple(result)

    def resolve_all(self, axes: Axes) -> Axes:
        """Resolve every axis."""
        return tuple(self.resolve(axis) for axis in axes)

    def size(self, axis: Axis) -> Size:
        """Return the number of positions of an axis."""
        return product([self.sizes[atom] for atom in self.resolve(axis)])

    def _split(self, atom: int, outer: Size, inner: Size) -> tuple[Letters, int, int]:
        first, second = len(self.sizes), len(self.sizes) + 1
        sizes = {**self.sizes, first: outer, second: inner}
        return Letters(sizes, {**self.splits, atom: (first, second)}), first, second

    def align(self, axes: Axes, shape: tuple[Size, ...]) -> tuple[Letters, Axes]:
        """Carry the atoms of ``axes``, in row-major order, onto another shape.

        Raises:
            Declined: ``reshape`` when the two shapes share no common factors.
        """
        letters = self
        waiting = [atom for axis in letters.resolve_all(axes) for atom in axis]
        result: list[Axis] = []
        for position, size in enumerate(shape):
            need, group = size, []
            while waiting and letters.sizes[waiting[0]] == 1 and position == len(shape) - 1:
                group.append(waiting.pop(0))
            while need != 1:
                if not waiting:
                    raise _lost(shape)
                atom = waiting.pop(0)
                have = letters.sizes[atom]
                if have == 1:  # a single key met before the last axis: keep it with its neighbour
                    group.append(atom)
                    continue
                rest = exact_quotient(need, have)
                if rest is not None:
                    group.append(atom)
                    need = rest
                    continue
                inner = exact_quotient(have, need)
                if inner is None:
                    reason = f"a reshape mixes axes of sizes {have!r} and {need!r}"
                    hint = "if two inputs share a size, give it one name in the model"
                    raise Declined("reshape", reason, _hint((have, need), hint))
                letters, first, second = letters._split(atom, need, inner)
                group.append(first)
                waiting.insert(0, second)
                need = 1
            result.append(tuple(group))
        if waiting:
            raise _lost(shape)
        return letters, tuple(result)


def _lost(shape: Iterable[Size]) -> Declined:
    sizes = list(shape)
    return Declined("reshape", f"cannot follow the axes into shape {sizes}", _hint(sizes))


def _hint(sizes: Iterable[Size], otherwise: str = "") -> str:
    if any("~" in repr(size) for size in sizes):
        return "~ marks a size that is not known; export with named or fixed dimensions"
    return otherwise
